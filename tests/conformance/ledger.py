"""What a case stored in a byte stream, so that a read can be held against it.

Most cases on binary data only count chunks. Here a read must bring exactly the bytes behind its offset. Text and
JSON are left out: there the server may write a message in another way than it was sent.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from conformance.expectations import data_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"
_WRITTEN_ANEW: Final = ("text/", "application/json")
_START: Final = "-1"


@dataclass
class _Stored:
    data: bytes = b""
    positions: dict[str, int] = field(default_factory=lambda: {_START: 0})


class Ledger:
    """The byte streams of one case whose content is known."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stored] = {}

    def note(self, operation: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Take down what an operation did to its stream."""
        action, path = operation["action"], operation.get("path")
        if path is None or not result["success"] or action in {"read", "head", "connect"}:
            return
        if action == "create":
            self._created(path, operation, result)
        elif path in self._streams and action in {"append", "server-append"}:
            self._appended(self._streams[path], operation, result)
        else:
            self._streams.pop(path, None)  # written in a way that is not followed here, or deleted

    def complaint(self, operation: Mapping[str, Any], result: dict[str, Any]) -> str | None:
        """What is wrong with the data that a read brought."""
        stored = self._streams.get(operation["path"])
        start = None if stored is None else stored.positions.get(operation.get("offset") or _START)
        if stored is None or start is None or not result["success"]:
            return None
        behind, got = stored.data[start:], data_of(result)
        if operation.get("background") or not result.get("upToDate"):
            behind = behind[: len(got)]  # more may have been stored after the read
        return None if got == behind else f"the stream has {behind!r} there, and not {got!r}"

    def _created(self, path: str, operation: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        content_type = operation.get("contentType") or _DEFAULT_CONTENT_TYPE
        if result["status"] == 201 and "data" not in operation and not content_type.startswith(_WRITTEN_ANEW):
            self._streams[path] = _Stored()

    def _appended(self, stored: _Stored, operation: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        if result.get("duplicate"):
            return
        binary = operation.get("binaryData")
        stored.data += operation["data"].encode() if binary is None else base64.b64decode(binary)
        stored.positions[result["offset"]] = len(stored.data)
