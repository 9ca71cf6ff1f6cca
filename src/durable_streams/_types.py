"""The values that callers see: results, and what they may pass as headers, parameters and live mode."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypedDict, TypeVar

from durable_streams.errors import DurableStreamError

T = TypeVar("T")

Offset: TypeAlias = str
"""Opaque position in a stream; compare, store and send it back, never parse it (PROTOCOL section 8)."""

LiveMode: TypeAlias = bool | Literal["long-poll", "sse"]
"""False: read to the end and stop. True: then wait for more, in the best way the server offers."""

HeadersLike: TypeAlias = Mapping[str, str | Callable[[], str | Awaitable[str]]]
"""Header values, or callables that are asked once for each request (also coroutines, in the async front)."""

ParamsLike: TypeAlias = Mapping[
    str, str | Sequence[str] | Callable[[], str | Sequence[str] | Awaitable[str | Sequence[str]]]
]
"""Query parameters; a sequence repeats its parameter. Callables as in `HeadersLike`."""


class RetryWith(TypedDict, total=False):
    """What ``on_error`` of a read returns to try again; headers and parameters replace those of the same name."""

    headers: HeadersLike
    params: ParamsLike


ReadErrorHandler: TypeAlias = Callable[[DurableStreamError], RetryWith | Awaitable[RetryWith | None] | None]
"""Asked before a read gives up: a (possibly empty) `RetryWith` tries again, None raises the error."""

ProducerErrorHandler: TypeAlias = Callable[[DurableStreamError], Any]
"""Told about each batch that failed for good; the error's ``records`` are its messages."""


@dataclass(frozen=True, slots=True)
class AppendResult:
    """A confirmed append. Appends that were sent together share the offset behind all of them."""

    next_offset: Offset


@dataclass(frozen=True, slots=True)
class CloseResult:
    """A confirmed closure."""

    final_offset: Offset


@dataclass(frozen=True, slots=True)
class HeadResult:
    """What a stream says about itself (PROTOCOL section 5.5)."""

    content_type: str | None
    offset: Offset
    stream_closed: bool
    etag: str | None = None
    cache_control: str | None = None
    exists: Literal[True] = True
    """A stream that does not exist raises `StreamNotFoundError`."""


@dataclass(frozen=True, slots=True)
class IdempotentAppendResult:
    """A confirmed append of an idempotent producer.

    ``duplicate`` says that the server had the batch's number already and stored nothing this time; it gives no
    ``offset`` then.
    """

    offset: Offset | None
    duplicate: bool


@dataclass(frozen=True, slots=True)
class StreamEvent(Generic[T]):
    """One response of the server: its data as bytes, text or a list of JSON values, and where it ends."""

    data: T
    next_offset: Offset
    up_to_date: bool
    cursor: str | None = None
