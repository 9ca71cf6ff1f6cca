"""What a case expects of a result, and what is wrong with the result. Pure: no process, no server.

The rules:

- An error where none was expected is wrong, and so is a success where an error was expected.
- An error that the adapter did not foresee (``INTERNAL_ERROR``) is wrong whatever was expected.
- Every expectation is checked, on every result; one that is not known for its action is refused.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Result = dict[str, Any]
Expect = dict[str, Any]


class UnknownExpectationError(Exception):
    """A case expects something that this runner cannot check: to ignore it would be to pass it unseen."""


def complaints(action: str, expect: Expect, result: Result) -> list[str]:
    """What is wrong with a result; nothing, if it is as expected."""
    unknown = sorted(set(expect) - _KNOWN.get(action, frozenset()))
    if unknown:
        raise UnknownExpectationError(f"{action} cannot expect {', '.join(unknown)}")
    found = _about_success(action, expect, result)
    for name, wanted in expect.items():
        complaint = _CHECKS[name](wanted, result) if name in _CHECKS else None
        if complaint is not None:
            found.append(f"{name}: {complaint}")
    return found


def bindings(expect: Expect, result: Result) -> dict[str, Any]:
    """The variables that a result fills."""
    filled: dict[str, Any] = {}
    if "storeOffsetAs" in expect:
        filled[expect["storeOffsetAs"]] = result["offset"]
    if "storeDataAs" in expect:
        filled[expect["storeDataAs"]] = data_of(result).decode()
    if "storeAs" in expect:
        filled[expect["storeAs"]] = result
    return filled


def expects_error(expect: Expect) -> bool:
    """Whether a case wants the operation to fail."""
    return (
        expect.get("status", 200) >= 400
        or expect.get("error") is True
        or expect.get("valid") is False
        or not _OF_ERRORS.isdisjoint(expect)
    )


def data_of(result: Result) -> bytes:
    """Everything that a read brought."""
    return b"".join(_bytes_of(chunk) for chunk in result.get("chunks", ()))


def _about_success(action: str, expect: Expect, result: Result) -> list[str]:
    succeeded = result["success"]
    found: list[str] = []
    if not succeeded and (not expects_error(expect) or result.get("errorCode") == "INTERNAL_ERROR"):
        said = f"{result.get('errorCode')}, status {result.get('status')}: {result.get('message')}"
        found.append(f"an error where none was expected: {said}")
    elif succeeded and expects_error(expect):
        found.append("a success where an error was expected")
    elif succeeded and action in {"read", "await"}:
        if not result.get("offset"):
            found.append("a read without the offset to go on from")
        found.extend(f"an empty chunk: {chunk}" for chunk in result.get("chunks", ()) if not _bytes_of(chunk))
    return found


def _bytes_of(chunk: Mapping[str, Any]) -> bytes:
    data: str = chunk["data"]
    return base64.b64decode(data, validate=True) if chunk.get("binary") else data.encode()


# -- One function an expectation: what is wrong, or None --------------------------------------------


def _equal(key: str) -> Callable[[Any, Result], str | None]:
    def check(wanted: Any, result: Result) -> str | None:
        got = result.get(key)
        # True is 1 for Python, and not for JSON.
        same = got == wanted and isinstance(got, bool) == isinstance(wanted, bool)
        return None if same else f"{wanted!r} was expected, not {got!r}"

    return check


def _data(wanted: str, result: Result) -> str | None:
    got = data_of(result)
    return None if got == wanted.encode() else f"{wanted.encode()!r} was expected, not {got!r}"


def _contains_all(wanted: list[str], result: Result) -> str | None:
    got = data_of(result)
    lacking = [part for part in wanted if part.encode() not in got]
    return f"{lacking} is missing from {got!r}" if lacking else None


def _chunk_count(wanted: int, result: Result) -> str | None:
    got = len(result.get("chunks", ()))
    return None if got == wanted else f"{wanted} chunks were expected, not {got}: {data_of(result)!r}"


def _min_chunks(wanted: int, result: Result) -> str | None:
    got = len(result.get("chunks", ()))
    return None if got >= wanted else f"at least {wanted} chunks were expected, not {got}"


def _has_offset(wanted: bool, result: Result) -> str | None:  # noqa: FBT001 - a value, not a switch
    got = bool(result.get("offset"))
    return None if got == wanted else f"the offset is {result.get('offset')!r}"


def _message_contains(wanted: list[str] | str, result: Result) -> str | None:
    message = result.get("message", "")
    lacking = [part for part in ([wanted] if isinstance(wanted, str) else wanted) if part not in message]
    return f"{lacking} is missing from {message!r}" if lacking else None


def _sent(key: str) -> Callable[[dict[str, str], Result], str | None]:
    def check(wanted: dict[str, str], result: Result) -> str | None:
        got = {name.lower(): value for name, value in result.get(key, {}).items()}
        wrong = {name: got.get(name.lower()) for name in wanted if got.get(name.lower()) != wanted[name]}
        return f"{wanted} was expected, not {wrong}" if wrong else None

    return check


def _failed_error(wanted: bool, result: Result) -> str | None:  # noqa: FBT001 - a value, not a switch
    return None if result["success"] is not wanted else f"{wanted} was expected"


def _indices(*, succeeded: bool) -> Callable[[list[int], Result], str | None]:
    def check(wanted: list[int], result: Result) -> str | None:
        got = [index for index, each in enumerate(result["results"]) if each["success"] is succeeded]
        return None if got == wanted else f"{wanted} was expected, not {got}: {result['results']}"

    return check


def _all_succeed(wanted: bool, result: Result) -> str | None:  # noqa: FBT001 - a value, not a switch
    got = all(each["success"] for each in result.get("results", [result]))
    return None if got is wanted else f"{wanted} was expected: {result}"


def _stored(key: str) -> Callable[[str, Result], str | None]:
    def check(name: str, result: Result) -> str | None:
        return None if result.get(key) else f"there is no {key} to store as {name}"

    return check


_CHECKS: Final[dict[str, Callable[[Any, Result], str | None]]] = {
    "status": _equal("status"),
    "success": _equal("success"),
    "valid": _equal("success"),
    "error": _failed_error,
    "errorCode": _equal("errorCode"),
    "messageContains": _message_contains,
    "errorContains": _message_contains,
    "contentType": _equal("contentType"),
    "hasOffset": _has_offset,
    "upToDate": _equal("upToDate"),
    "streamClosed": _equal("streamClosed"),
    "data": _data,
    "dataContains": lambda wanted, result: _contains_all([wanted], result),
    "dataContainsAll": _contains_all,
    "chunkCount": _chunk_count,
    "minChunks": _min_chunks,
    "headersSent": _sent("headersSent"),
    "paramsSent": _sent("paramsSent"),
    "duplicate": _equal("duplicate"),
    "producerEpoch": _equal("producerEpoch"),
    "producerExpectedSeq": _equal("producerExpectedSeq"),
    "producerReceivedSeq": _equal("producerReceivedSeq"),
    "allSucceed": _all_succeed,
    "succeedIndices": _indices(succeeded=True),
    "failIndices": _indices(succeeded=False),
    "storeOffsetAs": _stored("offset"),
    "storeDataAs": _stored("chunks"),
    "storeAs": _stored("success"),
}

_OF_ERRORS: Final = frozenset({"errorCode", "messageContains", "errorContains"})
_GENERAL: Final = frozenset({"status", "error", *_OF_ERRORS})
_READ: Final = _GENERAL | {
    "upToDate",
    "streamClosed",
    "data",
    "dataContains",
    "dataContainsAll",
    "chunkCount",
    "minChunks",
    "headersSent",
    "paramsSent",
    "storeOffsetAs",
    "storeDataAs",
}
_SERVER: Final = frozenset(
    {"status", "duplicate", "producerEpoch", "producerExpectedSeq", "producerReceivedSeq", "storeOffsetAs"}
)

# Which expectations an action can have.
_KNOWN: Final[dict[str, frozenset[str]]] = {
    "create": _GENERAL,
    "connect": _GENERAL,
    "append": _GENERAL | {"headersSent", "paramsSent", "storeOffsetAs"},
    "append-batch": frozenset({"allSucceed", "succeedIndices", "failIndices"}),
    "read": _READ,
    "await": _READ,
    "head": _GENERAL | {"hasOffset", "contentType", "streamClosed", "storeOffsetAs", "storeAs"},
    "delete": _GENERAL,
    "close": _GENERAL,
    "idempotent-append": _GENERAL | {"success", "duplicate", "storeOffsetAs"},
    "idempotent-append-batch": _GENERAL | {"allSucceed"},
    "idempotent-close": _GENERAL,
    "idempotent-detach": _GENERAL,
    "validate": frozenset({"valid", *_OF_ERRORS}),
    "server-append": _SERVER,
    "server-close": _SERVER,
}
