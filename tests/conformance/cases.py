"""The official client cases: where they are, what they ask for, and which of them no client can pass."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from conformance.adapter import FEATURES
from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping

Operation = dict[str, Any]

VARIABLE: Final = "DURABLE_STREAMS_CASES"
BESIDE_THE_REPOSITORY: Final = REPOSITORY.parent / "shared" / "conformance" / "cases"
MISSING: Final = (
    f"the official client cases are not part of this repository: set {VARIABLE} to the folder "
    "packages/client-conformance-tests/test-cases of durable-streams/durable-streams"
)

# Some files spell a feature in another way than the adapter's answer to `init` does.
_SPELLINGS: Final = {"long-poll": "longPoll"}
# Features that cases may require and that `init` has no name for.
_UNNAMED: Final = frozenset({"json"})

_FILE_KEYS: Final = frozenset({"id", "name", "description", "category", "tags", "requires", "tests"})
_CASE_KEYS: Final = frozenset(
    {
        "id",
        "name",
        "description",
        "tags",
        "requires",
        "requiredFeatures",
        "skip",
        "setup",
        "operations",
        "cleanup",
    }
)

FOREIGN_FEATURES: Final = {"retryOptions": 6, "batchItems": 2}
"""Features that only other languages' clients have, and how many cases ask for each."""

MARKED_SKIPPED: Final = frozenset({"sse-base64-data-integrity-multiline", "sse-base64-large-payload-4kb"})
"""Cases that the official runner skips for the sake of one other client. Nothing is wrong with them: they run."""


@dataclass(frozen=True)
class Defect:
    """Why a case cannot be passed, and what a correct client runs into."""

    reason: str
    complaint: str


DEFECTIVE: Final[Mapping[str, Defect]] = {
    "read-future-offset": Defect(
        "it reads from an offset that is none of this server's and expects no data; its own comment allows the "
        "server to answer 400, as PROTOCOL section 5.6 tells it to, but its expectation does not",
        "an error where none was expected: INVALID_OFFSET",
    ),
    "offset-zero-start": Defect(
        'it takes "0" for an offset; offsets are opaque (PROTOCOL section 8), and the start is "-1"',
        "an error where none was expected: INVALID_OFFSET",
    ),
    "sse-base64-empty-payload": Defect(
        "its setup appends an empty message, which servers must refuse (PROTOCOL section 5.2)",
        "an error where none was expected: INVALID_ARGUMENT",
    ),
}
"""Cases that contradict the protocol. The official runner passes them by not looking at a failed read or setup."""


@dataclass(frozen=True)
class Case:
    """One case."""

    id: str
    group: str
    requires: frozenset[str]
    skip: str | None
    setup: tuple[Operation, ...]
    operations: tuple[Operation, ...]
    cleanup: tuple[Operation, ...]

    @property
    def missing(self) -> frozenset[str]:
        """Features that it asks for and that this client does not have."""
        return self.requires - {name for name, present in FEATURES.items() if present} - _UNNAMED


def find_cases() -> tuple[Case, ...]:
    """All cases, in the files' order; none where they cannot be had."""
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else BESIDE_THE_REPOSITORY
    if not folder.is_dir():
        if named:
            raise FileNotFoundError(f"{VARIABLE} names {named!r}, which is no folder")
        return ()
    return tuple(case for path in sorted(folder.rglob("*.yaml")) for case in read_cases(path.read_text()))


def read_cases(text: str) -> list[Case]:
    """The cases of one file. A key that is not known here is an error: it may change what a case means."""
    document = yaml.safe_load(text)
    _refuse_unknown(document, _FILE_KEYS, "the file")
    cases: list[Case] = []
    for test in document["tests"]:
        _refuse_unknown(test, _CASE_KEYS, f"case {test['id']}")
        required = [
            *document.get("requires", ()),
            *test.get("requires", ()),
            *test.get("requiredFeatures", ()),
        ]
        cases.append(
            Case(
                id=test["id"],
                group=document["id"],
                requires=frozenset(_SPELLINGS.get(name, name) for name in required),
                skip=test.get("skip"),
                setup=tuple(test.get("setup", ())),
                operations=tuple(test["operations"]),
                cleanup=tuple(test.get("cleanup", ())),
            )
        )
    return cases


def _refuse_unknown(found: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    unknown = sorted(set(found) - known)
    if unknown:
        raise ValueError(f"{where} has keys that this runner does not know: {', '.join(unknown)}")
