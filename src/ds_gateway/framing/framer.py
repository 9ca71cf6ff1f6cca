"""What every framer is."""

from __future__ import annotations

from typing import Protocol


class Framer(Protocol):
    """Cuts the bytes of one link into frames. How the bytes were chunked never changes frames or counters."""

    @property
    def overlong(self) -> int:
        """Frames discarded so far because they were longer than allowed."""
        ...  # pragma: no cover

    @property
    def bad_checks(self) -> int:
        """Frames discarded so far because they were damaged: the check or the encoding does not hold."""
        ...  # pragma: no cover

    @property
    def resyncs(self) -> int:
        """How often bytes that are part of no frame were skipped; all between two frames count once."""
        ...  # pragma: no cover

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an unfinished frame held now."""
        ...  # pragma: no cover

    @property
    def begun_bytes(self) -> int:
        """Bytes that the next frame begins with, if it is not discarded; 0 where none has begun."""
        ...  # pragma: no cover

    @property
    def gap_seconds(self) -> float | None:
        """The silence after which `idle` is to be called; None: silence means nothing."""
        ...  # pragma: no cover

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came and return the frames that they complete, oldest first."""
        ...  # pragma: no cover

    def idle(self) -> list[bytes]:
        """Nothing came for ``gap_seconds``: return the frames that this completes, oldest first."""
        ...  # pragma: no cover

    def reset(self, *, discard_to_boundary: bool) -> None:
        """Forget the unfinished frame: the link was opened again.

        With ``discard_to_boundary`` what comes next may be the tail of a frame whose head was never read: it
        is discarded to the first boundary, and not counted. Where a frame proves itself, by a mark at its
        beginning or by a check of 16 bits or more, nothing else is discarded.
        """
        ...  # pragma: no cover


class Counters:
    """What framers have in common that have no use for some of it."""

    gap_seconds: float | None = None

    def __init__(self) -> None:
        self.overlong = 0
        self.bad_checks = 0
        self.resyncs = 0

    def idle(self) -> list[bytes]:
        """Silence ends no frame."""
        return []
