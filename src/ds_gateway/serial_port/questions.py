"""Which of a port's requests recorded bytes answer: a replay of `polls`, without port and time limits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ds_gateway.serial_port.exchange import Exchange
from ds_gateway.serial_port.plan import jobs

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ds_gateway.config.serial_port import SerialSettings
    from ds_gateway.framing import Framer
    from ds_gateway.serial_port.exchange import Request
    from ds_gateway.serial_port.polls import Job


class Questions:
    """Of one port. As long as nobody says what was sent, each is taken as asked in its turn."""

    def __init__(self, source: str, settings: SerialSettings, wanted: Collection[int] = ()) -> None:
        """``wanted``: routes of the jobs that are asked in turn; none: all."""
        self._jobs = jobs(source, settings)
        self._turns = [job for job in self._jobs if not wanted or job.route in wanted]
        self._keeps_unasked = settings.keeps_unasked
        self._is_told = False
        """Whether it is recorded what was sent."""
        self._heard_nothing = True
        self._sent = b""
        self._last: Job | None = None
        self._job: Job | None = None
        self._exchange: Exchange | None = None
        self._frames: list[bytes] = []
        self._answers: list[tuple[int, bytes]] = []
        self._notes: list[str] = []

    def __bool__(self) -> bool:
        """Whether anything is asked."""
        return bool(self._jobs)

    @property
    def framer(self) -> Framer | None:
        """What cuts the bytes that come now; None: what cuts all frames of the port."""
        return None if self._exchange is None else self._exchange.request.framer

    def asked(self, data: bytes, framer: Framer, now: float) -> None:
        """These bytes were written: a request, a part of one, or a command, which is nothing here."""
        self._is_told = True
        self._sent += data
        job = self._found(self._sent)
        if job is not None:
            self._begin(job, framer, now)
        if job is not None or not any(each.data.startswith(self._sent) for each in self._expected()):
            self._sent = b""

    def prompt(self, framer: Framer, now: float) -> None:
        """A byte comes: where nobody says what was asked, it was the next in turn."""
        if self._exchange is None and not self._is_told and self._turns:
            self._begin(self._job or self._next(), framer, now)
        self._heard_nothing = False

    def heard(self, frames: Sequence[bytes], begun_bytes: int) -> list[bytes]:
        """Those frames that answer nothing."""
        exchange = self._exchange
        if exchange is None:
            return list(frames)
        others = exchange.heard(frames, begun_bytes)
        if exchange.answer is None:
            return others
        self._exchange = None
        job = self._job
        assert job is not None, "an exchange belongs to a job"
        if exchange.answer.is_error:
            self._notes.append(f"{job.name}, {exchange.request.name}: {exchange.answer.text}")
            self._job = None
            return others
        self._frames.append(exchange.answer_frame)
        if len(self._frames) == len(job.requests):
            self._answers.append((job.route, job.join(self._frames)))
            self._job = None
        return others

    def take_answers(self) -> list[tuple[int, bytes]]:
        """What came together since the last call, with routes."""
        answers, self._answers = self._answers, []
        return answers

    def take_notes(self) -> list[str]:
        """What devices refused since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def _expected(self) -> list[Request]:
        """What may be written next."""
        going_on = [] if self._job is None else [self._job.requests[len(self._frames)]]
        return going_on + [job.requests[0] for job in self._jobs]

    def _found(self, data: bytes) -> Job | None:
        if self._job is not None and self._job.requests[len(self._frames)].data == data:
            return self._job
        # The same bytes may ask for several: then they come in turn.
        start = 0 if self._last is None else self._jobs.index(self._last) + 1
        in_turn = self._jobs[start:] + self._jobs[:start]
        return next((job for job in in_turn if job.requests[0].data == data), None)

    def _next(self) -> Job:
        start = 0 if self._last is None else self._turns.index(self._last) + 1
        return self._turns[start % len(self._turns)]

    def _begin(self, job: Job, framer: Framer, now: float) -> None:
        if job is not self._job:
            self._job = self._last = job
            self._frames = []
        exchange = self._exchange = Exchange(replace(job.requests[len(self._frames)], retries=0))
        if self._heard_nothing or not self._keeps_unasked:
            # As `reading` does: no frame was under way.
            framer.reset(discard_to_boundary=False)
        exchange.begin(now)
        exchange.wrote(len(exchange.unwritten))
        exchange.drained(now, (exchange.request.framer or framer).begun_bytes)
