"""From the bytes of one port to items of the journal: frames, whose they are, records; and all that is counted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ds_gateway.framing import build_framer
from ds_gateway.records import Frame, Item

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.config.serial_port import SerialSettings
    from ds_gateway.framing import Framer
    from ds_gateway.records import Record, Rejected
    from ds_gateway.serial_port.orders import Orders
    from ds_gateway.serial_port.overrun import ItemSink, Overrun
    from ds_gateway.serial_port.polls import Polls
    from ds_gateway.serial_port.turns import Turns
    from ds_gateway.serial_port.watch import Watch


class Reading:
    """Of one port, in its thread. ``now`` is on the monotonic clock, in seconds."""

    def __init__(
        self,
        settings: SerialSettings,
        *,
        pipeline: Callable[[Frame], Record | Rejected | None],
        on_dropped: Callable[[], None],
        intake: ItemSink,
        turns: Turns,
        orders: Orders,
        polls: Polls,
        overrun: Overrun,
        watch: Watch,
    ) -> None:
        self.silent_at = math.inf
        """When `note_silence` is due: nothing came for as long as means something to the framer."""
        self._keeps_unasked = settings.keeps_unasked
        self._framer = build_framer(settings.framing)
        self._pipeline = pipeline
        self._on_dropped = on_dropped
        self._intake = intake
        self._turns = turns
        self._orders = orders
        self._polls = polls
        self._overrun = overrun
        self._watch = watch
        self._heard_nothing = False
        """Whether not a byte came since the port was opened, nor was it found to be at a boundary."""
        self._read_time_ns = 0
        self._last_frame_time_ns: int | None = None
        self._frames = self._bytes = self._unasked = 0
        self._overlong = self._bad_checks = self._resyncs = 0

    def opened(self, now: float) -> None:
        """Reading begins anywhere: the first bytes may be the tail of a frame."""
        self._framer.reset(discard_to_boundary=True)
        self._await_silence(self._framer, now)
        self._heard_nothing = True

    def before_answer(self) -> int:
        """The last byte of a request has left: how many bytes are held that are no part of its answer."""
        framer = self._turns.framer or self._framer
        if self._heard_nothing or not self._keeps_unasked:
            # No frame was under way, so what comes now is no tail: it is the beginning of an answer.
            self._heard_nothing = False
            framer.reset(discard_to_boundary=False)
        return framer.begun_bytes

    def take(self, data: bytes, time_ns: int, now: float) -> None:
        """Bytes were read at that time (UTC, nanoseconds since 1970)."""
        self._heard_nothing = False
        framer = self._turns.framer or self._framer
        self._watch.health.received(len(data))
        frames = self._frames_of(framer, lambda: framer.feed(data))
        self._read_time_ns = time_ns
        self._await_silence(framer, now)
        self._turns.received(now)
        self._bytes += len(data)
        self._hand_on(framer, frames, time_ns, now)

    def note_silence(self, now: float) -> None:
        """Nothing came for the framer's gap: what that completes was read when the last byte was."""
        self.silent_at = math.inf
        frames = self._frames_of(self._framer, self._framer.idle)
        self._hand_on(self._framer, frames, self._read_time_ns, now)

    def counters(self) -> dict[str, Any]:
        """Those of the snapshot."""
        return {
            "received_frames": self._frames,
            "received_bytes": self._bytes,
            "answers": self._orders.answers,
            "unasked": self._unasked,
            "overlong": self._overlong,
            "bad_checks": self._bad_checks,
            "resyncs": self._resyncs,
            "overflow_lost": self._overrun.lost,
            "last_frame_time_ns": self._last_frame_time_ns,
        }

    def _await_silence(self, framer: Framer, now: float) -> None:
        self.silent_at = math.inf if framer.gap_seconds is None else now + framer.gap_seconds

    def _frames_of(self, framer: Framer, get: Callable[[], list[bytes]]) -> list[bytes]:
        """What the framer gives; what it counts meanwhile is added, as others may come after it."""
        before = framer.overlong, framer.bad_checks, framer.resyncs
        frames = get()
        overlong, bad_checks = framer.overlong - before[0], framer.bad_checks - before[1]
        self._overlong += overlong
        self._bad_checks += bad_checks
        self._resyncs += framer.resyncs - before[2]
        self._watch.health.bad(overlong, "it is longer than allowed")
        self._watch.health.bad(bad_checks, "it is damaged")
        return frames

    def _hand_on(self, framer: Framer, frames: list[bytes], time_ns: int, now: float) -> None:
        answers = self._orders.answers
        unasked = self._turns.heard(frames, framer.begun_bytes, now)
        readings = [Frame(frame, time_ns) for frame in unasked] if self._keeps_unasked else []
        readings += [Frame(frame, time_ns, route) for route, frame in self._polls.take_answers()]
        outcomes = [self._pipeline(reading) for reading in readings]
        items = [Item(outcome) for outcome in outcomes if outcome is not None]
        if items and not self._intake.offer(items):
            self._overrun.add(len(items), time_ns)
            self._on_dropped()
        self._watch.took(
            now,
            payloads=outcomes,
            has_frames=bool(frames),
            has_answers=self._orders.answers > answers,
        )
        self._frames += len(frames)
        self._unasked += 0 if self._keeps_unasked else len(unasked)
        if frames:
            self._last_frame_time_ns = time_ns
