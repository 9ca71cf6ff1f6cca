"""The official client cases and how one is judged: an error where none was expected fails, nothing unseen passes.

`test_sync_cases` and `test_async_cases` run them: a file for each front, so that two processes can share the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conformance.adapter import FEATURES
from conformance.adapter_process import AdapterError
from conformance.cases import DEFECTIVE, Case, find_cases
from conformance.interpreter import CaseError, Interpreter

if TYPE_CHECKING:
    from conformance.adapter_process import AdapterProcess
    from harness.reference_server import ReferenceServer

CASES = find_cases()
APPLYING = [case for case in CASES if not case.missing]
SOUND = [case for case in APPLYING if case.id not in DEFECTIVE]
UNSOUND = [case for case in APPLYING if case.id in DEFECTIVE]


def each(cases: list[Case]) -> pytest.MarkDecorator:
    """One test a case, or one that says why there is none."""
    return pytest.mark.parametrize(
        "case", cases or [None], ids=[case.id for case in cases] or ["no-cases"], indirect=True
    )


def over(front: str) -> pytest.MarkDecorator:
    """The adapter has this front alone."""
    return pytest.mark.parametrize("adapter", [front], indirect=True)


def must_pass(case: Case, adapter: AdapterProcess, server: ReferenceServer) -> None:
    failure = failure_of(case, adapter, server)
    if failure is not None:
        pytest.fail(f"{case.group}/{case.id}: {failure}", pytrace=False)


def must_fail_for_its_defect(case: Case, adapter: AdapterProcess, server: ReferenceServer) -> None:
    failure = failure_of(case, adapter, server)
    assert failure is not None, DEFECTIVE[case.id].reason
    assert DEFECTIVE[case.id].complaint in failure, f"{failure}: {DEFECTIVE[case.id].reason}"


def must_announce_what_was_counted(adapter: AdapterProcess) -> None:
    assert adapter.introduction["features"] == FEATURES, adapter.introduction


def failure_of(case: Case, adapter: AdapterProcess, server: ReferenceServer) -> str | None:
    """Why a case is not passed."""
    try:
        Interpreter(adapter, server).run(case)
    except (CaseError, AdapterError) as error:
        return str(error)
    return None
