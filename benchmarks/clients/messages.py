"""The messages that everybody writes and reads. Nothing but the standard library: every environment imports it."""

from __future__ import annotations

from typing import Any, Final

MESSAGE_BYTES: Final = 100
IN_A_BODY: Final = 1024 * 1024 // (MESSAGE_BYTES + 1)
"""As many messages as fit into a mebibyte, the largest batch of our producer."""
JSON: Final = "application/json"

_NOTE: Final = "x" * 58


def value(number: int) -> dict[str, Any]:
    """Message number ``number`` as a value; its JSON has 100 bytes."""
    return {"n": 10_000_000 + number, "sensor": "hall-7", "note": _NOTE}


def text(number: int) -> str:
    """The same message as JSON text."""
    return f'{{"n":{10_000_000 + number},"sensor":"hall-7","note":"{_NOTE}"}}'


def bodies(encoded: list[bytes]) -> list[bytes]:
    """The messages as arrays of at most a mebibyte."""
    return [b"[" + b",".join(encoded[at : at + IN_A_BODY]) + b"]" for at in range(0, len(encoded), IN_A_BODY)]


assert len(text(0)) == MESSAGE_BYTES
