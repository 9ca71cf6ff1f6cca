"""Reads the command stream: pages, where each ends, and whether a page's commands were read as they came.

A page is **live** if everything before it was read, and nothing can have lain between: the connection is the same,
or a long-poll that followed at once. What a new connection begins with lay in the stream already, nobody knows for
how long.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import orjson

from ds_gateway.downlink.book import START_OFFSET, Place
from ds_gateway.downlink.pages import elements
from ds_gateway.errors import DownlinkError
from durable_streams import (
    AsyncDurableStream,
    InvalidOffsetError,
    RetentionGoneError,
    StreamNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    import httpx

    from ds_gateway.downlink.book import Mark
    from durable_streams import HeadResult

GAP_SECONDS: Final = 5.0
"""How long nobody may look before what comes next counts as found, not as just come."""
REFUSALS: Final = 3
"""An offset must be refused so often, by a server that knows the stream, before the place counts as lost."""
_JSON: Final = "application/json"


class PlaceLostError(DownlinkError):
    """The stream is not the one that was read before: it went back, was made anew, or was trimmed too far."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one answer, or one group of events, brought."""

    elements: list[bytes]
    next_offset: str
    is_up_to_date: bool
    is_live: bool
    mark: Mark | None
    """By which the stream is known again; None of a page without elements."""
    at: float
    """When it came; monotonic seconds."""


class Reader:
    """Reads one stream, again and again. Raises what goes wrong; who tries again is the caller."""

    def __init__(
        self,
        url: str,
        *,
        client: httpx.AsyncClient,
        headers: Mapping[str, Callable[[], str]],
        create: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._create = create
        self._clock = clock
        self._requests = 0
        self._requested_at = float("-inf")
        self.unanswered = 0
        """Requests since one was answered. One is open while a live read waits; more of them were in vain."""
        self._refusals = 0
        # No cache may answer: what it has kept looks like news. Asked for each request, it also counts them.
        self._stream = AsyncDurableStream(
            url, client=client, headers={**headers, "cache-control": self._note_request}
        )

    def _note_request(self) -> str:
        self._requests += 1
        self.unanswered += 1
        self._requested_at = self._clock()
        return "no-cache"

    async def look(self, place: Place | None) -> str:
        """Look whether there is the stream, make it if that is wanted, and return where it ends.

        ``place`` is where it was read to. Raises `PlaceLostError` if the stream is not the same any more,
        `DownlinkError` for one that holds no JSON, and the client's errors.
        """
        end = await self._end()
        if place is not None and place.offset != START_OFFSET and end < place.offset:
            raise PlaceLostError(f"the stream ends at {end}, and was read to {place.offset} before")
        if place is not None and place.mark is not None:
            await self._compare(place.mark)
        self.unanswered = 0
        return end

    async def _end(self) -> str:
        try:
            head: HeadResult = await self._stream.head()
        except StreamNotFoundError:
            if not self._create:
                raise
            head = await self._stream.create_stream(content_type=_JSON)
        content_type = (head.content_type or "").partition(";")[0].strip().lower()
        if content_type != _JSON:
            raise DownlinkError(
                f"{self.url} holds {content_type or 'nobody knows what'}, and commands are {_JSON}: "
                "delete it, or give downlink.stream another name"
            )
        return head.offset

    async def _compare(self, mark: Mark) -> None:
        """Look whether the last page that was read begins as it did: a stream made anew may be as long."""
        offset, digest = mark
        try:
            async with self._stream.stream(offset=offset, live=False) as response:
                event = await anext(response.iter_events("bytes"), None)
        except RetentionGoneError:
            return  # trimmed since: what is behind it is the same stream's all the same
        found = [] if event is None else elements(event.data)
        if not found or _digest(found[0]) != digest:
            raise PlaceLostError(f"the stream has another element behind {offset} than before: it was made anew")

    async def pages(self, start: Place) -> AsyncGenerator[Page, None]:
        """Yield the pages from a place on, until the stream is closed. Use it with `contextlib.aclosing`.

        Raises as `look` does.
        """
        place = start
        try:
            async with self._stream.stream(offset=place.offset, live=True) as response:
                self._refusals = 0
                before: Page | None = None
                events = response.iter_events("bytes")
                while True:
                    asked_at, requests = self._clock(), self._requests
                    event = await anext(events, None)
                    self.unanswered = 0
                    if event is None:
                        return
                    if place.offset != START_OFFSET and event.next_offset < place.offset:
                        raise PlaceLostError(f"the stream went back from {place.offset} to {event.next_offset}")
                    found = elements(event.data)
                    page = Page(
                        found,
                        event.next_offset,
                        event.up_to_date,
                        before is not None and self._has_no_gap(before, asked_at, requests),
                        (place.offset, _digest(found[0])) if found else None,
                        self._clock(),
                    )
                    if self._requests > requests and before is not None and not page.is_live:
                        # A server that went back and answers as if nothing had been is found out here.
                        await self.look(place if found else replace(place, mark=None))
                    yield page
                    before = page
                    place = Place(page.next_offset, place.number + len(found), page.mark or place.mark)
        except (InvalidOffsetError, RetentionGoneError) as error:
            await self.look(place)
            self._refusals += 1
            if self._refusals < REFUSALS:
                raise
            self._refusals = 0
            raise PlaceLostError(f"the stream cannot be read from {place.offset} on any more: {error}") from error

    def _has_no_gap(self, before: Page, asked_at: float, requests: int) -> bool:
        if not before.is_up_to_date or asked_at - before.at >= GAP_SECONDS:
            return False
        new = self._requests - requests
        return new == 0 or (new == 1 and self._requested_at - before.at < GAP_SECONDS)


def _digest(element: bytes) -> str:
    """Of what it says: blanks and line ends may differ from answer to answer."""
    try:
        element = orjson.dumps(orjson.loads(element))
    except orjson.JSONDecodeError:
        element = b"".join(element.split())
    return hashlib.blake2b(element, digest_size=16).hexdigest()
