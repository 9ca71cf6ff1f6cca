"""Executes accepted commands: for each device in order and one at a time, different devices side by side.

    accepted -> confirmed in the receipts stream -> turn, rate -> `given`, committed -> its source -> receipt

Nothing is handed to a source before the server has its `accepted` under a claim of this start: who was fenced by
another gateway executes nothing. Whatever ends a command's time while it waits ends it with its receipt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from ds_gateway.commands import Receipt
from ds_gateway.downlink.reception import Write, end, overdue
from ds_gateway.logs import event, logger
from ds_gateway.records import rfc3339

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ds_gateway.commands import Progress, Status
    from ds_gateway.downlink.ageing import Now
    from ds_gateway.downlink.book import Book
    from ds_gateway.downlink.reception import Ready

    Give = Callable[[Ready, Callable[[Progress], None]], None]

_log = logger("downlink")

LOOK_AGAIN_SECONDS: Final = 1.0
_MAX_REMEMBERED_RATES: Final = 1000
_CODES: Final = {"failed": "device", "expired": "expired", "unknown": "unconfirmed"}


class Desk(Protocol):
    """What the executor works on."""

    book: Book

    def now(self) -> Now:
        """Both clocks."""
        ...  # pragma: no cover

    def write(self, write: Write) -> asyncio.Future[int]:
        """Let something be committed; see `Outbox.write`."""
        ...  # pragma: no cover

    def why_held(self) -> str:
        """Why nothing may be executed now; empty if it may."""
        ...  # pragma: no cover

    def is_alone(self) -> bool:
        """Whether no other gateway can have had what is open here: only then is it known that nobody sent it."""
        ...  # pragma: no cover

    def is_confirmed(self, position: int) -> bool:
        """Whether the receipts stream has everything up to a position."""
        ...  # pragma: no cover


class Bell:
    """Wakes everybody who waits for something to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Something changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_seconds: float) -> None:
        """Return when it rings, or after the timeout."""
        event = self._event
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await event.wait()


@dataclass(slots=True)
class Turn:
    """One command on its way through the executor."""

    ready: Ready
    written: Awaitable[int]
    """Gives a position that the `accepted` receipt lies before."""
    is_handed: bool = False
    """Whether the source has it."""
    is_given: bool = False
    """Whether this process committed that it may be sent."""
    has_ended: bool = False
    reason: str = ""
    """What it waits for."""


class Executor:
    """Used on the event loop."""

    def __init__(self, desk: Desk, give: Give, bell: Bell, *, dry_run: bool = False) -> None:
        self.counts: Counter[Status] = Counter()
        """Terminal receipts since the start."""
        self.open_bytes = 0
        self._desk = desk
        self._give = give
        self._bell = bell
        self._dry_run = dry_run
        self._turns: dict[int, Turn] = {}
        self._queues: dict[str, deque[Turn]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._next_at: dict[str, float] = {}
        self._stopped = False
        self._is_finishing = False

    def add(self, ready: Ready, written: Awaitable[int]) -> None:
        """Execute a command when its turn comes."""
        turn = Turn(ready, written)
        self._turns[ready.number] = turn
        self.open_bytes += ready.size_bytes
        self._queues.setdefault(ready.device, deque()).append(turn)
        if ready.device not in self._tasks:
            task = asyncio.create_task(self._work(ready.device), name=f"commands of {ready.device}")
            self._tasks[ready.device] = task

    def __contains__(self, number: int) -> bool:
        return number in self._turns

    def turn(self, number: int) -> Turn | None:
        """Where a command is."""
        return self._turns.get(number)

    def expire(self) -> None:
        """End what waits and is over."""
        now = self._desk.now()
        for turn in list(self._turns.values()):
            if not turn.is_handed and turn.ready.deadline.is_over(now):
                self._end_overdue(turn)
        for queue in self._queues.values():
            waiting = [turn for place, turn in enumerate(queue) if place == 0 or not turn.has_ended]
            if len(waiting) < len(queue):
                queue.clear()
                queue.extend(waiting)

    async def finish(self, timeout_seconds: float) -> None:
        """Begin nothing more, and wait for what was begun, but not longer than the timeout."""
        self._is_finishing = True
        give_up_at = self._desk.now().monotonic + timeout_seconds
        while any(turn.is_given for turn in self._turns.values()):
            left_seconds = give_up_at - self._desk.now().monotonic
            if left_seconds <= 0:
                break
            await self._bell.wait(left_seconds)

    async def stop(self) -> None:
        """Do nothing more. What is open stays open, whatever its source says from now on."""
        self._stopped = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- one device

    async def _work(self, device: str) -> None:
        queue = self._queues[device]
        try:
            while queue:
                await self._run(queue[0])
                queue.popleft()
        finally:
            del self._queues[device], self._tasks[device]

    async def _run(self, turn: Turn) -> None:
        try:
            position = await turn.written
            if await self._wait_for_turn(turn, position):
                await self._deliver(turn)
        except Exception as error:  # noqa: BLE001 - supervision boundary: one device's defect must not stop others
            number = turn.ready.number
            event(_log, "error", "downlink.command.defect", number=number, error=repr(error), exc=error)
            if not turn.has_ended:
                self._end(turn, "unknown" if turn.is_given else "failed", code="defect", reason=repr(error))

    async def _wait_for_turn(self, turn: Turn, position: int) -> bool:
        """Wait until the command may go to its source; False if it ended meanwhile."""
        ready = turn.ready
        while not turn.has_ended:
            now = self._desk.now()
            is_over = ready.deadline.is_over(now)
            if is_over and self._desk.is_alone():
                self._end_overdue(turn)
                break
            pause_seconds = self._next_at.get(ready.device, now.monotonic) - now.monotonic
            turn.reason = self._desk.why_held() or (
                "the server has not confirmed its acceptance yet" if not self._desk.is_confirmed(position) else ""
            )
            if self._is_finishing and not turn.is_given:
                turn.reason = "the gateway stops; it is done after the next start"
            if turn.reason or pause_seconds > 0:
                turn.reason = turn.reason or "max_rate of the device"
                left_seconds = ready.deadline.monotonic - now.monotonic
                longest = LOOK_AGAIN_SECONDS if is_over else min(LOOK_AGAIN_SECONDS, left_seconds)
                await self._bell.wait(longest if pause_seconds <= 0 else min(longest, pause_seconds))
            elif self._dry_run:
                self._end(turn, "failed", code="dry_run", reason=f"would have sent {ready.message}")
            elif not turn.is_given:
                written = self._desk.write(Write(self._desk.book.give(ready.number)))
                turn.is_given = True
                await written
            else:
                return True
        return False

    async def _deliver(self, turn: Turn) -> None:
        ready = turn.ready
        if ready.route.max_rate is not None:
            self._note_rate(ready.device, 1 / ready.route.max_rate)
        told: asyncio.Queue[Progress] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def on_progress(progress: Progress) -> None:
            if self._stopped:
                return
            try:
                with contextlib.suppress(RuntimeError):  # the loop is closed: it stopped in between
                    loop.call_soon_threadsafe(told.put_nowait, progress)
            except Exception as error:  # noqa: BLE001 - supervision boundary: it would end the source's thread
                event(_log, "error", "downlink.progress.lost", number=ready.number, error=repr(error), exc=error)

        turn.is_handed = True
        turn.reason = "with its source"
        self._give(ready, on_progress)
        while True:
            progress = await told.get()
            if progress.is_final:
                code = progress.code or _CODES.get(progress.status, "")
                ended = self._end(turn, progress.status, code=code, reason=progress.reason, reply=progress.reply)
                if progress.then is not None:
                    await ended
                    progress.then()
                return
            self._tell(turn, progress)

    def _tell(self, turn: Turn, progress: Progress) -> None:
        entry = self._desk.book.entries[turn.ready.number]
        if entry.status == progress.status:
            return
        receipt = Receipt(
            entry.id,
            entry.number,
            entry.device,
            progress.status,
            is_final=False,
            reason=progress.reason,
            reply=progress.reply,
        )
        self._desk.write(Write(self._desk.book.tell(entry.number, progress.status), receipt))

    def _note_rate(self, device: str, pause_seconds: float) -> None:
        now = self._desk.now().monotonic
        if len(self._next_at) >= _MAX_REMEMBERED_RATES:
            self._next_at = {name: at for name, at in self._next_at.items() if at > now}
        self._next_at[device] = now + pause_seconds

    # -- the end of a command

    def _end_overdue(self, turn: Turn) -> None:
        entry = self._desk.book.entries[turn.ready.number]
        may_have_been_sent = turn.ready.may_have_been_sent
        self.conclude(
            turn, overdue(self._desk.book, entry, self._desk.now(), may_have_been_sent=may_have_been_sent)
        )

    def _end(
        self, turn: Turn, status: Status, *, code: str = "", reason: str = "", reply: str | None = None
    ) -> asyncio.Future[int]:
        says_not_sent = status == "expired" or (status == "failed" and not turn.is_handed)
        if turn.ready.may_have_been_sent and says_not_sent:
            status = "unknown"  # not by this process
        entry = self._desk.book.entries[turn.ready.number]
        write = end(self._desk.book, entry, status, self._desk.now(), code=code, reason=reason, reply=reply)
        return self.conclude(turn, write)

    def conclude(self, turn: Turn, write: Write) -> asyncio.Future[int]:
        """Let its end be committed; see `Desk.write`."""
        turn.has_ended = True
        del self._turns[turn.ready.number]
        self.open_bytes -= turn.ready.size_bytes
        if write.receipt is not None:
            self.counts[write.receipt.status] += 1
        written = self._desk.write(write)
        self._bell.ring()
        return written

    def __iter__(self) -> Iterator[Turn]:
        return iter(list(self._turns.values()))


def shown(book: Book, executor: Executor) -> list[dict[str, Any]]:
    """The open commands, as JSON values for people."""
    found = []
    for entry in book.open_entries:
        turn = executor.turn(entry.number)
        found.append(
            {
                "command": entry.id,
                "number": entry.number,
                "device": entry.device,
                "state": entry.status if turn is None or not turn.is_handed else "sent",
                "since": rfc3339(entry.since_ns),
                "deadline": rfc3339(entry.deadline_ns),
                "reason": turn.reason if turn is not None else "it is read again from the stream",
            }
        )
    return found
