"""Frames of another framer that are judged, and taken out of their encoding, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ds_gateway.framing.checks import Judge
    from ds_gateway.framing.framer import Framer


class CheckedFramer:
    """Lets only those frames pass that all judges let pass, each seeing what the one before made of it.

    ``proves``: a frame that passes is one wherever it stands. Then nothing is discarded after a `reset`, and
    what fails there was the tail of a frame.
    """

    def __init__(self, framer: Framer, judges: Iterable[Judge], *, proves: bool = False) -> None:
        self._framer = framer
        self._judges = tuple(judges)
        self._proves = proves
        self._bad_checks = 0
        self._may_be_a_tail = False

    @property
    def overlong(self) -> int:
        """Frames discarded so far because they were longer than allowed."""
        return self._framer.overlong

    @property
    def bad_checks(self) -> int:
        """Frames discarded so far because they were damaged."""
        return self._framer.bad_checks + self._bad_checks

    @property
    def resyncs(self) -> int:
        """How often bytes that are part of no frame were skipped."""
        return self._framer.resyncs

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an unfinished frame held now."""
        return self._framer.buffered_bytes

    @property
    def begun_bytes(self) -> int:
        """See `ds_gateway.framing.Framer.begun_bytes`."""
        return self._framer.begun_bytes

    @property
    def gap_seconds(self) -> float | None:
        """The silence after which `idle` is to be called."""
        return self._framer.gap_seconds

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came and return the frames that they complete, oldest first."""
        return self._judged(self._framer.feed(data))

    def idle(self) -> list[bytes]:
        """Return the frames that a silence completes."""
        return self._judged(self._framer.idle())

    def reset(self, *, discard_to_boundary: bool) -> None:
        """Forget the unfinished frame; see `ds_gateway.framing.Framer.reset`."""
        self._may_be_a_tail = discard_to_boundary and self._proves
        self._framer.reset(discard_to_boundary=discard_to_boundary and not self._proves)

    def _judged(self, frames: list[bytes]) -> list[bytes]:
        passed: list[bytes] = []
        for frame in frames:
            payload: bytes | None = frame
            for judge in self._judges:
                if payload is not None:
                    payload = judge(payload)
            if payload:
                passed.append(payload)
            elif not self._may_be_a_tail:
                self._bad_checks += 1
            self._may_be_a_tail = False
        return passed
