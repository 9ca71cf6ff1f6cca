"""The official client cases: all of them are accounted for. `official` says who runs them."""

from __future__ import annotations

from collections import Counter

import pytest

from conformance.cases import DEFECTIVE, FOREIGN_FEATURES, MARKED_SKIPPED, MISSING
from conformance.official import APPLYING, CASES, SOUND, UNSOUND


def test_every_case_is_accounted_for() -> None:
    if not CASES:
        pytest.skip(MISSING)
    assert len(CASES) == len({case.id for case in CASES}) == 269
    assert Counter(feature for case in CASES for feature in case.missing) == FOREIGN_FEATURES
    assert {case.id for case in CASES if case.skip} == MARKED_SKIPPED
    assert {case.id for case in UNSOUND} == set(DEFECTIVE)
    assert len(APPLYING) == 261
    assert len(SOUND) == 258
