"""The official client cases, strictly: an error where none was expected fails, and nothing is passed unseen."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from conformance.adapter import FEATURES
from conformance.adapter_process import AdapterError
from conformance.cases import DEFECTIVE, FOREIGN_FEATURES, MARKED_SKIPPED, MISSING, Case, find_cases
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


def failure_of(case: Case, adapter: AdapterProcess, server: ReferenceServer) -> str | None:
    """Why a case is not passed."""
    try:
        Interpreter(adapter, server).run(case)
    except (CaseError, AdapterError) as error:
        return str(error)
    return None


@each(SOUND)
def test_an_official_case_passes(adapter: AdapterProcess, reference_server: ReferenceServer, case: Case) -> None:
    failure = failure_of(case, adapter, reference_server)
    if failure is not None:
        pytest.fail(f"{case.group}/{case.id}: {failure}", pytrace=False)


@each(UNSOUND)
def test_a_defective_case_fails_for_its_defect(
    adapter: AdapterProcess, reference_server: ReferenceServer, case: Case
) -> None:
    failure = failure_of(case, adapter, reference_server)
    assert failure is not None, DEFECTIVE[case.id].reason
    assert DEFECTIVE[case.id].complaint in failure, DEFECTIVE[case.id].reason


def test_every_case_is_accounted_for() -> None:
    if not CASES:
        pytest.skip(MISSING)
    assert len(CASES) == len({case.id for case in CASES}) == 269
    assert Counter(feature for case in CASES for feature in case.missing) == FOREIGN_FEATURES
    assert {case.id for case in CASES if case.skip} == MARKED_SKIPPED
    assert {case.id for case in UNSOUND} == set(DEFECTIVE)
    assert len(APPLYING) == 261
    assert len(SOUND) == 258


def test_the_adapter_announces_the_features_that_were_counted(adapter: AdapterProcess) -> None:
    assert adapter.introduction["features"] == FEATURES
