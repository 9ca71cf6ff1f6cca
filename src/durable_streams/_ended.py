"""Why a producer takes nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from durable_streams.errors import ProducerStoppedError, StreamClosedError

if TYPE_CHECKING:
    from durable_streams.errors import DurableStreamError

PRODUCER_CLOSED: Final = "the producer is closed"
STREAM_CLOSED: Final = "the stream is closed"


def nothing_taken(reason: str, url: str) -> DurableStreamError:
    """Return the error of an append that comes too late; a closed producer says nothing about its stream."""
    kind = StreamClosedError if reason == STREAM_CLOSED else ProducerStoppedError
    return kind(f"{reason}: nothing can be appended", url=url)
