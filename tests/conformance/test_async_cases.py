"""The official client cases over the front with async."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance.official import (
    SOUND,
    UNSOUND,
    each,
    must_announce_what_was_counted,
    must_fail_for_its_defect,
    must_pass,
    over,
)

if TYPE_CHECKING:
    from conformance.adapter_process import AdapterProcess
    from conformance.cases import Case
    from harness.reference_server import ReferenceServer

pytestmark = over("async")


@each(SOUND)
def test_an_official_case_passes(adapter: AdapterProcess, reference_server: ReferenceServer, case: Case) -> None:
    must_pass(case, adapter, reference_server)


@each(UNSOUND)
def test_a_defective_case_fails_for_its_defect(
    adapter: AdapterProcess, reference_server: ReferenceServer, case: Case
) -> None:
    must_fail_for_its_defect(case, adapter, reference_server)


def test_the_adapter_announces_the_features_that_were_counted(adapter: AdapterProcess) -> None:
    must_announce_what_was_counted(adapter)
