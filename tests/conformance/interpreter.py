"""Performs the operations of one case: through the adapter, or directly at the reference server."""

from __future__ import annotations

import json
import re
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from conformance.adapter_process import COMMAND_SECONDS
from conformance.expectations import bindings, complaints, expects_error
from conformance.ledger import Ledger
from harness import plain_http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import httpx

    from conformance.adapter_process import AdapterProcess
    from conformance.cases import Case, Operation
    from harness.reference_server import ReferenceServer

Result = dict[str, Any]

_STREAMS: Final = "/v1/stream/"
_VARIABLE: Final = re.compile(r"\$\{([\w.]+)\}")
_DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"
_FAULTS: Final = frozenset(
    {
        "status",
        "count",
        "retryAfter",
        "delayMs",
        "jitterMs",
        "dropConnection",
        "truncateBodyBytes",
        "corruptBody",
        "method",
        "injectSseEvent",
    }
)
# What an operation may say besides `action`, `path` and `expect`; most of it goes to the adapter as it is.
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "create": frozenset({"as", "contentType", "ttlSeconds", "expiresAt", "headers", "closed", "data"}),
    "connect": frozenset({"headers"}),
    "append": frozenset({"data", "json", "binaryData", "seq", "headers"}),
    "append-batch": frozenset({"items", "headers"}),
    "read": frozenset(
        {"offset", "live", "timeoutMs", "maxChunks", "waitForUpToDate", "headers", "background", "as"}
    ),
    "await": frozenset({"ref"}),
    "head": frozenset({"headers"}),
    "delete": frozenset({"headers"}),
    "close": frozenset({"data", "contentType"}),
    "idempotent-append": frozenset({"producerId", "epoch", "autoClaim", "data", "headers"}),
    "idempotent-append-batch": frozenset({"producerId", "epoch", "autoClaim", "items", "maxInFlight", "headers"}),
    "idempotent-close": frozenset({"producerId", "epoch", "autoClaim", "data", "headers"}),
    "idempotent-detach": frozenset({"producerId", "epoch", "headers"}),
    "set-dynamic-header": frozenset({"name", "valueType", "initialValue"}),
    "set-dynamic-param": frozenset({"name", "valueType"}),
    "clear-dynamic": frozenset(),
    "validate": frozenset({"target"}),
    "server-append": frozenset({"data", "producerId", "producerEpoch", "producerSeq", "headers"}),
    "server-close": frozenset({"data", "contentType"}),
    "inject-error": _FAULTS,
    "clear-errors": frozenset(),
    "wait": frozenset({"ms"}),
    "assert": frozenset({"equals", "message"}),
}
_PRODUCER_DEFAULTS: Final = {"epoch": 0, "autoClaim": False}


class CaseError(AssertionError):
    """The case is not passed."""


class UnknownOperationError(Exception):
    """A case does something that this runner cannot do."""


class Interpreter:
    """Runs one case. What an operation stores, later ones find in ``${...}``."""

    def __init__(self, adapter: AdapterProcess, server: ReferenceServer) -> None:
        self._adapter = adapter
        self._server = server
        self._variables: dict[str, Any] = {}
        self._content_types: dict[str, str] = {}
        self._background: dict[str, Operation] = {}
        self._ledger = Ledger()
        self._touched: set[str] = set()
        self._special: dict[str, Callable[[Operation], Result | None]] = {
            "create": self._create,
            "append": self._append,
            "append-batch": self._append_batch,
            "read": self._read,
            "await": self._await,
            "idempotent-append": self._idempotent,
            "idempotent-append-batch": self._idempotent,
            "idempotent-close": self._idempotent,
            "server-append": self._server_append,
            "server-close": self._server_close,
            "inject-error": self._inject_error,
            "clear-errors": self._clear_errors,
            "wait": self._wait,
            "assert": self._assert,
        }

    def run(self, case: Case) -> None:
        """Perform setup, operations and cleanup. Raises `CaseError` at the first thing that is wrong."""
        try:
            for phase in ("setup", "operations", "cleanup"):
                self._perform(phase, getattr(case, phase))
            if self._background:
                raise CaseError(f"nobody waits for {', '.join(self._background)}")
        finally:
            self._restore()

    def _perform(self, phase: str, operations: Iterable[Operation]) -> None:
        for number, operation in enumerate(operations, start=1):
            action = operation["action"]
            where = f"{phase}, number {number}, {action}"
            resolved = self._resolve(operation)
            self._refuse_unknown(resolved)
            expect = resolved.get("expect") or {}
            self._touched.add(action)
            result = self._special.get(action, self._plain)(resolved)
            if result is None:
                if expect:
                    raise UnknownOperationError(f"{where} has no result to expect {expect} of")
                continue
            found = [*complaints(action, expect, result), *self._unasked(resolved, result)]
            if found:
                raise CaseError(f"{where}: " + "; ".join(found))
            self._ledger.note(resolved, result)
            if not expects_error(expect):
                self._variables.update(bindings(expect, result))

    def _restore(self) -> None:
        """Leave nothing behind that the next case could notice."""
        if self._adapter.busy:
            self._adapter.kill()
        elif not self._touched.isdisjoint({"set-dynamic-header", "set-dynamic-param"}):
            self._adapter.call({"type": "clear-dynamic"})
        if "inject-error" in self._touched:
            self._server.clear_faults()

    # -- Operations: a result to be checked, or None ---------------------------------------------------

    def _plain(self, operation: Operation) -> Result:
        return self._call(operation["action"], operation)

    def _call(self, kind: str, operation: Operation, **more: Any) -> Result:
        result = self._adapter.call(_command(kind, operation, more))
        expected = (kind, None) if result["success"] else ("error", kind)
        if (result.get("type"), result.get("commandType")) != expected:
            raise CaseError(f"the result of {kind} has another type: {result}")
        return result

    def _create(self, operation: Operation) -> Result:
        path = operation.setdefault("path", f"{_STREAMS}conformance-{uuid.uuid4()}")
        if "as" in operation:
            self._variables[operation["as"]] = path
        self._content_types[path] = operation.get("contentType") or _DEFAULT_CONTENT_TYPE
        return self._call("create", _without(operation, "as"))

    def _append(self, operation: Operation) -> Result:
        return self._call("append", _without(operation, "data", "json", "binaryData"), **_payload(operation))

    def _append_batch(self, operation: Operation) -> Result:
        # The adapter takes one command at a time, so these are not concurrent.
        shared = _without(operation, "items")
        results = [
            self._call("append", {**shared, **_without(item, "data", "json", "binaryData")}, **_payload(item))
            for item in operation["items"]
        ]
        return {"success": True, "results": results}

    def _read(self, operation: Operation) -> Result | None:
        if not operation.get("background"):
            return self._call("read", operation)
        self._adapter.send(_command("read", _without(operation, "as", "background")))
        self._background[operation["as"]] = operation
        return None

    def _await(self, operation: Operation) -> Result:
        if operation["ref"] not in self._background:
            raise UnknownOperationError(f"there is no operation {operation['ref']!r} to wait for")
        read = self._background.pop(operation["ref"])
        operation["read"] = read
        return self._adapter.receive(timeout_seconds=read.get("timeoutMs", 0) / 1000 + COMMAND_SECONDS)

    def _idempotent(self, operation: Operation) -> Result:
        items = {"items": [item["data"] for item in operation["items"]]} if "items" in operation else {}
        return self._call(operation["action"], {**_PRODUCER_DEFAULTS, **operation}, **items)

    def _server_append(self, operation: Operation) -> Result:
        producer = {
            name: str(operation[field])
            for name, field in (
                ("Producer-Id", "producerId"),
                ("Producer-Epoch", "producerEpoch"),
                ("Producer-Seq", "producerSeq"),
            )
            if field in operation
        }
        return self._post(operation, {**producer, **operation.get("headers", {})})

    def _server_close(self, operation: Operation) -> Result:
        return self._post(operation, {"Stream-Closed": "true"})

    def _post(self, operation: Operation, headers: Mapping[str, str]) -> Result:
        path = operation["path"]
        content_type = operation.get("contentType") or self._content_types[path]
        answer = plain_http.post(
            f"{self._server.url}{path}",
            content=operation.get("data", "").encode(),
            headers={"Content-Type": content_type, **headers},
        )
        return {
            "success": answer.is_success,
            "status": answer.status_code,
            "errorCode": answer.reason_phrase,
            "message": answer.text,
            "offset": answer.headers.get("stream-next-offset"),
            # A duplicate is told from an append by its status, which is why only producers have any.
            "duplicate": answer.status_code == 204 and "producer-id" in answer.request.headers,
            "producerEpoch": _integer(answer, "producer-epoch"),
            "producerExpectedSeq": _integer(answer, "producer-expected-seq"),
            "producerReceivedSeq": _integer(answer, "producer-received-seq"),
        }

    def _inject_error(self, operation: Operation) -> None:
        name = operation["path"].removeprefix(_STREAMS)
        self._server.inject_fault(name, **{key: operation[key] for key in _FAULTS if key in operation})

    def _clear_errors(self, _: Operation) -> None:
        self._server.clear_faults()

    def _wait(self, operation: Operation) -> None:
        # The case says how long; what it waits for (a read that has reached the server) cannot be seen.
        time.sleep(operation["ms"] / 1000)

    def _assert(self, operation: Operation) -> None:
        left, right = operation["equals"]["left"], operation["equals"]["right"]
        if left != right:
            raise CaseError(f"{operation['message']}: {left!r} is not {right!r}")

    def _unasked(self, operation: Operation, result: Result) -> list[str]:
        """What is wrong though the case does not ask: its headers were not sent, its bytes did not come back."""
        action = operation["action"]
        found: list[str] = []
        if operation.get("headers") and result["success"] and not action.startswith("server-"):
            found += complaints("append", {"headersSent": operation["headers"]}, result)
        if action in {"read", "await"}:
            complaint = self._ledger.complaint(operation.get("read", operation), result)
            found += [] if complaint is None else [complaint]
        return found

    # -- Variables, and what is not known ---------------------------------------------------------------

    def _resolve(self, value: Any) -> Any:
        match value:
            case str():
                return _VARIABLE.sub(lambda match: str(self._look_up(match[1])), value)
            case list():
                return [self._resolve(item) for item in value]
            case dict():
                return {name: self._resolve(item) for name, item in value.items()}
            case _:
                return value

    def _look_up(self, name: str) -> Any:
        if name == "randomUUID":
            return uuid.uuid4()
        first, *rest = name.split(".")
        try:
            value = self._variables[first]
            for part in rest:
                value = value[part]
        except KeyError:
            raise UnknownOperationError(f"there is no variable ${{{name}}}") from None
        return value

    def _refuse_unknown(self, operation: Operation) -> None:
        action = operation["action"]
        if action not in _FIELDS:
            raise UnknownOperationError(f"there is no action {action!r}")
        unknown = sorted(set(operation) - _FIELDS[action] - {"action", "path", "expect"})
        if unknown:
            raise UnknownOperationError(f"{action} has fields that this runner does not know: {unknown}")


def _command(kind: str, operation: Operation, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {**_without(operation, "action", "expect"), **(more or {}), "type": kind}


def _without(operation: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in operation.items() if name not in names}


def _payload(operation: Mapping[str, Any]) -> dict[str, Any]:
    given = [name for name in ("data", "json", "binaryData") if name in operation]
    match given:
        case ["data"]:
            return {"data": operation["data"]}
        case ["json"]:
            return {"data": json.dumps(operation["json"])}
        case ["binaryData"]:
            return {"data": operation["binaryData"], "binary": True}
        case _:
            raise UnknownOperationError(f"an append has one of data, json and binaryData, not {given}")


def _integer(answer: httpx.Response, name: str) -> int | None:
    text = answer.headers.get(name)
    return None if text is None else int(text)
