"""Which of a device's readings become records: changes, a heartbeat, samples. Pure: the time is given.

What is kept of a device is bounded: a digest of its last reported fields, and the numbers that have a deadband.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.decoding.numbers import exact
from ds_gateway.decoding.ways import Way

if TYPE_CHECKING:
    from decimal import Decimal

    from ds_gateway.config.decoding import ReportSettings

_DIGEST_BYTES: Final = 16


class Report:
    """The decisions for one device, in the order of its readings."""

    __slots__ = ("_bands", "_digest", "_due", "_ignored", "_numbers", "_reported_at", "_settings")

    def __init__(self, settings: ReportSettings) -> None:
        self._settings = settings
        self._bands = [(Way(name), exact(band)) for name, band in (settings.deadband or {}).items()]
        self._ignored = [Way(name) for name in settings.ignore]
        self._digest = b""
        self._numbers: list[Decimal | None] = []
        self._reported_at: float | None = None
        self._due: float | None = None

    def wants(self, data: bytes, now: float) -> bool:
        """Whether a reading becomes a record. ``now`` is in seconds, from a clock that never goes back.

        ``every_seconds`` divides the time into spans of that length, from the first reading on; each has one
        record at most.
        """
        if self._due is not None and now < self._due:
            return False
        if self._settings.on_change:
            digest, numbers = self._essence(data)
            if not self._has_changed(digest, numbers) and not self._is_heartbeat(now):
                return False
            self._digest, self._numbers = digest, numbers
        self._reported_at = now
        every = self._settings.every_seconds
        if every is not None:
            late = self._due is None or now - self._due >= every
            self._due = now + every if late or self._due is None else self._due + every
        return True

    def _has_changed(self, digest: bytes, numbers: list[Decimal | None]) -> bool:
        if digest != self._digest:
            return True
        return any(
            new is not None and old is not None and abs(new - old) > band
            for new, old, (_, band) in zip(numbers, self._numbers, self._bands, strict=True)
        )

    def _is_heartbeat(self, now: float) -> bool:
        seconds = self._settings.heartbeat_seconds
        return seconds is not None and self._reported_at is not None and now - self._reported_at >= seconds

    def _essence(self, data: bytes) -> tuple[bytes, list[Decimal | None]]:
        """What must be the same, and the numbers that may differ a little."""
        if not self._bands and not self._ignored:
            return blake2b(data, digest_size=_DIGEST_BYTES).digest(), []
        values = orjson.loads(data)
        for way in self._ignored:
            way.remove(values)
        numbers = []
        for way, _ in self._bands:
            number = _number(way.find(values))
            if number is not None:
                way.remove(values)
            numbers.append(number)
        # Whether a number is there is part of what must be the same.
        rest = orjson.dumps([values, [number is None for number in numbers]], option=orjson.OPT_SORT_KEYS)
        return blake2b(rest, digest_size=_DIGEST_BYTES).digest(), numbers


def _number(value: Any) -> Decimal | None:
    return exact(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
