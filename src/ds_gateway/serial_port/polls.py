"""What one port asks by itself, without I/O: what is due, which answer it was, and what does not answer.

A job is asked once in its interval: one exchange after the other, and what they say together is one frame.

Rules
- Jobs are due on a grid that begins when they are known. What a busy or closed line made impossible is left out,
  and not made up for: the next time is the next one of the grid.
- Of several due jobs the one that has waited longest is next, so that none can starve another.
- A job fails if one of its exchanges does, and is over then. Its trouble is told until it succeeds again; in
  between it is asked once in its interval, without retries: a dead device should not slow the others down.
- After a request that was not answered in time the line must be silent for that time before the next request
  that goes out: the late answer, or the second one, is not to be taken for another's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ds_gateway.serial_port.exchange import Exchange, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ds_gateway.framing import Framer
    from ds_gateway.serial_port.silence import Silence


@dataclass(frozen=True, slots=True)
class Job:
    """Something that is asked again and again."""

    name: str
    """What is asked, for people."""
    route: int
    """See `ds_gateway.records.Frame.route`."""
    requests: Sequence[Request]
    """In this order; each has a matcher."""
    interval_seconds: float
    join: Callable[[Sequence[bytes]], bytes]
    """One frame of the answers to all requests."""


@dataclass(frozen=True, slots=True)
class PollCounters:
    """What became of the requests, since the start."""

    answered: int = 0
    unanswered: int = 0
    """Jobs without an answer, after all retries."""
    refused: int = 0
    """Jobs that a device said no to, or that could not be written."""
    missed: int = 0
    """Times at which a job should have been asked, and was not, because the line was busy or closed."""
    late: int = 0
    """Requests that were not answered at once, whether they were after a retry or not at all."""


class _Schedule:
    """One job and when it is due."""

    def __init__(self, job: Job, now: float) -> None:
        self.job = job
        self.due = now
        self.trouble = ""
        self._anchor = now

    def ended(self, now: float) -> int:
        """It was asked; how many times were missed meanwhile."""
        interval_seconds = self.job.interval_seconds
        steps = math.floor((now - self._anchor) / interval_seconds) + 1
        due = max(self._anchor + steps * interval_seconds, self.due + interval_seconds)
        missed = round((due - self.due) / interval_seconds) - 1
        self.due = due
        return missed


class _Running:
    """A job that is being asked."""

    def __init__(self, schedule: _Schedule) -> None:
        self.schedule = schedule
        self.frames: list[bytes] = []
        self.exchange = self._next()

    def _next(self) -> Exchange:
        request = self.schedule.job.requests[len(self.frames)]
        return Exchange(replace(request, retries=0) if self.schedule.trouble else request)

    def go_on(self, frame: bytes) -> bool:
        """Take the answer; whether there is something left to ask."""
        self.frames.append(frame)
        if len(self.frames) == len(self.schedule.job.requests):
            return False
        self.exchange = self._next()
        return True


class Polls:
    """The jobs of one port. Not thread-safe. Times are on the monotonic clock, in seconds."""

    def __init__(self, jobs: Sequence[Job], silence: Silence, now: float) -> None:
        self.counters = PollCounters()
        self._silence = silence
        self._schedules = [_Schedule(job, now) for job in jobs]
        self._running: _Running | None = None
        self._answers: list[tuple[int, bytes]] = []
        self._must_discard = False

    def __bool__(self) -> bool:
        """Whether anything is asked."""
        return bool(self._schedules)

    @property
    def is_busy(self) -> bool:
        """Whether the line is in the middle of an exchange, which nothing may come between."""
        exchange = self._exchange
        return exchange is not None and (exchange.phase != "waiting" or exchange.was_late)

    @property
    def is_draining(self) -> bool:
        """Whether the driver has taken all bytes of a request, and has to be asked when the last left it."""
        return self._exchange is not None and self._exchange.phase == "draining"

    @property
    def is_writing(self) -> bool:
        """Whether a request was begun that has not left the driver yet."""
        return self._exchange is not None and self._exchange.phase in {"writing", "draining"}

    @property
    def unwritten(self) -> bytes:
        """What the port has to be given now; empty if nothing."""
        return self._exchange.unwritten if self._exchange is not None else b""

    @property
    def framer(self) -> Framer | None:
        """What cuts the bytes that come now; None: what cuts all others."""
        return self._exchange.request.framer if self._exchange is not None and self.is_busy else None

    @property
    def troubles(self) -> list[str]:
        """What does not answer, or refuses to; for people."""
        return [each.trouble for each in self._schedules if each.trouble]

    def is_overdue(self, now: float) -> bool:
        """Whether some job has waited for a whole interval of its own."""
        return any(now >= each.due + each.job.interval_seconds for each in self._schedules)

    def closed(self) -> None:
        """The port vanished: what was being asked is asked anew when it is there again."""
        self._running = None
        for schedule in self._schedules:
            schedule.trouble = ""

    def advance(self, now: float) -> None:
        """Give up what has waited long enough."""
        exchange = self._exchange
        if exchange is None:
            return
        was_late = exchange.was_late
        exchange.check(now)
        if exchange.was_late and not was_late:
            self.counters = replace(self.counters, late=self.counters.late + 1)
        if exchange.end == "stuck":
            self._must_discard = True
            self._failed(now, "the port takes no byte: is it held by flow control?", is_refusal=True)
        elif exchange.end == "unanswered":
            self._failed(now, f"no answer within {exchange.request.timeout_seconds:g} s", is_refusal=False)

    def wants_to_begin(self, now: float) -> bool:
        """Whether a request is to be written from its first byte now: see `begin`."""
        return self._begins_at() <= now

    def begin(self, now: float) -> None:
        """Begin what `wants_to_begin`."""
        if self._running is None:
            self._running = _Running(min(self._schedules, key=lambda each: each.due))
        exchange = self._running.exchange
        exchange.begin(now)
        self._silence.after_seconds = exchange.request.turnaround_seconds

    def wrote(self, count: int, now: float) -> None:
        """The driver took so many of the `unwritten` bytes."""
        self._require().wrote(count)
        self._silence.broken(now)

    def drained(self, now: float, begun_bytes: int) -> None:
        """The last byte left the driver, while the framer held so many of a frame under way."""
        self._require().drained(now, begun_bytes)
        self._silence.broken(now)

    def heard(self, frames: Sequence[bytes], begun_bytes: int, now: float) -> list[bytes]:
        """Those frames that answer nothing; the framer holds so many bytes of a next one."""
        exchange = self._exchange
        if exchange is None:
            return list(frames)
        others = exchange.heard(frames, begun_bytes)
        if exchange.answer is not None:
            self._note_end(exchange)
            if exchange.answer.is_error:
                self._failed(now, exchange.answer.text, is_refusal=True)
            else:
                self._answered(now, exchange.answer_frame)
        return others

    def due(self) -> float:
        """When to call `advance` again, or to ask whether one `wants_to_begin`, if nothing happens before."""
        exchange = self._exchange
        return min(self._begins_at(), math.inf if exchange is None else exchange.until)

    def take_answers(self) -> list[tuple[int, bytes]]:
        """The frames that came together since the last call, with their routes."""
        answers, self._answers = self._answers, []
        return answers

    def take_discard(self) -> bool:
        """Whether the driver still holds bytes of a request that was given up, which must not leave any more."""
        must_discard, self._must_discard = self._must_discard, False
        return must_discard

    @property
    def _exchange(self) -> Exchange | None:
        return self._running.exchange if self._running is not None else None

    def _require(self) -> Exchange:
        if self._running is None:
            raise RuntimeError("nothing is being asked")
        return self._running.exchange

    def _begins_at(self) -> float:
        if not self._silence.is_open or not self._schedules:
            return math.inf
        if self._running is None:
            schedule = min(self._schedules, key=lambda each: each.due)
            turnaround_seconds = schedule.job.requests[0].turnaround_seconds
            return max(schedule.due, self._silence.lasts_until(turnaround_seconds))
        exchange = self._running.exchange
        if exchange.phase != "waiting":
            return math.inf
        return self._silence.lasts_until(exchange.request.turnaround_seconds)

    def _note_end(self, exchange: Exchange) -> None:
        if exchange.was_late:
            # An answer to one of its requests may be under way still.
            seconds = max(exchange.request.turnaround_seconds, exchange.request.timeout_seconds)
            self._silence.after_seconds = seconds

    def _answered(self, now: float, frame: bytes) -> None:
        running = self._running
        assert running is not None, "somebody was asked"
        if running.go_on(frame):
            return
        schedule, self._running = running.schedule, None
        self._answers.append((schedule.job.route, schedule.job.join(running.frames)))
        schedule.trouble = ""
        counters = self.counters
        self.counters = replace(
            counters, answered=counters.answered + 1, missed=counters.missed + schedule.ended(now)
        )

    def _failed(self, now: float, reason: str, *, is_refusal: bool) -> None:
        running, self._running = self._running, None
        assert running is not None, "somebody was asked"
        schedule = running.schedule
        self._note_end(running.exchange)
        what = running.exchange.request.name
        schedule.trouble = f"{schedule.job.name}{f', {what}' if what else ''}: {reason}"
        counters = self.counters
        self.counters = replace(
            counters,
            unanswered=counters.unanswered + (not is_refusal),
            refused=counters.refused + is_refusal,
            missed=counters.missed + schedule.ended(now),
        )
