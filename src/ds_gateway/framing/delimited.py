"""Frames between a start and a stop, with an escape in front of what would look like one.

    outside --start--> inside --stop--> outside        (without a start: inside --stop--> inside)
    inside --start--> inside, with a new frame          (its stop is lost)
    inside --too long--> discarding --start or stop--> as from inside

Rules
- An escape and the byte behind it stand for that byte, exclusive-or ``xor``. Where ``xor`` is 0 that byte may be
  any, so noise that ends in an escape hides a start or stop right behind it. Otherwise a start or stop is one
  wherever it stands, and an escape in front of it is damage.
- Start and stop have one or two bytes, and neither begins with the other.
- At most ``max_bytes`` and a few are held between two calls. Each byte is searched and copied a constant number of
  times.
"""

from __future__ import annotations

import re

from ds_gateway.framing.framer import Counters


class DelimitedFramer(Counters):
    """Cuts at a start and a stop. Not thread-safe; one for each link.

    ``start`` may be empty. ``after`` bytes behind the stop, and then the stop itself, are part of the frame.
    """

    def __init__(
        self, *, start: bytes, stop: bytes, escape: int | None, xor: int, after: int, max_bytes: int
    ) -> None:
        super().__init__()
        self._start = start
        self._after = after
        self._max_bytes = max_bytes
        self._escape = None if escape is None else bytes([escape])
        self._xor = xor
        marks = [(b"stop", stop), (b"start", start)] if start else [(b"stop", stop)]
        kinds = [b"(?P<%b>%b)" % (name, re.escape(mark)) for name, mark in marks]
        if self._escape is not None:
            firsts = b"".join(re.escape(mark[:1]) for _, mark in marks)
            behind = b"[^%b]" % firsts if xor else b"."
            kinds.append(b"(?P<pair>%b%b)" % (re.escape(self._escape), behind))
            self._pairs = re.compile(re.escape(self._escape) + b"(.?)", re.DOTALL)
        self._tokens = re.compile(b"|".join(kinds), re.DOTALL)
        self._buffer = bytearray()
        self._scanned = 0
        """No stop, start or escape begins before this place of the buffer."""
        self._is_inside = not start
        self._discards = False
        self._is_lost = False
        """Whether something was skipped since the last frame, which is counted then."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an unfinished frame held now."""
        return len(self._buffer)

    @property
    def begun_bytes(self) -> int:
        """See `ds_gateway.framing.Framer.begun_bytes`."""
        return len(self._buffer) if self._is_inside and not self._discards else 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came and return the frames that they complete, oldest first."""
        self._buffer += data
        frames: list[bytes] = []
        while self._is_inside or self._enter():
            token = self._tokens.search(self._buffer, self._scanned)
            if token is None:
                # The last byte may be the first of two.
                self._advance(max(self._scanned, len(self._buffer) - 1))
                break
            if token.lastgroup == "pair":
                self._advance(token.end())
                continue
            if token.lastgroup == "stop" and len(self._buffer) < token.end() + self._after:
                self._advance(token.start())
                break
            begin, end = token.span()
            self._note_length(begin)
            if token.lastgroup == "start":
                if begin and not self._discards:
                    self._lose()
            else:
                end += self._after
                frames += self._finished(begin, end)
                self._is_inside = not self._start
            self._discards = False
            del self._buffer[:end]
            self._scanned = 0
        return frames

    def reset(self, *, discard_to_boundary: bool) -> None:
        """Forget the unfinished frame; see `ds_gateway.framing.Framer.reset`."""
        self._buffer.clear()
        self._scanned = 0
        self._is_inside = not self._start
        self._discards = discard_to_boundary and self._is_inside
        self._is_lost = discard_to_boundary

    def _enter(self) -> bool:
        """Go on at the next start; False if there is none."""
        begin = self._buffer.find(self._start)
        is_there = begin >= 0
        if not is_there:
            may_be_first = len(self._start) > 1 and self._buffer.endswith(self._start[:1])
            begin = len(self._buffer) - int(may_be_first)
        # Many a device puts a line end between two frames.
        if self._buffer[:begin].strip(b"\r\n"):
            self._lose()
        del self._buffer[: begin + len(self._start) if is_there else begin]
        self._scanned = 0
        self._is_inside = is_there
        return is_there

    def _advance(self, place: int) -> None:
        """Everything before this place is known to be content."""
        self._scanned = place
        self._note_length(place)
        if self._discards:
            del self._buffer[:place]
            self._scanned = 0

    def _note_length(self, content_bytes: int) -> None:
        if not self._discards and content_bytes > self._max_bytes:
            self.overlong += 1
            self._discards = True

    def _finished(self, stop: int, end: int) -> list[bytes]:
        """The frame whose stop begins there, if it is one."""
        if self._discards or not stop:
            return []
        content = self._unescaped(bytes(self._buffer[:stop]))
        if content is None:
            self.bad_checks += 1
            return []
        self._is_lost = False
        return [content + bytes(self._buffer[stop:end])] if self._after else [content]

    def _unescaped(self, content: bytes) -> bytes | None:
        """The content without escapes; None if there is nothing behind one."""
        if self._escape is None or self._escape not in content:
            return content
        try:
            return self._pairs.sub(lambda pair: bytes([pair[1][0] ^ self._xor]), content)
        except IndexError:
            return None

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self.resyncs += 1
