"""The downlink of one gateway: reads, takes, executes, and tells how it is.

| state    | means                                                                                              |
|----------|----------------------------------------------------------------------------------------------------|
| starting | what the journal knows is being read                                                               |
| reading  | commands are read as they come                                                                     |
| held     | commands stay in their stream: the clock is not synchronised, there is no room, the receipts       |
|          | stream is not claimed, or another gateway has it                                                   |
| waiting  | the stream cannot be read; tried again for ever                                                    |
| closed   | the stream is closed: no more commands, ever                                                       |
| failed   | what the journal has of it is damaged                                                              |
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from typing import TYPE_CHECKING, Any, Final, Literal

from ds_gateway.commands import Order
from ds_gateway.downlink.ageing import Now
from ds_gateway.downlink.book import START_OFFSET, Book, Place
from ds_gateway.downlink.executor import LOOK_AGAIN_SECONDS, Bell, Executor, shown
from ds_gateway.downlink.outbox import Outbox
from ds_gateway.downlink.own import AllRoutes, perform
from ds_gateway.downlink.ports import GatewayMessage
from ds_gateway.downlink.reader import GAP_SECONDS, Page, PlaceLostError, Reader
from ds_gateway.downlink.reception import (
    Reading,
    Write,
    abandon,
    overdue,
    receive,
    stranded,
    taken_over,
)
from ds_gateway.downlink.room import Load, why_no_room
from ds_gateway.downlink.takeover import Takeover
from ds_gateway.errors import DownlinkError, JournalDamagedError
from ds_gateway.logs import event, logger
from durable_streams import DurableStreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ds_gateway.commands import Progress, Status
    from ds_gateway.downlink.reception import Ready
    from ds_gateway.downlink.surroundings import Options, Surroundings

_log = logger("downlink")

FIRST_PAUSE_SECONDS: Final = 0.25
MAX_PAUSE_SECONDS: Final = 30.0
CLOSED_PAUSE_SECONDS: Final = 60.0
UNANSWERED: Final = 3
"""Requests in a row that brought nothing, not even that there is nothing new: the server is away."""
_YIELD_EVERY: Final = 64

State = Literal["starting", "reading", "held", "waiting", "closed", "failed"]


class Downlink:
    """Used on the event loop; `on_confirmed` is for any thread."""

    def __init__(self, options: Options, around: Surroundings) -> None:
        self.book = Book()
        self.state: State = "starting"
        self.reason = ""
        self.is_up_to_date = False
        self._options = options
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._bell = Bell()
        self._outbox = Outbox(
            around.journal,
            self._loop,
            stream=options.receipts,
            gateway=options.gateway,
            envelope=options.envelope,
            now_ns=around.wall_ns,
            wall_clock=around.wall_clock,
        )
        self._executor = Executor(self, self._give, self._bell, dry_run=options.dry_run)
        self._routes = AllRoutes(around.routes, options.gateway_commands)
        self._reader = Reader(
            options.url,
            client=around.client,
            headers=around.headers,
            create=options.create,
            clock=around.monotonic,
        )
        self._takeover = Takeover(options, around, self, self._bell)
        self._place: Place | None = None
        """Where the next page begins."""
        self._known_before = 0
        """The last position of the receipts stream at the start: what was accepted earlier lies before it."""
        self._has_inherited = False
        """Whether what earlier processes left over was dealt with."""
        self._clock_is_good = False
        self._failures = 0
        """Attempts to read in a row that brought nothing."""
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the desk (`executor.Desk`)

    def now(self) -> Now:
        """Both clocks."""
        return Now(self._around.wall_ns(), self._around.monotonic())

    def write(self, write: Write) -> asyncio.Future[int]:
        """Let something be committed."""
        if write.receipt is not None:
            receipt = write.receipt
            event(
                _log,
                "info",
                "downlink.receipt",
                command=receipt.command_id,
                number=receipt.number,
                device=receipt.device,
                status=receipt.status,
                code=receipt.code,
            )
        return self._outbox.write(write)

    def why_held(self) -> str:
        """Why nothing is executed now; empty if it is."""
        return self.why_no_clock() or self._takeover.why_not()

    def is_alone(self) -> bool:
        """Whether no other gateway can have had what is open here."""
        return not self._takeover.why_not()

    def is_confirmed(self, position: int) -> bool:
        """Whether the receipts stream has everything up to a position."""
        return self._around.journal.confirmed(self._options.receipts) >= position

    def why_no_clock(self) -> str:
        """Why nobody knows how old a command is; empty if that is known."""
        if self._options.trusts_clock or self._clock_is_good:
            return ""
        return "the clock is not synchronised, so nobody knows how old a command is"

    # -- start and stop

    def start(self) -> None:
        """Begin; the journal must take items."""
        self._clock_is_good = self._around.is_synchronised()
        self._spawn(self._run(), "downlink")

    async def finish(self, timeout_seconds: float) -> None:
        """Begin no more commands, and let those that were begun end, but not longer than the timeout.

        One that is cut off is done twice, or nobody can tell whether it was done.
        """
        await self._executor.finish(timeout_seconds)

    async def stop(self) -> None:
        """End. What is open stays open, and goes on after the next start."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._executor.stop()

    @property
    def has_uncommitted(self) -> bool:
        """Whether receipts are on their way into the journal."""
        return self._outbox.uncommitted > 0

    def on_confirmed(self) -> None:
        """Receipts are in their stream, or its claim is another one. Any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._bell.ring)

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        rows = await self._outbox.restored
        try:
            self.book = Book.restored(rows)
        except JournalDamagedError as error:
            self.state, self.reason = "failed", str(error)
            event(_log, "error", "downlink.failed", reason=str(error))
            self._around.claim("")  # what receipts there are is sent all the same
            return
        self._known_before = self._around.journal.accepted(self._options.receipts)
        self._place = self.book.at
        if self._place is not None:
            self._take_over()
        self._spawn(self._watch(), "downlink watch")
        await self._read_for_ever()

    def _take_over(self) -> None:
        """Claim, but not before it is known where reading begins: no command falls between two gateways then."""
        self._spawn(self._takeover.run(secrets.token_hex(8)), "downlink takeover")

    def inherit(self, ended: Mapping[str, Status], *, was_there: bool) -> None:
        """Everything that others did is known; see `Heir`."""
        now = self.now()
        for entry in self.book.open_entries if was_there else []:
            turn = self._executor.turn(entry.number)
            if turn is not None and turn.is_handed:
                continue  # its source will tell what became of it
            write = taken_over(self.book, entry, ended.get(entry.id), now)
            if turn is None:
                self.write(write)
            else:
                self._executor.conclude(turn, write)
        if not self._has_inherited:
            self._has_inherited = True
            for write in stranded(self.book, now):
                self.write(write)
            for entry in self.book.lost_entries:
                self.write(abandon(self.book, entry, now))

    async def _watch(self) -> None:
        """See once a second to what nothing tells: clocks, deadlines."""
        while True:
            try:
                good = self._around.is_synchronised()
                if good != self._clock_is_good:
                    event(_log, "info" if good else "warning", "downlink.clock", synchronised=good)
                    self._clock_is_good = good
                    self._bell.ring()
                self._expire()
            except Exception as error:  # noqa: BLE001 - supervision boundary: deadlines must be watched on
                event(_log, "error", "downlink.defect", error=repr(error), exc=error)
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def _expire(self) -> None:
        if self.why_held():
            # An hour from now it may turn out to be next year, or last; or that another gateway has sent it.
            return
        self._executor.expire()
        now = self.now()
        for entry in self.book.open_entries:
            if entry.number not in self._executor and now.wall_ns >= entry.deadline_ns:
                self.write(overdue(self.book, entry, now, may_have_been_sent=entry.state == "given"))

    # -- reading

    async def _read_for_ever(self) -> None:
        while True:
            pause_seconds = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 10))
            try:
                await self._read()
                self.state, self.reason = "closed", f"{self._options.stream} is closed: it takes no more commands"
                pause_seconds = CLOSED_PAUSE_SECONDS
            except PlaceLostError as error:
                self._go_back(error)
            except (DurableStreamError, DownlinkError) as error:
                if self.state != "waiting":
                    event(_log, "warning", "downlink.waiting", stream=self._options.stream, reason=str(error))
                self.state, self.reason = "waiting", str(error)
            except Exception as error:  # noqa: BLE001 - supervision boundary: what was read stays open, and is read again
                self.state, self.reason = "waiting", f"defect: {error!r}"
                event(_log, "error", "downlink.defect", error=repr(error), exc=error)
                pause_seconds = MAX_PAUSE_SECONDS
            self._failures += 1
            self.is_up_to_date = False
            await asyncio.sleep(pause_seconds * random.uniform(0.5, 1))  # noqa: S311 - spreads retries

    async def _read(self) -> None:
        """Read on until the stream is closed."""
        if self._place is None:
            end = await self._reader.look(None)
            offset = end if self._options.start == "tail" else START_OFFSET
            await self.write(Write(self.book.begin(offset)))
            self._place = self.book.at
            self._take_over()
        await self._until_allowed(self.why_held)
        assert self._place is not None, "counting has begun"
        await self._reader.look(self._place)
        async with contextlib.aclosing(self._reader.pages(self._place)) as pages:
            async for page in pages:
                if self.state != "reading":
                    event(_log, "info", "downlink.reading", stream=self._options.stream, offset=self._place.offset)
                self.state, self.reason = "reading", ""
                await self._take(page)
                self.is_up_to_date = page.is_up_to_date
                self._failures = 0

    async def _take(self, page: Page) -> None:
        assert self._place is not None, "reading has begun"
        first = self._place.number
        end = Place(page.next_offset, first + len(page.elements), page.mark or self._place.mark)
        self.book.bound(end)
        for place, element in enumerate(page.elements):
            number = first + place
            if place % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            if number in self._executor or self.book.has_ended(number):
                continue
            await self._until_allowed(lambda number=number: self._why_no_room(number))  # type: ignore[misc]
            is_live = page.is_live and self._around.monotonic() - page.at < GAP_SECONDS
            received = receive(self.book, element, number, self._routes, Reading(self.now(), is_live))
            if received.is_lost:
                raise PlaceLostError(f"command {number} is not the one that stood there before")
            written = None if received.write is None else self.write(received.write)
            if received.write is not None and received.ready is None and received.write.receipt is not None:
                self._executor.counts[received.write.receipt.status] += 1
            if received.ready is not None:
                self._executor.add(received.ready, written or self._accepted_before())
        self._place = end
        if self.book.is_doubtful and page.is_up_to_date:
            self.write(Write(self.book.settle()))

    def _accepted_before(self) -> asyncio.Future[int]:
        known: asyncio.Future[int] = self._loop.create_future()
        known.set_result(self._known_before)
        return known

    def _go_back(self, error: PlaceLostError) -> None:
        """Begin again at the beginning of what is there. Expiry and ids protect from doing things twice."""
        event(_log, "error", "downlink.place_lost", stream=self._options.stream, reason=str(error))
        now = self.now()
        for entry in self.book.open_entries:
            if entry.number not in self._executor:
                self.write(abandon(self.book, entry, now))
        self.write(Write(self.book.begin_again(START_OFFSET)))
        self._place = self.book.at
        self.state, self.reason = "waiting", str(error)

    async def _until_allowed(self, why_not: Callable[[], str]) -> None:
        while reason := why_not():
            if self.state != "held":
                is_usual = not self._has_inherited and not self._around.is_fenced() and not self.why_no_clock()
                event(_log, "info" if is_usual else "warning", "downlink.held", reason=reason)
            self.state, self.reason = "held", reason
            await self._bell.wait(LOOK_AGAIN_SECONDS)
        if self.state == "held":
            self.state, self.reason = "reading", ""

    def _why_no_room(self, number: int) -> str:
        """Why a command must stay in its stream; empty if it can be taken."""
        return self.why_held() or why_no_room(
            Load(
                open_count=self.book.open_count,
                open_bytes=self._executor.open_bytes,
                span=number - self.book.through,
                uncommitted=self._outbox.uncommitted,
                uncommitted_bytes=self._outbox.uncommitted_bytes,
                receipt_room=self._around.journal.receipt_room,
            )
        )

    # -- giving

    def _give(self, ready: Ready, on_progress: Callable[[Progress], None]) -> None:
        if isinstance(ready.message, GatewayMessage):
            self._spawn(self._perform(ready.message, on_progress), f"command {ready.number}")
            return
        order = Order(ready.id, ready.device, ready.message, ready.delivery, ready.deadline.monotonic)
        self._around.targets[ready.route.source].send(order, on_progress)

    async def _perform(self, message: GatewayMessage, on_progress: Callable[[Progress], None]) -> None:
        on_progress(await perform(message, self._around.verbs, self._around.afterwards))

    # -- for people

    @property
    def trouble(self) -> str:
        """What is wrong and what to do; empty when nothing is. Without counts that change all the time."""
        if self._around.is_fenced():
            return self._around.why_not_claimed()  # nothing is executed any more, whether something comes or not
        if self.state == "reading" and self._is_unanswered:
            return f"{self._options.stream} is asked for in vain: the server is away, or does not answer"
        return self.reason or (self.why_held() if self.book.open_count else "")

    @property
    def _is_unanswered(self) -> bool:
        # A live read that lost its connection tries again by itself, for ever, and says nothing.
        return self._reader.unanswered >= UNANSWERED

    def summary(self) -> dict[str, Any]:
        """How it is, as JSON values."""
        is_away = self.state == "reading" and self._is_unanswered
        is_held = self.state in {"reading", "waiting"} and self._around.is_fenced()
        return {
            "state": "held" if is_held else "waiting" if is_away else self.state,
            "reason": self.trouble,
            "offset": None if self.book.at is None else self.book.at.offset,
            "number": self.book.through,
            "stream": self._options.stream,
            "receipts": self._options.receipts,
            "up_to_date": self.is_up_to_date and not is_away,
            "open": self.book.open_count,
            "counts": dict(self._executor.counts),
        }

    def commands(self, _arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Answer the control socket's verb ``commands``."""
        return {"commands": shown(self.book, self._executor), "downlink": self.summary()}
