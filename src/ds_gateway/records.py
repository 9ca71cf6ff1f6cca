"""The values that travel through the gateway. All are frozen; none does I/O.

    device bytes -> Frame -> Record -> Item -> (journal) -> element of a batch

A `Record` becomes its **final bytes** at acceptance and is never transformed afterwards. Only its id is
missing until then, because the id carries the record's position and the journal gives that out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import orjson

NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Frame:
    """Delimited bytes from a link, stamped when they were read (UTC, nanoseconds since 1970)."""

    data: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class Record:
    """One decoded reading. ``tail`` is its envelope from the member after the id to the closing brace."""

    stream: str
    device: str
    tail: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes that did not become a record; they are kept aside in the quarantine with the reason."""

    source: str
    device: str
    reason: str
    raw: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a source hands to the journal.

    ``token`` means something to the source only: its gate sees it before the commit, the source gets it
    back after the commit. ``payload`` is None for a token that only has to keep its place in the order.
    """

    payload: Record | Rejected | None
    token: object = None

    @property
    def size_bytes(self) -> int:
        """What the item weighs in a bounded queue."""
        match self.payload:
            case Record(tail=tail):
                return len(tail)
            case Rejected(raw=raw):
                return len(raw)
            case _:
                return 0


_second_cache: tuple[int, str] = (-1, "")


def rfc3339(time_ns: int) -> str:
    """UTC with microseconds: ``2026-03-01T12:00:00.000123Z``."""
    global _second_cache  # noqa: PLW0603 - one tuple, replaced whole, so a race only formats twice
    second, fraction = divmod(time_ns, NANOSECONDS)
    cached, text = _second_cache
    if cached != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _second_cache = (second, text)
    return f"{text}.{fraction // 1000:06d}Z"


def telemetry_tail(
    *, gateway: str, device: str, time_ns: int, data: bytes, received_ns: int | None = None
) -> bytes:
    """Render a telemetry record without its id. ``data`` is a JSON object, already validated.

    ``received_ns`` is given only if ``time_ns`` came from the payload.
    """
    received = "" if received_ns is None else f',"received":"{rfc3339(received_ns)}"'
    return b'"gateway":%b,"device":%b,"time":"%b"%b,"data":%b}' % (
        orjson.dumps(gateway),
        orjson.dumps(device),
        rfc3339(time_ns).encode(),
        received.encode(),
        data,
    )


def control_element(
    *, record_id: str, gateway: str, time_ns: int, kind: str, info: dict[str, object]
) -> bytes:
    """Render a control record (``birth``, ``probe``, ``loss``, ...): ``kind`` and ``info``, never ``data``."""
    return orjson.dumps(
        {
            "id": record_id,
            "gateway": gateway,
            "device": "@gateway",
            "time": rfc3339(time_ns),
            "kind": kind,
            "info": info,
        }
    )
