"""A downlink with a real journal, real uplinks and a real stream server; its device is a thread of the test.

`kill` ends everything as `kill -9` does: what the journal did not commit is gone. The server and the device live
on.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson

from ds_gateway.commands import Progress
from ds_gateway.config.models import BatchSettings, ExactlyOnceSettings
from ds_gateway.config.server import ServerSettings
from ds_gateway.downlink.service import Downlink
from ds_gateway.downlink.surroundings import Options, Surroundings
from ds_gateway.journal import Journal, JournalLimits
from ds_gateway.uplink import Uplinks, http_client
from durable_streams import DurableStream
from harness.commands import FakeRoutes
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ds_gateway.commands import Order
    from ds_gateway.journal.book import Book
    from durable_streams.testing import InMemoryStreamServer

COMMANDS, RECEIPTS = "commands/g", "receipts/g"


class KilledError(BaseException):
    """The journal's writer dies of it."""


class Device:
    """Does what it is told, in a thread; `answer` says what becomes of an order (None: nothing, for ever)."""

    def __init__(self) -> None:
        self.done: list[Order] = []
        self.answer: Callable[[Order], list[Progress]] = lambda _order: [Progress("published", is_final=True)]
        self._orders: queue.Queue[tuple[Order, Callable[[Progress], None]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def send(self, order: Order, on_progress: Callable[[Progress], None]) -> None:
        self._orders.put((order, on_progress))

    def _work(self) -> None:
        while (each := self._orders.get()) is not None:
            order, on_progress = each
            self.done.append(order)
            for progress in self.answer(order):
                on_progress(progress)

    def close(self) -> None:
        self._orders.put(None)
        self._thread.join(5)

    def times(self) -> Counter[str]:
        """How often each command was executed."""
        return Counter(order.command_id for order in self.done)


class DownlinkBox:
    """One gateway's downlink, started as often as a test likes."""

    def __init__(self, directory: Path, server: InMemoryStreamServer, device: Device, **options: Any) -> None:
        self.directory = directory
        self.server = server
        self.device = device
        self.options = options
        self.routes = FakeRoutes()
        self.verbs: dict[str, Callable[[Any], dict[str, Any]]] = {}
        self.afterwards: dict[str, Callable[[], None]] = {}
        self.is_synchronised = True
        self.shift_seconds = 0.0
        """Of the wall clock."""
        self.on_commit: Callable[[int], None] = lambda _count: None
        """Told how many commits were begun; may raise `KilledError`."""
        self.commits = 0
        self.limits: dict[str, Any] = {}

    async def start(self) -> Downlink:
        loop = asyncio.get_running_loop()
        settings = ServerSettings(url=self.server.url("v1"))
        client = http_client(settings)
        self.uplinks = Uplinks(
            settings,
            BatchSettings(),
            ExactlyOnceSettings(),
            client,
            gateway="g",
            fenced=RECEIPTS,
            on_claim=lambda: self.downlink.on_confirmed(),  # noqa: PLW0108 - it is not there yet
        )

        def on_stream(book: Book) -> None:
            loop.call_soon_threadsafe(self._add_stream, book.number, book.name, book.url)

        def on_point(_when: str, _parts: frozenset[str]) -> None:
            self.commits += 1
            self.on_commit(self.commits)

        self.journal = await asyncio.to_thread(
            lambda: Journal.open(
                self.directory,
                gateway="g",
                url=settings.url,
                limits=JournalLimits(min_free_bytes=0, max_delay_seconds=0, receipts=RECEIPTS, **self.limits),
                on_stream=on_stream,
                on_point=on_point,
                on_confirmed=lambda _stream: self.downlink.on_confirmed(),
            )
        )
        self.client = http_client(settings)
        self.downlink = Downlink(
            Options(
                **{
                    "gateway": "g",
                    "stream": COMMANDS,
                    "receipts": RECEIPTS,
                    "url": self.server.url(f"v1/{COMMANDS}"),
                    "receipts_url": self.server.url(f"v1/{RECEIPTS}"),
                    "start": "beginning",
                }
                | self.options
            ),
            Surroundings(
                journal=self.journal,
                routes=self.routes,
                targets={"hall": self.device},
                verbs=self.verbs,
                client=self.client,
                headers={},
                install=self.journal.identity.short_install,
                claim=self._claim,
                claimed=lambda: self.uplinks.claimed(RECEIPTS),
                why_not_claimed=lambda: self.uplinks.why_not_claimed(RECEIPTS),
                is_fenced=lambda: self.uplinks.is_stopped(RECEIPTS),
                is_synchronised=lambda: self.is_synchronised,
                afterwards=self.afterwards,
                wall_ns=lambda: time.time_ns() + int(self.shift_seconds * 1e9),
            ),
        )
        self.journal.start()
        for number, name, url in self.journal.streams():
            if name != RECEIPTS:
                self._add_stream(number, name, url)
        self.downlink.start()
        return self.downlink

    def _claim(self, life: str) -> None:
        for number, name, url in self.journal.streams():
            if name == RECEIPTS:
                self._add_stream(number, name, url, life=life)

    def _add_stream(self, number: int, name: str, url: str, **birth: str) -> None:
        self.uplinks.add(number, name, url, self.journal.store(number, birth=birth))

    async def stop(self) -> None:
        """In order."""
        await self.downlink.stop()
        await await_until(
            lambda: not self.downlink.has_uncommitted or not self.journal.running, what="receipts are committed"
        )
        await self._end()

    async def kill(self) -> None:
        """As a crash: the writer dies before its next commit."""

        def die(_count: int) -> None:
            raise KilledError

        self.on_commit = die
        await self.downlink.stop()
        await self._end()
        self.on_commit = lambda _count: None

    async def _end(self) -> None:
        await self.uplinks.close()
        await self.client.aclose()
        await asyncio.to_thread(self.journal.stop)

    # -- the other side

    async def send(self, *elements: bytes) -> None:
        def send() -> None:
            with DurableStream.create(
                self.server.url(f"v1/{COMMANDS}"), content_type="application/json"
            ) as handle:
                for element in elements:
                    handle.append(element)

        await asyncio.to_thread(send)

    async def receipts(self) -> list[dict[str, Any]]:
        """The records in the receipts stream that are receipts."""

        def read() -> list[dict[str, Any]]:
            with (
                DurableStream.create(self.server.url(f"v1/{RECEIPTS}"), content_type="application/json") as handle,
                handle.stream(live=False) as response,
            ):
                return list(response.read_json())

        records = await asyncio.to_thread(read)
        positions = [each["id"] for each in records if each.get("kind") == "receipt"]
        assert len(set(positions)) == len(positions), "a record is there twice"
        return [each["info"] | {"device": each["device"]} for each in records if each.get("kind") == "receipt"]

    async def wait_for(self, count: int, timeout_seconds: float = 30.0) -> list[dict[str, Any]]:
        """Receipts, once so many commands have their last one."""
        return await self.receipts_when(
            lambda receipts: sum(each["final"] or each.get("repeated", False) for each in receipts) >= count,
            timeout_seconds,
        )

    async def receipts_when(
        self, holds: Callable[[list[dict[str, Any]]], object], timeout_seconds: float = 30.0
    ) -> list[dict[str, Any]]:
        """Receipts, as soon as that holds for them."""
        deadline = time.monotonic() + timeout_seconds
        while not holds(receipts := await self.receipts()):
            assert time.monotonic() < deadline, (self.downlink.commands({}), receipts[-5:])
            await asyncio.sleep(0.05)  # the poll of the condition, not a guess at its time
        return receipts


def body(payload: bytes) -> Any:
    """What was published."""
    return orjson.loads(payload)
