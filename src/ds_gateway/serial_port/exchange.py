"""One exchange on a serial line, without I/O: a request is written, and its answer is known among the frames.

    waiting --begin--> writing --wrote--> draining --drained--> listening --heard--> ended
       ^                  |                  |                     |
       +---interrupted----+------------------+---------------------+   the port vanished: written anew, or left
       +---------------------------------------check: no answer----+   while retries are left

Rules
- A request is written from its first byte again or not at all: no attempt goes on where another one ended.
- What was read before the last byte of the request had left is no part of an answer. A frame that began before it
  is searched only from there on, so that a glitch in front of an answer does not hide it, and no reading that was
  under way is taken for one.
- CR at the end of a frame is no part of what a pattern sees: where lines end with LF alone, a device may end them
  with CR and LF.
- Between two attempts the answer to the first still counts: the device is late.
- A line that echoes (RS-485 adapters do) gives the request back, as a frame like any other. It is an answer only
  where the pattern matches it: a pattern should match what the device says and not what it is told.
- Nobody can tell an answer that comes after its exchange has ended from the next one's, or a second copy of one
  from the next. Between exchanges it is a reading; ``turnaround_seconds`` is what keeps it out of the next.
- Each phase but ``waiting`` has a deadline of its own; whoever has an exchange says how long it may wait.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Sequence

    from ds_gateway.framing import Framer

_TEXT_CHARACTERS: Final = 4096
"""How much of a frame a pattern sees, and how much of an answer is kept."""

Phase = Literal["waiting", "writing", "draining", "listening", "ended"]

End = Literal[
    "sent",  # written, and no answer is expected
    "answered",
    "unanswered",  # written as often as allowed, and nothing came
    "stuck",  # not written within its time: flow control, or a driver that hangs
]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the device said to a request."""

    text: str
    is_error: bool
    """Whether it said that it did not do it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is written, and what is expected then."""

    data: bytes
    matcher: Callable[[bytes, int], Answer | None] | None = None
    """Whether a frame, searched from that byte on, is an answer; None: none is expected."""
    turnaround_seconds: float = 0.0
    """How long the line must be silent before it is written, and after it before the next is."""
    timeout_seconds: float = 0.0
    """How long to wait for an answer, from when the last byte left."""
    retries: int = 0
    """How often it is written again if no answer came."""
    write_seconds: float = 5.0
    """How long the writing may take, to the last byte."""
    framer: Framer | None = None
    """What cuts the answer out of the bytes that come; None: what cuts all frames of the port."""
    name: str = ""
    """What is asked, for people."""


def pattern_matcher(
    pattern: re.Pattern[str], error: re.Pattern[str] | None
) -> Callable[[bytes, int], Answer | None]:
    """A matcher of frames as text (Latin-1); what matches both says that it was not done."""

    def match(frame: bytes, start: int) -> Answer | None:
        text = frame[:_TEXT_CHARACTERS].decode("latin-1")
        # The start is not a cut: `^` is the beginning of the frame, wherever the search begins.
        if error is not None and error.search(text, start):
            return Answer(text, is_error=True)
        return Answer(text, is_error=False) if pattern.search(text, start) else None

    return match


def any_matcher(data: bytes, pattern: re.Pattern[str] | None) -> Callable[[bytes, int], Answer | None]:
    """A matcher for a device that only answers: any frame is one, but for the request that an adapter echoes."""
    echo = data.strip(b"\r\n")

    def match(frame: bytes, start: int) -> Answer | None:
        if pattern is None:
            return None if frame[start:].strip(b"\r\n") == echo else Answer("", is_error=False)
        text = frame[:_TEXT_CHARACTERS].decode("latin-1")
        return Answer("", is_error=False) if pattern.search(text, start) else None

    return match


class Exchange:
    """The state of one request. Times are on the monotonic clock, in seconds."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.phase: Phase = "waiting"
        self.end: End | None = None
        self.answer: Answer | None = None
        self.answer_frame = b""
        """The frame of the answer, without what was read before the last byte of the request had left."""
        self.was_late = False
        """Whether an attempt got no answer in time."""
        self.may_have_left = False
        """Whether the driver ever took a byte of it."""
        self.unwritten = b""
        """What the driver has to take yet, while it is ``writing``."""
        self.until = math.inf
        """When the phase is over at the latest."""
        self._retries = request.retries
        self._is_expecting = False
        self._stale_bytes = 0

    def begin(self, now: float) -> None:
        """The first byte is about to be written; from ``waiting`` only."""
        self._require("waiting")
        self._is_expecting = False
        self.unwritten = self.request.data
        self._enter("writing" if self.unwritten else "draining", now + self.request.write_seconds)

    def wrote(self, count: int) -> None:
        """The driver took that many bytes more; from ``writing`` only."""
        self._require("writing")
        self.may_have_left = self.may_have_left or count > 0
        self.unwritten = self.unwritten[count:]
        if not self.unwritten:
            self._enter("draining", self.until)

    def drained(self, now: float, begun_bytes: int) -> None:
        """The last byte left, while the framer held so many of a frame under way; from ``draining`` only."""
        self._require("draining")
        self.may_have_left = True
        if self.request.matcher is None:
            self._finish("sent")
            return
        self._is_expecting = True
        self._stale_bytes = begun_bytes
        self._enter("listening", now + self.request.timeout_seconds)

    def heard(self, frames: Sequence[bytes], begun_bytes: int) -> list[bytes]:
        """Frames came, and the framer holds so many bytes of the next: the frames that are not the answer."""
        matcher = self.request.matcher
        others: list[bytes] = []
        for frame in frames:
            start, self._stale_bytes = self._stale_bytes, 0
            line = frame.rstrip(b"\r")
            is_candidate = self._is_expecting and (start == 0 or start < len(line))
            answer = matcher(line, start) if matcher is not None and is_candidate else None
            if answer is None:
                others.append(frame)
            else:
                self.answer = answer
                self.answer_frame = frame[start:]
                self._finish("answered")
        # A frame under way that was given up as over-long takes what was stale with it.
        self._stale_bytes = min(self._stale_bytes, begun_bytes)
        return others

    def interrupted(self) -> None:
        """The port vanished; it is as if the exchange had not begun, but for `may_have_left`."""
        if self.phase != "ended":
            self._is_expecting = False
            self.unwritten = b""
            self._enter("waiting", math.inf)

    def check(self, now: float) -> None:
        """Go on where a phase has lasted long enough."""
        if now < self.until:
            return
        self.was_late = self.was_late or self.phase == "listening"
        if self.phase == "listening" and self._retries > 0:
            self._retries -= 1
            self._enter("waiting", math.inf)
        elif self.phase == "listening":
            self._finish("unanswered")
        elif self.phase in {"writing", "draining"}:
            self._finish("stuck")

    def _require(self, phase: Phase) -> None:
        if self.phase != phase:
            raise RuntimeError(f"an exchange that is {self.phase} is not {phase}")

    def _enter(self, phase: Phase, until: float) -> None:
        self.phase = phase
        self.until = until

    def _finish(self, end: End) -> None:
        self.end = end
        self._is_expecting = False
        self._enter("ended", math.inf)
