"""The values of the downlink. All are frozen; none does I/O.

    stream element -> Command -> (route) -> Order -> device -> Progress -> Receipt -> (journal) -> receipts stream

A command is **open** from `accepted` to its terminal receipt, and every command that was accepted gets one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

Delivery = Literal["at_least_once", "at_most_once"]

Status = Literal[
    "accepted",  # the gateway has it, durably, and will try
    "published",  # the broker confirmed it, or the serial port has sent its last byte
    "acknowledged",  # the device answered that it did it
    "failed",  # it was not done: refused, undeliverable, or the device said no
    "expired",  # it was not sent, because its time was over
    "unknown",  # it may have been done, and nobody can tell
]


@dataclass(frozen=True, slots=True)
class Command:
    """One command as its sender wrote it."""

    number: int
    """Its place in the command stream, counted from where this gateway began to read."""
    id: str
    """The sender's, or one that the gateway made of the number."""
    device: str
    payload: Any
    """A JSON value."""
    delivery: Delivery | None = None
    """None: as the device is configured."""
    issued_ns: int | None = None
    """When it was given, by the sender's clock; UTC, nanoseconds since 1970."""
    expires_ns: int | None = None
    """From when on it must not be sent any more; UTC, nanoseconds since 1970."""
    expires_after_seconds: float | None = None
    """The same, counted from ``issued_ns``."""


@dataclass(frozen=True, slots=True)
class MqttReply:
    """How an answer to a command is known on a broker."""

    topic: str | None
    """The topic that the device answers on; None: the response topic of MQTT 5."""
    id_pointer: str | None = None
    """JSON pointer to the command's id in the answer; None: the first answer after the command counts.

    An answer with correlation data (MQTT 5) is matched by that alone.
    """
    pattern: re.Pattern[str] | None = None
    """What the payload of an answer has somewhere in it; None: anything is an answer."""
    error: re.Pattern[str] | None = None
    """What says that the device did not do it."""
    timeout_seconds: float = 10.0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class MqttMessage:
    """What is published for a command: QoS 1, never retained."""

    topic: str
    payload: bytes
    reply: MqttReply | None = None

    def __str__(self) -> str:
        return f"{_text(self.payload)} to the topic {self.topic}"


@dataclass(frozen=True, slots=True)
class SerialReply:
    """How an answer to a command is known among the frames of a port."""

    pattern: re.Pattern[str]
    """What an answer has somewhere in it, as text (bytes beyond ASCII: Latin-1)."""
    error: re.Pattern[str] | None = None
    """What says that the device did not do it."""
    timeout_seconds: float = 2.0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class SerialMessage:
    """What is written to a port for a command."""

    data: bytes
    reply: SerialReply | None = None
    turnaround_seconds: float = 0.0
    """How long the line must be silent before it is written, and after it before the next is."""

    def __str__(self) -> str:
        return _text(self.data)


@dataclass(frozen=True, slots=True)
class Order:
    """A command on its way to its device.

    A source sends it, or says why not, and tells of its `Progress`; exactly one is final, also if the source is
    stopped meanwhile. `at_least_once`: sent again, with the same id, while nobody confirmed it. `at_most_once`:
    the source lets its bytes go once; what was lost after that is `unknown`.
    """

    command_id: str
    device: str
    message: MqttMessage | SerialMessage
    delivery: Delivery
    deadline: float
    """When it must not be sent for the first time any more, on the monotonic clock, in seconds."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What became of an order."""

    status: Literal["published", "acknowledged", "failed", "expired", "unknown"]
    """`expired`: its deadline passed, and not one byte of it was sent."""
    is_final: bool
    reason: str = ""
    """Why it failed or is unknown, for people; empty for success."""
    reply: str | None = None
    """What the device answered, at most 4096 characters of it."""
    code: str = ""
    """One word for programs, where the usual one for the status is not enough."""
    then: Callable[[], None] | None = None
    """What is done once the final receipt is committed. On the event loop."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a command, for the receipts stream: the ``info`` of a record of the kind ``receipt``."""

    command_id: str
    number: int
    device: str
    status: Status
    is_final: bool
    code: str = ""
    """One word for programs: `malformed`, `unknown_device`, `too_large`, ...; empty for success."""
    reason: str = ""
    """For people."""
    reply: str | None = None
    is_repeated: bool = False
    """The same id was there before: this is what became of it then, and it is not done again."""


def _text(raw: bytes) -> str:
    """For people, with escapes where it is none."""
    try:
        return repr(raw.decode())
    except UnicodeDecodeError:
        return ascii(raw.decode("latin-1"))
