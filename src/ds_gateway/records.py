"""The values that travel through the gateway. All are frozen; none does I/O.

    device bytes -> Frame -> Record -> Item -> (journal) -> element of a batch

A `Record` becomes its **final bytes** at acceptance and is never transformed afterwards. Only its id is
missing until then, because the id carries the record's position and the journal gives that out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

NANOSECONDS: Final = 1_000_000_000
ITEM_OVERHEAD_BYTES: Final = 400
"""What an item takes in memory beside its payload, roughly: an empty payload is not free."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Delimited bytes from a link, stamped when they were read (UTC, nanoseconds since 1970)."""

    data: bytes
    time_ns: int
    route: int = 0
    """0: it came by itself; n: it is the answer to the n-th of the requests that the port asks."""


@dataclass(frozen=True, slots=True)
class ClockState:
    """What is known of this machine's clock from one instant on, until something changes (`timekeeping`)."""

    boot: str
    """Which boot of the machine it is: eight hex digits."""
    is_synchronised: bool
    base_ns: int
    """What the wall clock would have shown when the boot's clock was 0: UTC, nanoseconds since 1970."""
    since_ns: int
    """When that was noticed, on the boot's clock."""


@dataclass(frozen=True, slots=True)
class Record:
    """One decoded reading. ``tail`` is its envelope from the member after the id to the closing brace."""

    stream: str
    device: str
    tail: bytes
    about: bytes = b""
    """The device's fields and units as a JSON object, or nothing.

    The journal puts a ``device`` record with it before the first reading of an epoch, and when it changes.
    """
    clock: ClockState | None = None
    """The clock when it was stamped, for the journal's ``clock`` records; None: nothing is told of it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes that did not become a record; they are kept aside in the quarantine with the reason."""

    source: str
    device: str
    reason: str
    raw: bytes
    time_ns: int
    topic: str = ""
    """Topic of an MQTT message; empty for a frame, and for what is no payload of a source."""


@dataclass(slots=True)
class RetryOutcome:
    """What the journal did with a payload that was tried once more; empty before the commit."""

    word: Literal["", "accepted", "not_reported", "kept", "no_room", "gone"] = ""


@dataclass(frozen=True, slots=True)
class Retried:
    """A payload of the quarantine, read again: it leaves the quarantine if it is a record now."""

    number: int
    now: Record | Rejected | None
    """None: it was read, and is not reported."""
    outcome: RetryOutcome


LossCause = Literal[
    "shed_oldest",  # the journal was full, and the oldest unsent records gave way
    "shed_newest",  # the journal was full, and what came then was not kept
    "max_age",  # not sent within journal.max_age
    "quarantined",  # refused by the server and kept aside, or deleted from the full quarantine
    "skipped",  # an operator skipped it, kept aside
    "corrupt",  # a row of the journal could not be read any more
    "server_lost",  # the server lost what it had confirmed, and the kept copy was trimmed
    "session_lost",  # the broker forgot the session, and what it held for it
    "id_gap",  # the broker skipped packet ids: it dropped messages from its queue
    "qos0",  # QoS 0 messages that found no room
    "serial_overrun",  # bytes of a serial port that nobody could take in time
]


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that is missing or may be, for the loss ledger: what a source noticed goes to `ledger_stream`."""

    cause: LossCause
    certain: bool
    """False: something may be missing, nobody can know."""
    count: int | None
    """Records (for a serial overrun: bytes) that are missing; None when that is not known."""
    first_ns: int
    """When it began, as well as that is known; UTC, nanoseconds since 1970."""
    last_ns: int
    source: str = ""
    device: str = ""
    detail: str = ""
    """For people."""
    devices: Mapping[str, int] = field(default_factory=dict)
    """Records of those devices that lost most."""
    others: Mapping[str, int] = field(default_factory=dict)
    """Those of ``count`` that were lost for another cause before, and stand in this record now."""


def ledger_stream(gateway: str) -> str:
    """Name of the stream with losses that belong to no other stream."""
    return f"gateway/{gateway}"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a source hands to the journal.

    ``token`` means something to the source only: its gate sees it before the commit, the source gets it
    back after the commit. ``payload`` is None for a token that only has to keep its place in the order.
    """

    payload: Record | Rejected | Loss | Retried | None
    token: object = None
    is_barrier: bool = False
    """Whether it begins a transaction of its own: nothing before it shares one with it."""

    @property
    def size_bytes(self) -> int:
        """What the item weighs in a bounded queue."""
        match self.payload:
            case Record(tail=tail):
                return len(tail) + ITEM_OVERHEAD_BYTES
            case Rejected(raw=raw):
                return len(raw) + ITEM_OVERHEAD_BYTES
            case Retried(now=Record(tail=tail)):
                return len(tail) + ITEM_OVERHEAD_BYTES
            case _:
                return ITEM_OVERHEAD_BYTES


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


Envelope = Literal["plain", "cloudevents"]
"""What stands around a record's data. Both have gateway, device and time; see docs/records.md."""

READING_TYPE: Final = "ds-gateway.reading"
"""CloudEvents type of a reading; a control record's is ``ds-gateway.`` and its kind."""


def telemetry_tail(
    *,
    gateway: str,
    device: str,
    time_ns: int,
    data: bytes,
    received_ns: int | None = None,
    envelope: Envelope = "plain",
) -> bytes:
    """Render a telemetry record without its id. ``data`` is a JSON object, already validated.

    ``received_ns`` is given only if ``time_ns`` came from the payload.
    """
    prefix = telemetry_prefix(gateway=gateway, device=device, envelope=envelope)
    return telemetry_tail_after(
        prefix, time_ns, data, b"" if received_ns is None else received_member(received_ns)
    )


def telemetry_prefix(*, gateway: str, device: str, envelope: Envelope = "plain") -> bytes:
    """The part of a telemetry record's tail that all readings of a device have in common."""
    return b'%b,"time":"' % _head(gateway, device, READING_TYPE, envelope)


def _head(gateway: str, device: str, type_: str, envelope: Envelope) -> bytes:
    """The members from the one after the id to the device."""
    common = b'"gateway":%b,"device":%b' % (orjson.dumps(gateway), orjson.dumps(device))
    if envelope == "plain":
        return common
    # What CloudEvents does not know are extension attributes, which are plain values there: no objects.
    return b'"specversion":"1.0","source":%b,"type":%b,"subject":%b,"datacontenttype":"application/json",%b' % (
        orjson.dumps(f"/ds-gateway/{gateway}"),
        orjson.dumps(type_),
        orjson.dumps(device),
        common,
    )


def telemetry_tail_after(prefix: bytes, time_ns: int, data: bytes, more: bytes = b"") -> bytes:
    """As `telemetry_tail`, for a source that kept the `telemetry_prefix`.

    ``more`` are members between time and data, each with a comma before it, as `received_member` and what is said
    of the clock (`timekeeping.WallClock.stamp`).
    """
    return b'%b%b"%b,"data":%b}' % (prefix, rfc3339(time_ns).encode(), more, data)


def received_member(received_ns: int) -> bytes:
    """When the payload was read, for a record whose ``time`` came from the payload."""
    return b',"received":"%b"' % rfc3339(received_ns).encode()


def control_tail(
    *,
    gateway: str,
    device: str,
    time_ns: int,
    kind: str,
    info: bytes,
    clock: bytes = b"",
    envelope: Envelope = "plain",
) -> bytes:
    """Render a control record (``birth``, ``device``, ``loss``, ...) without its id: a kind and info, never data.

    ``info`` is a JSON object, already encoded; ``clock`` what is said of the clock, from
    `timekeeping.WallClock.stamp`. A CloudEvent has it as data, and a kind all the same.
    """
    return b'%b,"time":"%b"%b,"kind":%b,"%b":%b}' % (
        _head(gateway, device, f"ds-gateway.{kind}", envelope),
        rfc3339(time_ns).encode(),
        clock,
        orjson.dumps(kind),
        b"info" if envelope == "plain" else b"data",
        info,
    )


def control_info(message: Any, kind: str) -> dict[str, Any]:
    """What a control record of this kind says, in either envelope; nothing if it is none.

    ``message`` may be anything: it is read from a stream.
    """
    match message:
        case {"kind": str(found), "info": dict(info)} if found == kind:
            return info
        case {"kind": str(found), "specversion": str(), "data": dict(info)} if found == kind:
            return info
        case _:
            return {}


def loss_info(loss: Loss, *, positions: tuple[int, int] | None = None) -> bytes:
    """The ``info`` of a loss record. ``positions``: the first and last that it stands for, in its own stream."""
    info: dict[str, Any] = {"cause": loss.cause, "certain": loss.certain}
    if loss.count is not None:
        info["count"] = loss.count
    if positions is not None:
        info["first_position"], info["last_position"] = positions
    info["first_time"], info["last_time"] = rfc3339(loss.first_ns), rfc3339(loss.last_ns)
    known = ("source", "device", "detail", "devices", "others")
    info.update({key: value for key in known if (value := getattr(loss, key))})
    return orjson.dumps(info)


def loss_tail(
    loss: Loss,
    *,
    gateway: str,
    time_ns: int,
    positions: tuple[int, int] | None = None,
    clock: bytes = b"",
    envelope: Envelope = "plain",
) -> bytes:
    """Render a loss record without its id. With ``positions`` its id is that of the first of them."""
    info, device = loss_info(loss, positions=positions), loss.device or "@gateway"
    return control_tail(
        gateway=gateway, device=device, time_ns=time_ns, kind="loss", info=info, clock=clock, envelope=envelope
    )


def element(record_id: str, tail: bytes) -> bytes:
    """Put the id in front of a tail: the record's final bytes."""
    return b'{"id":"%b",%b' % (record_id.encode("ascii"), tail)
