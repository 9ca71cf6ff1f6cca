"""Reads the streams of a journal back from their servers, one after the other.

A stream is read to where it ended when its reading began: a gateway that goes on writing does not keep the audit
from ending. The embedded server is asked where it listens; while nobody serves its store, that is opened here.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ds_gateway.audit.contents import Comparison, Reading
from ds_gateway.audit.judgement import StreamAudit, judge, unread
from ds_gateway.config.server import STREAMS_FOLDER
from ds_gateway.errors import GatewayError
from ds_gateway.journal.reading import read_books
from ds_gateway.mapping import stream_path
from ds_gateway.retarget import old_settings, way_to
from ds_gateway.spans import Spans, TooScatteredError
from ds_gateway.uplink import http_client, request_headers
from durable_streams import (
    AsyncDurableStream,
    DurableStreamError,
    FetchError,
    ParseError,
    RetentionGoneError,
    StreamNotFoundError,
    UnauthorizedError,
    astream,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    import httpx

    from ds_gateway.config.models import Settings
    from ds_gateway.config.server import ServerSettings
    from ds_gateway.journal.reading import JournalView, StreamView

PROGRESS_RECORDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Way:
    """How the streams of one server are asked."""

    base_url: str
    client: httpx.AsyncClient
    headers: Mapping[str, Callable[[], str]]


async def audit_journal(
    settings: Settings,
    view: JournalView,
    streams: Sequence[StreamView],
    *,
    token: str | None = None,
    progress: Callable[[str, int], None] = lambda _name, _records: None,
) -> list[StreamAudit]:
    """Read these streams of the journal, and judge each. One that cannot be read says so in its audit.

    ``token`` takes the place of ``server.token``. Raises `JournalError` when the journal cannot be read again.
    """
    audits: dict[str, StreamAudit] = {}
    for url in dict.fromkeys(stream.book.url for stream in streams):
        theirs = [stream for stream in streams if stream.book.url == url]
        server = old_settings(settings.server, url, token)
        try:
            async with _way(server, settings) as way:
                for audit in await _audit_server(way, settings, view, theirs, progress):
                    audits[audit.name] = audit
        except GatewayError as error:
            audits.update(
                (stream.book.title, unread(stream, _url(server.base_url, stream), str(error)))
                for stream in theirs
                if stream.book.title not in audits
            )
    return [audits[stream.book.title] for stream in streams]


@asynccontextmanager
async def _way(server: ServerSettings, settings: Settings) -> AsyncIterator[_Way]:
    headers = request_headers(server)
    if not server.is_embedded or not is_served(Path(settings.data_dir) / STREAMS_FOLDER):
        async with way_to(server, settings.data_dir, settings.journal, http_client) as client:
            yield _Way(server.base_url, client, headers)
        return
    client = http_client(server)
    try:
        yield _Way(server.base_url, client, headers)
    finally:
        await client.aclose()


def is_served(directory: Path) -> bool:
    """Whether a process serves this store now: it holds the lock."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # opening the store says why
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


async def _audit_server(
    way: _Way,
    settings: Settings,
    view: JournalView,
    streams: Sequence[StreamView],
    progress: Callable[[str, int], None],
) -> list[StreamAudit]:
    audits: list[StreamAudit] = []
    silent = ""
    for stream in streams:
        url = _url(way.base_url, stream)
        if silent:
            audits.append(unread(stream, url, silent))
            continue
        try:
            audits.append(await _audit_stream(way, settings, view, stream, progress))
        except (DurableStreamError, TooScatteredError) as error:
            audits.append(unread(stream, url, why_unread(error)))
            if isinstance(error, FetchError) and error.status is None:
                # Each try takes its time, and there may be hundreds of streams.
                silent = f"not tried, because {way.base_url} did not answer for {stream.book.name}"
    return audits


async def _audit_stream(
    way: _Way, settings: Settings, view: JournalView, stream: StreamView, progress: Callable[[str, int], None]
) -> StreamAudit:
    book, url = stream.book, _url(way.base_url, stream)
    own = view.identity.short_install
    reading = Reading(moved(view, book.name))

    def feed(message: object) -> None:
        reading.feed(message)
        if reading.records % PROGRESS_RECORDS == 0:
            progress(book.title, reading.records)

    try:
        tail = await _tail(way, url)
        end = await _read(way, url, tail, feed)
    except StreamNotFoundError:
        if book.resolved_records:
            raise
        tail = end = ""  # it is made with the first batch
    comparison = None
    if reading.twice:
        comparison = Comparison(reading.twice)
        await _read(way, url, tail, comparison.feed)
    progress(book.title, reading.records)
    later = read_books(Path(settings.data_dir)).streams.get(book.title, stream).book
    return judge(
        stream,
        later,
        reading,
        install=book.install or own,
        url=url,
        ends_behind_anchor=book.anchor is not None and end >= book.anchor,
        comparison=comparison,
    )


def moved(view: JournalView, name: str) -> dict[str, Spans]:
    """Positions of a stream that were exported from this journal, or imported, by what their ids begin with."""
    found: dict[str, Spans] = {}
    for stream in view.streams.values():
        book = stream.book
        if book.name != name:
            continue
        spans = book.moved
        if book.imported:
            spans.add(book.begins, book.next_position - 1)
        for incarnation in (*(str(each) for each, _ in book.past), book.incarnation):
            prefix = f"{book.install or view.identity.short_install}.{incarnation}"
            found[prefix] = found.get(prefix, Spans()) | spans
    return found


async def _tail(way: _Way, url: str) -> str:
    handle = AsyncDurableStream(url, client=way.client, headers=way.headers)
    return (await handle.head()).offset or ""


async def _read(way: _Way, url: str, tail: str, feed: Callable[[object], None]) -> str:
    """Feed all records to the stream's end or, if it grows, at least to ``tail``; return where that was."""
    async with astream(url, live=False, client=way.client, headers=way.headers) as response:
        reached = ""
        async for message in response.iter_json():
            feed(message)
            offset = response.offset
            # Offsets of one stream sort as text. They move with the last record of a response.
            if offset != reached and tail and offset != "-1":
                reached = offset
                if reached >= tail:
                    break
        return response.offset


def _url(base_url: str, stream: StreamView) -> str:
    return f"{base_url}/{stream_path(stream.book.name)}"


def why_unread(error: Exception) -> str:
    """Why a stream could not be read, and the way out."""
    match error:
        case UnauthorizedError():
            return f"{error}: the token is refused; set server.token right, or give --token-file"
        case StreamNotFoundError():
            return (
                f"{error}: the server had records of it; it was deleted there, the server's data were replaced, "
                "or server.url is another one than it was"
            )
        case RetentionGoneError():
            return f"{error}: it was deleted, or the server drops records faster than they are read"
        case ParseError():
            return f"{error}: what is there are no records of a gateway, or the server is none of streams"
        case FetchError():
            return f"{error}: start the server, or see that server.url leads to it; then audit again"
        case TooScatteredError():
            return (
                "its positions lie in so many separate ranges that they cannot be counted: most of it is missing"
            )
        case _:
            return str(error)
