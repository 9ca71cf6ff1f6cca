"""The adapter and the official line protocol, command by command, where the official cases do not look."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import durable_streams
from conformance.failures import failure_of

if TYPE_CHECKING:
    from conformance.adapter_process import AdapterProcess

HERE = Path(__file__).parent
Result = dict[str, Any]


@pytest.fixture
def path() -> str:
    """A path where no stream is yet."""
    return f"/v1/stream/adapter-{uuid.uuid4()}"


def run(front: str, lines: bytes) -> subprocess.CompletedProcess[bytes]:
    """The executable, from the first line to the last."""
    return subprocess.run(
        [HERE / f"run-{front}"],
        input=lines,
        capture_output=True,
        timeout=20,
        check=True,
        env={**os.environ, "PYTHON": sys.executable},
    )


class TestTheLineProtocol:
    def test_a_command_that_does_not_exist_is_not_supported(self, adapter: AdapterProcess) -> None:
        result = adapter.call({"type": "fork"})
        assert (result["type"], result["errorCode"], result["commandType"]) == ("error", "NOT_SUPPORTED", "fork")

    def test_a_command_without_its_fields_is_an_internal_error_and_not_the_end(
        self, adapter: AdapterProcess
    ) -> None:
        assert adapter.call({"type": "head"})["errorCode"] == "INTERNAL_ERROR"
        assert adapter.call({"type": "clear-dynamic"}) == {"type": "clear-dynamic", "success": True}

    @pytest.mark.parametrize("front", ["sync", "async"])
    def test_it_is_one_executable_that_ends_with_shutdown(self, front: str) -> None:
        lines = b'{"type": "init", "serverUrl": "http://127.0.0.1:9", "timeoutMs": 1000}\n\n{"type": "shutdown"}\n'
        done = run(front, lines)
        assert [b'"success": true' in line for line in done.stdout.splitlines()] == [True, True]
        assert done.stderr == b""

    @pytest.mark.parametrize("front", ["sync", "async"])
    def test_it_ends_with_its_input(self, front: str) -> None:
        done = run(front, b"")
        assert (done.stdout, done.stderr) == (b"", b"")


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (durable_streams.FetchError("refused"), "NETWORK_ERROR"),
            (durable_streams.FetchError("failed", status=502), "UNEXPECTED_STATUS"),
            (durable_streams.RetentionGoneError("gone", status=410), "UNEXPECTED_STATUS"),
            (durable_streams.StreamClosedError("closed", status=409), "STREAM_CLOSED"),
            (durable_streams.InvalidOffsetError("what?", status=400), "INVALID_OFFSET"),
        ],
    )
    def test_each_has_the_protocol_s_word(self, error: durable_streams.DurableStreamError, code: str) -> None:
        assert failure_of("read", error) == {
            "type": "error",
            "success": False,
            "commandType": "read",
            "errorCode": code,
            "status": error.status,
            "message": str(error),
        }


class TestStreams:
    def test_a_stream_that_exists_otherwise_is_a_conflict(self, adapter: AdapterProcess, path: str) -> None:
        create = {"type": "create", "path": path}
        assert adapter.call({**create, "contentType": "text/plain"})["status"] == 201
        assert adapter.call({**create, "contentType": "text/plain"})["status"] == 200
        refused = adapter.call({**create, "contentType": "application/json"})
        assert (refused["errorCode"], refused["status"]) == ("CONFLICT", 409)

    def test_binary_data_comes_back_as_base64(self, adapter: AdapterProcess, path: str) -> None:
        adapter.call({"type": "create", "path": path})
        adapter.call({"type": "append", "path": path, "data": "AP8=", "binary": True})
        (chunk,) = adapter.call({"type": "read", "path": path})["chunks"]
        assert (chunk["data"], chunk["binary"]) == ("AP8=", True)

    def test_a_quiet_live_read_ends_when_its_time_is_up(self, adapter: AdapterProcess, path: str) -> None:
        adapter.call({"type": "create", "path": path})
        read = adapter.call({"type": "read", "path": path, "live": "long-poll", "timeoutMs": 1})
        assert (read["success"], read["chunks"], read["upToDate"]) == (True, [], True)

    def test_dynamic_values_are_those_that_were_sent_until_they_are_cleared(
        self, adapter: AdapterProcess, path: str
    ) -> None:
        adapter.call({"type": "create", "path": path})
        adapter.call({"type": "set-dynamic-header", "name": "X-Now", "valueType": "timestamp"})
        adapter.call({"type": "set-dynamic-param", "name": "n", "valueType": "counter"})
        head = {"type": "head", "path": path}
        first, second = adapter.call(head), adapter.call(head)
        assert first["headersSent"]["X-Now"].isdigit()
        assert (first["paramsSent"], second["paramsSent"]) == ({"n": "1"}, {"n": "2"})
        adapter.call({"type": "clear-dynamic"})
        assert adapter.call(head)["paramsSent"] == {}
        unknown = adapter.call({"type": "set-dynamic-header", "name": "X", "valueType": "dice"})
        assert unknown["errorCode"] == "NOT_SUPPORTED"


class TestProducers:
    def test_a_fenced_one_says_so(self, adapter: AdapterProcess, path: str) -> None:
        adapter.call({"type": "create", "path": path, "contentType": "text/plain"})
        append = {"type": "idempotent-append", "path": path, "producerId": "p", "data": "x"}
        assert adapter.call({**append, "epoch": 1})["status"] == 200
        fenced = adapter.call({**append, "epoch": 0})
        assert (fenced["errorCode"], fenced["status"]) == ("UNEXPECTED_STATUS", 403)
        again = adapter.call({**append, "epoch": 1, "data": "y"})
        assert (again["success"], again["duplicate"]) == (True, False)

    def test_what_this_client_has_not_is_not_validated(self, adapter: AdapterProcess) -> None:
        for target in ({"target": "retry-options"}, {"target": "idempotent-producer", "maxBatchItems": 0}):
            assert adapter.call({"type": "validate", "target": target})["errorCode"] == "NOT_SUPPORTED"


class TestBenchmarks:
    def measure(self, adapter: AdapterProcess, **operation: object) -> Result:
        result = adapter.call({"type": "benchmark", "iterationId": "i", "operation": operation})
        assert (result["success"], result["iterationId"]) == (True, "i"), result
        assert int(result["durationNs"]) > 0
        metrics: Result = result["metrics"]
        return metrics

    def test_single_operations_are_timed(self, adapter: AdapterProcess, path: str) -> None:
        assert self.measure(adapter, op="create", path=path) == {}
        assert self.measure(adapter, op="append", path=path, size=100) == {"bytesTransferred": 100}
        assert self.measure(adapter, op="read", path=path) == {"bytesTransferred": 100}

    @pytest.mark.parametrize("content_type", [None, "application/json"])
    def test_a_roundtrip_is_what_was_written_and_read(
        self, adapter: AdapterProcess, path: str, content_type: str | None
    ) -> None:
        metrics = self.measure(adapter, op="roundtrip", path=path, size=50, contentType=content_type)
        assert metrics == {"bytesTransferred": 100}

    def test_throughput_counts_messages(self, adapter: AdapterProcess, path: str) -> None:
        self.measure(adapter, op="create", path=path, contentType="application/json")
        written = self.measure(adapter, op="throughput_append", path=path, count=30, size=20, concurrency=3)
        read = self.measure(adapter, op="throughput_read", path=path, expectedCount=30)
        for metrics in (written, read):
            assert (metrics["messagesProcessed"], metrics["bytesTransferred"]) == (30, 600)
            assert metrics["opsPerSecond"] > 0
