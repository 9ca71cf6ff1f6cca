"""Frames that are found by trying: where one may begin, and whether what stands there holds.

Rules
- A frame may begin at any place that the layout calls a beginning. It ends where the layout says.
- What is longer than ``max_bytes``, or whose check does not hold, is no frame. The search goes on at the next
  byte, so that a wrong length hides no frame that stands inside of what it announced.
- After a silence of ``gap_seconds`` an unfinished frame is none: the device would have gone on. What stands
  inside of it is found then.
- Without a mark and without a check every place holds, so a place that is lost is only found after a silence.
- At most ``max_bytes`` are held between two calls. A byte is searched once, copied and checked at most once for
  each beginning that stands less than ``max_bytes`` before it; `ds_gateway.config.framing` bounds that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ds_gateway.framing.checks import proves
from ds_gateway.framing.framer import Counters

if TYPE_CHECKING:
    from ds_gateway.framing.checks import Judge


class Layout(Protocol):
    """Where frames begin and end."""

    fillers: bytes
    """What may stand between two frames."""
    is_marked: bool
    """Whether a beginning can be told from other bytes."""

    def begin(self, buffer: bytearray, start: int) -> int:
        """The first place from ``start`` on where a frame begins, or may begin when more is known."""
        ...  # pragma: no cover

    def end(self, buffer: bytearray, begin: int, scanned: int) -> int | None:
        """Where the frame at ``begin`` ends, perhaps behind the buffer's end; None: not known yet.

        Not behind ``begin``: no frame is there. No mark of an end begins before ``scanned``.
        """
        ...  # pragma: no cover


class CandidateFramer(Counters):
    """Tries what may be a frame. Not thread-safe; one for each link.

    ``cut`` bytes at the beginning of a frame that holds are left out.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        judge: Judge | None,
        max_bytes: int,
        gap_seconds: float | None = None,
        cut: int = 0,
    ) -> None:
        super().__init__()
        self.gap_seconds = gap_seconds
        self._layout = layout
        self._judge = judge
        self._max_bytes = max_bytes
        self._cut = cut
        self._buffer = bytearray()
        self._scanned = 0
        """No mark of an end begins before this place of the buffer."""
        self._is_lost = False
        """Whether something was skipped since the last frame, which is counted then."""
        self._discards = False
        """Whether everything is discarded until a silence."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an unfinished frame held now."""
        return len(self._buffer)

    @property
    def begun_bytes(self) -> int:
        """See `ds_gateway.framing.Framer.begun_bytes`."""
        return len(self._buffer)  # it always begins where a frame may begin

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came and return the frames that they complete, oldest first."""
        if self._discards:
            return []
        self._buffer += data
        return self._search(is_silent=False)

    def idle(self) -> list[bytes]:
        """What is unfinished now is no frame; return those inside of it."""
        self._discards = False
        return self._search(is_silent=True)

    def reset(self, *, discard_to_boundary: bool) -> None:
        """Forget the unfinished frame; see `ds_gateway.framing.Framer.reset`."""
        self._buffer.clear()
        self._scanned = 0
        self._is_lost = discard_to_boundary
        proves_itself = self._layout.is_marked or proves(self._judge)
        self._discards = discard_to_boundary and not proves_itself and self.gap_seconds is not None

    def _search(self, *, is_silent: bool) -> list[bytes]:
        frames: list[bytes] = []
        buffer, layout = self._buffer, self._layout
        place = 0
        while True:
            begin = layout.begin(buffer, place)
            if begin > place:
                if buffer[place:begin].strip(layout.fillers):
                    self._lose()
                place = begin
            if place >= len(buffer):
                break
            end = layout.end(buffer, place, self._scanned)
            if end is None:
                self._scanned = len(buffer)
            # An end that is not known yet is not before the end of what is there.
            if (len(buffer) if end is None else end) - place > self._max_bytes:
                self.overlong += self._counts
            elif end is None or end > len(buffer):
                if not is_silent:
                    break
            elif end > place:
                frame = bytes(buffer[place:end])
                payload = frame if self._judge is None else self._judge(frame)
                if payload is not None:
                    # A device may send frames of nothing to say that it is there.
                    frames += [payload[self._cut :]] if len(payload) > self._cut else []
                    self._is_lost = False
                    place = end
                    continue
                self.bad_checks += self._counts
            self._lose()
            place += 1
        del buffer[:place]
        self._scanned = max(0, self._scanned - place)
        return frames

    @property
    def _counts(self) -> int:
        """1 if what fails here was meant for a frame: it has a mark, or stands where the next had to."""
        return int(self._layout.is_marked or not self._is_lost)

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self.resyncs += 1
