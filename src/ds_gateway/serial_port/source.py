"""One thread for one serial port: read, frame, decode, offer to the journal; write what is ordered, and ask.

It never waits for a commit, and for a device only in `select.poll`, where everything else wakes it, too.

    waiting --opened--> open --unplugged, or any error--> waiting      (and so on until `SerialSource.stop`)

A port is always opened by its configured path again, so that a device that was replugged is found by its
stable name. What the journal's queue does not take is lost: counted, and entered into the loss ledger as soon as
the queue has room for that.

In one turn the thread goes on with a write that was begun, then reads, then sees to what is due, then begins a
write. So a frame is only taken for an answer if it was read after the request's last byte was known to have left.

What comes first after an opening may be the tail of a frame, so it is discarded to the first boundary. Only a
device that says nothing until a request was written begins with a frame, which is its answer. Where devices only
answer, what was read before a request's last byte had left is noise, and forgotten.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ds_gateway.commands import Progress, SerialMessage
from ds_gateway.errors import DeviceError
from ds_gateway.liveness import RESOLVE_SECONDS, Liveness
from ds_gateway.logs import event, logger
from ds_gateway.serial_port.orders import Orders
from ds_gateway.serial_port.overrun import Overrun
from ds_gateway.serial_port.plan import jobs
from ds_gateway.serial_port.polls import Polls
from ds_gateway.serial_port.port import Port, open_port
from ds_gateway.serial_port.reading import Reading
from ds_gateway.serial_port.silence import Silence
from ds_gateway.serial_port.snapshot import SerialSnapshot
from ds_gateway.serial_port.turns import Turns
from ds_gateway.serial_port.uart import UartCounters, read_counters
from ds_gateway.serial_port.wake import Wake
from ds_gateway.serial_port.watch import Watch
from durable_streams import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.commands import Order
    from ds_gateway.config.serial_port import SerialSettings
    from ds_gateway.records import Frame, Record, Rejected
    from ds_gateway.serial_port.overrun import ItemSink
    from ds_gateway.serial_port.tap import Tap
    from durable_streams import RandomSource

_log = logger("serial_port")

_READ_BYTES: Final = 4096
_TURN_SECONDS: Final = 1.0
"""The longest wait between two turns of the loop, so that `SerialSource.alive_at` proves that it turns."""

_OPEN_SECONDS: Final = RESOLVE_SECONDS + 40.0
"""How long a network's port may take to open: to be found, to be connected, to agree on the line's settings."""
_CLOSE_SECONDS: Final = 40.0
"""How long a driver may wait for bytes that flow control holds, and a little."""
_DRAIN_LOOK_SECONDS: Final = 0.005
"""How often the driver is asked whether the last byte has left: nothing tells of it."""
_SETTLE_SECONDS: Final = 0.05
_SETTLE_CHARACTERS: Final = 3
"""How long a port that was opened is listened to before the first write: an adapter keeps for up to 16 ms what it
received, and a slow line needs some time for a character. Then a frame that was under way has shown itself."""
_BITS_PER_CHARACTER: Final = 12
_READS_BEFORE_WRITE: Final = 16
"""How often the port is read at most before a write is begun: a device that babbles does not hold it up."""

_REOPEN: Final = Backoff(first_seconds=0.2, max_seconds=2.0)


class SerialSource:
    """A serial port that is read from `start` to `stop`, whether or not its device is there.

    ``pipeline`` is called in the source's thread, and so is ``on_dropped``, when a record of it is lost.
    ``now_ns`` is the wall clock (UTC, nanoseconds since 1970), ``monotonic`` the clock of deadlines, in seconds.
    """

    def __init__(
        self,
        name: str,
        settings: SerialSettings,
        *,
        pipeline: Callable[[Frame], Record | Rejected | None],
        on_dropped: Callable[[], None] = lambda: None,
        intake: ItemSink,
        random: RandomSource,
        open_port: Callable[[SerialSettings], Port] = open_port,
        read_counters: Callable[[int], UartCounters | None] = read_counters,
        now_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._settings = settings
        self._random = random
        self._open_port = open_port
        self._now_ns = now_ns
        self._monotonic = monotonic
        self._thread: threading.Thread | None = None
        self._wake: Wake | None = None
        self._stopping = threading.Event()
        silence = Silence()
        # These are of the source's thread alone.
        self._orders = Orders(settings.baudrate, silence)
        self._polls = Polls(jobs(name, settings), silence, monotonic())
        self._turns = Turns(self._orders, self._polls, silence)
        self._watch = Watch(
            name,
            intake,
            silent_after_seconds=settings.silent_after_seconds,
            monotonic=monotonic,
            now_ns=now_ns,
            read_counters=read_counters,
        )
        self._taps: tuple[Tap, ...] = ()
        """Replaced whole, by any thread."""
        self._inbox: list[tuple[Order, Callable[[Progress], None]]] = []
        """Orders that the thread has not seen yet; with ``_has_ended`` under the lock."""
        self._inbox_lock = threading.Lock()
        self._has_ended = False
        self._liveness = Liveness(monotonic)
        self._opens = 0
        self._overrun = Overrun(name, intake, monotonic)
        self._reading = Reading(
            settings,
            pipeline=pipeline,
            on_dropped=on_dropped,
            intake=intake,
            turns=self._turns,
            orders=self._orders,
            polls=self._polls,
            overrun=self._overrun,
            watch=self._watch,
        )
        # Replaced whole by the source's thread; others only read the reference.
        self._snapshot = SerialSnapshot()

    def start(self) -> None:
        """Begin to read. A port that is not there is waited for in the thread, never here."""
        if self._thread is not None:
            raise RuntimeError(f"the serial source {self.name} was started already")
        self._wake = wake = Wake()
        wake.set()  # for orders that came before
        self._thread = threading.Thread(target=self._run, args=(wake,), name=f"serial-{self.name}", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> bool:
        """Close the port and end the thread; False if it has not ended in time. Bytes not read yet are lost.

        Open orders end `unknown` if a byte of theirs may have left, else `expired`.
        """
        self._stopping.set()
        if self._thread is None or self._wake is None:
            self._end_orders()
            return True
        self._wake.set()
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            return False
        self._wake.close()
        self._wake = None
        return True

    def send(self, order: Order, on_progress: Callable[[Progress], None]) -> None:
        """Write a command to the port, when it is its turn; TypeError if it is not for a serial port.

        From any thread, in any state, never blocks. ``on_progress`` is called in the source's thread (in the
        caller's after the source has ended) and must neither block nor raise; exactly one call is final.
        """
        if not isinstance(order.message, SerialMessage):
            raise TypeError(f"the command {order.command_id} for {order.device} is not for the port {self.name}")
        with self._inbox_lock:
            has_ended = self._has_ended
            if not has_ended:
                self._inbox.append((order, on_progress))
                # Under the lock, so that the pipe is there: it is closed after the end only.
                if self._wake is not None:
                    self._wake.set()
        if has_ended:
            on_progress(Progress("expired", is_final=True, reason="the gateway stops"))

    def tap(self, tap: Tap) -> None:
        """Let it hear what is read and written from now on, until `untap`. Any thread."""
        with self._inbox_lock:
            self._taps = (*self._taps, tap)

    def untap(self, tap: Tap) -> None:
        """End a `tap`. Any thread; harmless when repeated."""
        with self._inbox_lock:
            self._taps = tuple(each for each in self._taps if each is not tap)

    def snapshot(self) -> SerialSnapshot:
        """State and counters. Any thread."""
        orders = self._orders
        return replace(self._snapshot, orders_waiting=orders.waiting, orders_unacknowledged=orders.unacknowledged)

    @property
    def alive_at(self) -> float:
        """When the thread last turned, on the monotonic clock; it does so at least every second. Any thread.

        Now, while it waits for a port to open or to close and its time for that is not over.
        """
        return self._liveness.alive_at

    def _run(self, wake: Wake) -> None:
        attempt = 0
        while not self._stopping.is_set():
            self._liveness.turn()
            received = self._snapshot.received_bytes
            try:
                reason = self._read_once_opened(wake)
            # Supervision boundary: a mistake in a framer or a decoder must not end the thread, which nobody would
            # notice from outside; the port is opened anew, and the frames of the failed read are lost.
            except Exception as error:  # noqa: BLE001
                event(_log, "error", "serial.port.failed", exc=error, source=self.name)
                reason = f"internal error: {error!r}"
            # A device that talked was well: begin with short waits again.
            attempt = 0 if self._snapshot.received_bytes != received else attempt
            self._wait_because(reason)
            self._pause(_REOPEN.delay(attempt, self._random), wake)
            attempt += 1
        self._end_orders()
        self._overrun.tell(at_once=True)
        self._watch.ended()
        self._wait_because("stopped")

    def _read_once_opened(self, wake: Wake) -> str:
        """Open the port and read until it is gone. Return why it is."""
        try:
            with self._liveness.waiting(_OPEN_SECONDS):
                port = self._open_port(self._settings)
        except DeviceError as error:
            return str(error)
        try:
            self._note_opened(port)
            return self._serve_until_gone(port, wake)
        except OSError as error:
            return f"{self._settings.where} is gone: {error.strerror or error}"
        except termios.error as error:
            return f"{self._settings.where} is gone: {error}"
        finally:
            self._close(port)

    def _serve_until_gone(self, port: Port, wake: Wake) -> str:
        descriptor = port.fileno()
        poll = select.poll()
        poll.register(wake.descriptor, select.POLLIN)
        while not self._stopping.is_set():
            poll.register(descriptor, select.POLLIN | (select.POLLOUT if self._turns.unwritten else 0))
            ready = dict(poll.poll(self._turn_seconds() * 1000))
            self._liveness.turn()
            now = self._monotonic()
            if wake.descriptor in ready:
                wake.clear()
            self._overrun.tell()
            self._write_on(port)
            if ready.get(descriptor, 0) & ~select.POLLOUT and not self._read(descriptor):
                return f"{self._settings.where} is gone, or another program reads from it"
            if now >= self._reading.silent_at:
                self._reading.note_silence(now)
                self._count()
            self._see_to_orders()
            if self._turns.wants_to_begin(self._monotonic()):
                self._begin_write(port)
            if self._turns.take_discard():
                port.reset_output_buffer()
            self._tell_progress()
            self._look_after(descriptor)
        return "stopped"

    def _read(self, descriptor: int) -> bool:
        """Take what was received, at most `_READ_BYTES`; False if the device is gone."""
        data = os.read(descriptor, _READ_BYTES)
        if data:
            for tap in self._taps:
                tap.heard(data, self._monotonic())
            self._reading.take(data, self._now_ns(), self._monotonic())
            self._count()
        return bool(data)

    def _turn_seconds(self) -> float:
        if self._turns.is_draining:
            return _DRAIN_LOOK_SECONDS
        now = self._monotonic()
        return max(0.0, min(_TURN_SECONDS, min(self._turns.due(now), self._reading.silent_at) - now))

    def _see_to_orders(self) -> None:
        with self._inbox_lock:
            came, self._inbox = self._inbox, []
        for order, on_progress in came:
            self._orders.add(order, on_progress)
        self._turns.advance(self._monotonic())

    def _begin_write(self, port: Port) -> None:
        """Begin to write, unless the line turns out not to be silent, or the order's time is over meanwhile."""
        # What was received by now is no answer, so it has to be read before the first byte leaves.
        # A terminal with nothing to read gives no bytes, as one that is gone does, so it is asked first.
        poll = select.poll()
        poll.register(port.fileno(), select.POLLIN)
        for _ in range(_READS_BEFORE_WRITE):
            if not poll.poll(0):
                break
            if not self._read(port.fileno()):
                return
        now = self._monotonic()
        self._turns.advance(now)
        if self._turns.wants_to_begin(now):
            self._turns.begin(now)
            self._write_on(port)

    def _write_on(self, port: Port) -> None:
        """Give the driver what it takes of a write that was begun, and look whether its last byte has left."""
        unwritten = self._turns.unwritten
        if unwritten:
            with contextlib.suppress(BlockingIOError):
                count = os.write(port.fileno(), unwritten)
                for tap in self._taps:
                    tap.heard(unwritten[:count], self._monotonic(), is_sent=True)
                self._turns.wrote(count, self._monotonic())
        if self._turns.is_draining and port.out_waiting == 0:
            begun_bytes = self._reading.before_answer()
            self._turns.drained(self._monotonic(), begun_bytes)

    def _tell_progress(self) -> None:
        for on_progress, progress in self._orders.take_told():
            on_progress(progress)

    def _end_orders(self) -> None:
        with self._inbox_lock:
            self._has_ended = True
            came, self._inbox = self._inbox, []
        for order, on_progress in came:
            self._orders.add(order, on_progress)
        self._orders.stop()
        self._tell_progress()

    def _close(self, port: Port) -> None:
        # Closing waits for bytes that flow control holds, and they must not leave after they were given up.
        if self._turns.is_writing:
            with contextlib.suppress(OSError, termios.error):
                port.reset_output_buffer()
        with self._liveness.waiting(_CLOSE_SECONDS), contextlib.suppress(OSError):
            port.close()
        self._watch.closed()
        if not self._stopping.is_set():
            self._turns.closed()

    def _count(self) -> None:
        self._snapshot = replace(self._snapshot, **self._reading.counters())

    def _look_after(self, descriptor: int) -> None:
        """Tell what is wrong, and what is well again."""
        watch = self._watch
        watch.turn(self._monotonic(), descriptor, self._polls.troubles)
        self._snapshot = replace(
            self._snapshot,
            state="alarm" if watch.alarms else "open",
            reason="; ".join(watch.alarms),
            alarms=watch.alarms,
            silent=watch.is_silent,
            unreadable=watch.is_unreadable,
            polls=self._polls.counters if self._polls else None,
            uart=watch.counters,
        )

    def _note_opened(self, port: Port) -> None:
        now = self._monotonic()
        self._reading.opened(now)
        self._opens += 1
        characters_seconds = _SETTLE_CHARACTERS * _BITS_PER_CHARACTER / self._settings.baudrate
        self._turns.opened(now, settle_seconds=_SETTLE_SECONDS + characters_seconds)
        self._watch.opened(now, port.fileno())
        self._snapshot = replace(self._snapshot, state="open", reason="", reopens=self._opens - 1)
        event(_log, "info", "serial.port.opened", source=self.name, port=self._settings.where)

    def _wait_because(self, reason: str) -> None:
        # The same reason again, every two seconds for days, is no news.
        if reason not in {self._snapshot.reason, "stopped"}:
            event(_log, "warning", "serial.port.waiting", source=self.name, reason=reason)
        self._snapshot = replace(
            self._snapshot, state="waiting", reason=reason, alarms=(), silent=False, unreadable=False
        )

    def _pause(self, seconds: float, wake: Wake) -> None:
        """Wait, in turns, unless the source is stopped; orders expire meanwhile."""
        deadline = self._monotonic() + seconds
        while not self._stopping.is_set():
            self._see_to_orders()
            self._tell_progress()
            self._liveness.turn()
            now = self._monotonic()
            self._overrun.tell()
            if now >= deadline:
                return
            if wake.wait(max(0.0, min(deadline - now, _TURN_SECONDS, self._orders.due() - now))):
                wake.clear()
