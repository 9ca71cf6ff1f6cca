"""The client's errors in the line protocol's words."""

from __future__ import annotations

import traceback
from typing import Any, Final

import durable_streams
from durable_streams import DurableStreamError

Result = dict[str, Any]

# The first row that matches is the protocol's word for an error.
_ERROR_CODES: Final[tuple[tuple[type[DurableStreamError], str], ...]] = (
    (durable_streams.StreamNotFoundError, "NOT_FOUND"),
    (durable_streams.StreamExistsError, "CONFLICT"),
    (durable_streams.StreamClosedError, "STREAM_CLOSED"),
    (durable_streams.SeqConflictError, "SEQUENCE_CONFLICT"),
    (durable_streams.ContentTypeMismatchError, "CONFLICT"),
    (durable_streams.InvalidOffsetError, "INVALID_OFFSET"),
    (durable_streams.ParseError, "PARSE_ERROR"),
    (durable_streams.SSENotSupportedError, "NOT_SUPPORTED"),
    (durable_streams.MessageError, "INVALID_ARGUMENT"),
)


class NotSupportedError(Exception):
    """The command asks for something that this client does not have."""


class InvalidArgumentError(Exception):
    """The client refused an argument, as the command wanted to know."""


def failure_of(kind: str, error: Exception) -> Result:
    """The result of a command that failed."""
    failure: Result = {"type": "error", "success": False, "commandType": kind, "message": str(error)}
    match error:
        case DurableStreamError():
            return {**failure, "errorCode": _error_code(error), "status": _status(error)}
        case NotSupportedError():
            return {**failure, "errorCode": "NOT_SUPPORTED"}
        case InvalidArgumentError():
            return {**failure, "errorCode": "INVALID_ARGUMENT"}
    traceback.print_exception(error)
    return {**failure, "errorCode": "INTERNAL_ERROR", "message": repr(error)}


def _error_code(error: DurableStreamError) -> str:
    code = next((code for kind, code in _ERROR_CODES if isinstance(error, kind)), None)
    return code or ("NETWORK_ERROR" if error.status is None else "UNEXPECTED_STATUS")


def _status(error: DurableStreamError) -> int | None:
    # A message that no server may take is refused before it is sent: the answer that it spares is 400.
    return 400 if isinstance(error, durable_streams.MessageError) else error.status
