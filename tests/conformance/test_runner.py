"""The runner itself can fail: each expectation has a result that it refuses, and a broken adapter is caught."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from conformance import cases
from conformance.adapter_process import AdapterError, AdapterProcess
from conformance.cases import read_cases
from conformance.expectations import _CHECKS, UnknownExpectationError, bindings, complaints
from conformance.interpreter import CaseError, Interpreter, UnknownOperationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.reference_server import ReferenceServer

Result = dict[str, Any]

READ: Result = {
    "type": "read",
    "success": True,
    "status": 200,
    "chunks": [{"data": "one "}, {"data": "dHdv", "binary": True}],
    "offset": "7",
    "upToDate": True,
    "streamClosed": False,
}
EMPTY: Result = {**READ, "chunks": []}
REFUSED: Result = {
    "type": "error",
    "success": False,
    "commandType": "read",
    "status": 404,
    "errorCode": "NOT_FOUND",
    "message": "there is no /a",
}
OTHER: Result = {**REFUSED, "status": 409, "errorCode": "CONFLICT", "message": "there is one already"}
HEAD: Result = {"type": "head", "success": True, "status": 200, "offset": "7", "contentType": "text/plain"}
SENT: Result = {"success": True, "headersSent": {"x-a": "1"}, "paramsSent": {"b": "2"}}
POSTED: Result = {
    "success": True,
    "status": 204,
    "duplicate": True,
    "producerEpoch": 1,
    "producerExpectedSeq": 2,
    "producerReceivedSeq": 3,
}
BATCH: Result = {"success": True, "results": [{"success": True}, {"success": False}]}
ALL_WELL: Result = {"success": True, "results": [{"success": True}]}
FINE: Result = {"type": "validate", "success": True}

# Each expectation with a result that it accepts and one that it refuses.
TABLE: list[tuple[str, str, Any, Result, Result]] = [
    ("read", "status", 200, READ, {**READ, "status": 204}),
    ("read", "status", 404, REFUSED, OTHER),
    ("read", "status", 404, REFUSED, READ),
    ("read", "error", True, REFUSED, READ),
    ("read", "errorCode", "NOT_FOUND", REFUSED, OTHER),
    ("read", "messageContains", ["no", "/a"], REFUSED, OTHER),
    ("validate", "errorContains", "/a", REFUSED, OTHER),
    ("validate", "valid", True, FINE, OTHER),
    ("validate", "valid", False, OTHER, FINE),
    ("idempotent-append", "success", True, FINE, OTHER),
    ("read", "data", "one two", READ, EMPTY),
    ("read", "data", "", EMPTY, READ),
    ("read", "dataContains", "two", READ, EMPTY),
    ("read", "dataContainsAll", ["one", "two"], READ, {**READ, "chunks": [{"data": "one"}]}),
    ("read", "chunkCount", 0, EMPTY, READ),
    ("read", "minChunks", 2, READ, {**READ, "chunks": [{"data": "one two"}]}),
    ("read", "upToDate", True, READ, {**READ, "upToDate": False}),
    ("read", "upToDate", True, READ, {**READ, "upToDate": 1}),
    ("await", "streamClosed", False, READ, {**READ, "streamClosed": None}),
    ("head", "hasOffset", True, HEAD, {**HEAD, "offset": ""}),
    ("head", "contentType", "text/plain", HEAD, {**HEAD, "contentType": "text/plain;charset=utf-8"}),
    ("append", "headersSent", {"X-A": "1"}, SENT, {**SENT, "headersSent": {"x-a": "2"}}),
    ("append", "headersSent", {"X-A": "1"}, SENT, FINE),
    ("append", "paramsSent", {"b": "2"}, SENT, {**SENT, "paramsSent": {}}),
    ("server-append", "duplicate", True, POSTED, {**POSTED, "duplicate": False}),
    ("server-append", "producerEpoch", 1, POSTED, {**POSTED, "producerEpoch": None}),
    ("server-append", "producerExpectedSeq", 2, POSTED, {**POSTED, "producerExpectedSeq": 0}),
    ("server-append", "producerReceivedSeq", 3, POSTED, {**POSTED, "producerReceivedSeq": 0}),
    ("append-batch", "allSucceed", True, ALL_WELL, BATCH),
    ("append-batch", "succeedIndices", [0], BATCH, {**BATCH, "results": BATCH["results"][::-1]}),
    ("append-batch", "failIndices", [1], BATCH, ALL_WELL),
    ("append", "storeOffsetAs", "o", HEAD, FINE),
    ("read", "storeDataAs", "d", READ, EMPTY),
    ("head", "storeAs", "h", HEAD, OTHER),
]


class TestExpectations:
    @pytest.mark.parametrize(("action", "name", "wanted", "good", "bad"), TABLE)
    def test_each_accepts_what_it_should_and_refuses_what_it_should_not(
        self, action: str, name: str, wanted: Any, good: Result, bad: Result
    ) -> None:
        assert complaints(action, {name: wanted}, good) == []
        assert complaints(action, {name: wanted}, bad) != []

    def test_every_one_is_in_the_table(self) -> None:
        assert {name for _, name, _, _, _ in TABLE} == set(_CHECKS)

    def test_an_error_is_wrong_where_none_was_expected(self) -> None:
        assert complaints("read", {}, REFUSED) == [
            "an error where none was expected: NOT_FOUND, status 404: there is no /a"
        ]

    def test_an_error_that_nobody_foresaw_is_wrong_whatever_was_expected(self) -> None:
        assert complaints("read", {"error": True}, {**REFUSED, "errorCode": "INTERNAL_ERROR"}) != []

    @pytest.mark.parametrize(
        "read", [{**READ, "offset": ""}, {**READ, "chunks": [{"data": ""}]}], ids=["no offset", "an empty chunk"]
    )
    def test_a_read_is_complete_without_being_asked(self, read: Result) -> None:
        assert complaints("read", {}, read) != []

    @pytest.mark.parametrize(("action", "name"), [("read", "dataIs"), ("delete", "data"), ("wait", "status")])
    def test_one_that_is_not_known_for_its_action_is_refused(self, action: str, name: str) -> None:
        with pytest.raises(UnknownExpectationError, match=name):
            complaints(action, {name: 1}, READ)

    def test_what_is_to_be_stored_is_found(self) -> None:
        expect = {"storeOffsetAs": "o", "storeDataAs": "d"}
        assert bindings(expect, READ) == {"o": "7", "d": "one two"}
        assert bindings({"storeAs": "h"}, HEAD) == {"h": HEAD}


CASE = """
id: own
name: Own
category: consumer
tests:
  - id: write-and-read
    name: Write and read
    setup:
      - action: create
        as: streamPath
        headers: {X-Trace: "1"}
    operations:
      - action: append
        path: ${streamPath}
        binaryData: "AP8="
        expect:
          storeOffsetAs: first
      - action: append
        path: ${streamPath}
        data: "b"
      - action: read
        path: ${streamPath}
        expect: {upToDate: true}
      - action: read
        path: ${streamPath}
        offset: ${first}
        expect: {data: "b"}
      - action: read
        path: ${streamPath}-missing
        expect: {status: 404, errorCode: NOT_FOUND}
    cleanup:
      - action: delete
        path: ${streamPath}
"""


def case_of(text: str, *, instead: str = "", of: str = "") -> cases.Case:
    assert of in text
    return read_cases(text.replace(of, instead) if of else text)[0]


def on_reads(change: Callable[[Result], Result]) -> Callable[[Result], Result]:
    return lambda result: change(result) if result["type"] == "read" else result


def claim_success(result: Result) -> Result:
    kind = result.get("commandType")
    return {**EMPTY, "type": kind, "offset": "7"} if not result["success"] else result


TAMPERINGS: dict[str, tuple[Callable[[Result], Result], str]] = {
    "an error for data": (
        on_reads(lambda _: {**REFUSED, "status": None, "errorCode": "NETWORK_ERROR"}),
        "an error where none was expected: NETWORK_ERROR",
    ),
    "a lost byte": (
        on_reads(lambda result: {**result, "chunks": [{"data": "AP8=", "binary": True}]}),
        "the stream has",
    ),
    "a chunk twice": (on_reads(lambda result: {**result, "chunks": result["chunks"] * 2}), "the stream has"),
    "no data": (on_reads(lambda result: {**result, "chunks": []}), "the stream has"),
    "never up to date": (on_reads(lambda result: {**result, "upToDate": False}), "upToDate"),
    "no offset": (on_reads(lambda result: {**result, "offset": None}), "without the offset"),
    "nothing ever fails": (claim_success, "a success where an error was expected"),
    "headers dropped": (lambda result: {**result, "headersSent": {}}, "headersSent"),
    "another command's result": (lambda result: {**result, "type": "head"}, "another type"),
    "a defect": (
        lambda result: {**result, "errorCode": "INTERNAL_ERROR"} if not result["success"] else result,
        "INTERNAL_ERROR",
    ),
}


class TestCases:
    def test_an_honest_adapter_passes(self, adapter: AdapterProcess, reference_server: ReferenceServer) -> None:
        Interpreter(adapter, reference_server).run(case_of(CASE))

    @pytest.mark.parametrize(("tamper", "complaint"), TAMPERINGS.values(), ids=TAMPERINGS.keys())
    def test_a_broken_adapter_does_not(
        self,
        adapter: AdapterProcess,
        reference_server: ReferenceServer,
        monkeypatch: pytest.MonkeyPatch,
        tamper: Callable[[Result], Result],
        complaint: str,
    ) -> None:
        honest = adapter.receive
        monkeypatch.setattr(adapter, "receive", lambda **options: tamper(honest(**options)))
        with pytest.raises(CaseError, match=complaint):
            Interpreter(adapter, reference_server).run(case_of(CASE))

    @pytest.mark.parametrize(
        ("of", "instead"),
        [
            ("action: delete", "action: remove"),
            ("        data:", "        live: true\n        data:"),
            ("offset: ${first}", "offset: ${second}"),
            ("        data:", "        json: {}\n        data:"),
            ('expect: {data: "b"}', "background: true\n        as: late"),
        ],
        ids=["an action", "a field", "a variable", "two payloads", "a read that nobody waits for"],
    )
    def test_what_cannot_be_understood_is_not_passed(
        self, adapter: AdapterProcess, reference_server: ReferenceServer, of: str, instead: str
    ) -> None:
        case = case_of(CASE, of=of, instead=instead)
        with pytest.raises((UnknownOperationError, CaseError, AdapterError)):
            Interpreter(adapter, reference_server).run(case)

    def test_keys_that_are_not_known_are_refused(self) -> None:
        with pytest.raises(ValueError, match="retries"):
            case_of(CASE, of="    operations:", instead="    retries: 3\n    operations:")

    def test_features_are_told_apart_from_those_that_are_missing(self) -> None:
        case = case_of(CASE, of="    setup:", instead="    requires: [long-poll, batchItems]\n    setup:")
        assert case.missing == {"batchItems"}

    def test_a_named_folder_must_exist(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(cases.VARIABLE, str(tmp_path / "gone"))
        with pytest.raises(FileNotFoundError, match="gone"):
            cases.find_cases()

    def test_without_a_folder_there_are_none(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv(cases.VARIABLE, raising=False)
        monkeypatch.setattr(cases, "BESIDE_THE_REPOSITORY", tmp_path / "gone")
        assert cases.find_cases() == ()


PRELUDE = "import sys; sys.stdin.readline(); print('{\"success\": true}', flush=True); sys.stdin.readline();"


class TestProcesses:
    @pytest.mark.parametrize(
        ("program", "complaint"),
        [
            ("print('oops')", "which is not JSON"),
            ("print('[]')", "no `success`"),
            ("sys.exit(3)", "ended without a result"),
            ("sys.stdin.readline()", "no result in time"),
        ],
    )
    def test_one_that_breaks_the_line_protocol_is_caught(
        self, tmp_path: Path, program: str, complaint: str
    ) -> None:
        process = AdapterProcess([sys.executable, "-c", PRELUDE + program], "http://unused", tmp_path / "log")
        try:
            process.ensure_running()
            with pytest.raises(AdapterError, match=complaint):
                process.call({"type": "head"}, timeout_seconds=0.2 if "readline" in program else 20)
        finally:
            process.kill()

    def test_one_that_has_ended_is_started_again(self, adapter: AdapterProcess) -> None:
        adapter.kill()
        adapter.ensure_running()
        assert adapter.introduction["success"]
        adapter.kill()  # a process started in a test ends in it

    def test_it_takes_one_command_at_a_time(self, adapter: AdapterProcess) -> None:
        adapter.send({"type": "clear-dynamic"})
        with pytest.raises(AdapterError, match="busy"):
            adapter.send({"type": "clear-dynamic"})
        assert adapter.receive()["success"]
