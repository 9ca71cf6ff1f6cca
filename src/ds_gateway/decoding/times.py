"""The time that a payload gives, as UTC nanoseconds since 1970."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from ds_gateway.decoding.errors import UndecodableError
from ds_gateway.decoding.numbers import parse_plain_number
from ds_gateway.decoding.values import Numeric, shortened, shown
from ds_gateway.decoding.ways import MISSING, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import tzinfo

    from ds_gateway.config.decoding import TimeSettings

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_EXPONENTS: Final = {"unix": 9, "unix_ms": 6, "unix_us": 3, "unix_ns": 0}
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_MAX_CHARACTERS: Final = 100

_FIRST_NS: Final = 946_684_800 * 10**9
"""2000: a device whose clock was never set begins in 1970 or 1980."""
_LAST_NS: Final = 4_102_444_800 * 10**9
"""2100."""


class PayloadTime:
    """Reads the time out of decoded values."""

    def __init__(self, settings: TimeSettings) -> None:
        self._ways = [Way(source) for source in settings.sources]
        self._format = settings.format
        self._read: Callable[[str], int] = self._reader(settings)

    @property
    def ways(self) -> list[Way]:
        """Where it is."""
        return self._ways

    def of(self, values: Mapping[str, Any]) -> int:
        """UTC nanoseconds since 1970, between 2000 and 2100. `UndecodableError` with the reason otherwise."""
        time_ns = self._read(" ".join([_text(way.source, way.find(values)) for way in self._ways]))
        if not _FIRST_NS <= time_ns < _LAST_NS:
            raise UndecodableError("the payload's time is not between the years 2000 and 2100")
        return time_ns

    def _reader(self, settings: TimeSettings) -> Callable[[str], int]:
        exponent = _EXPONENTS.get(settings.format)
        if exponent is not None:
            return lambda text: _unix(text, exponent)
        zone: tzinfo = UTC if settings.zone == "UTC" else ZoneInfo(settings.zone)
        if settings.format == "rfc3339":
            return lambda text: _nanoseconds(_rfc3339(text), zone)
        return lambda text: _nanoseconds(_strptime(text, settings.format), zone)


def _text(source: str, value: object) -> str:
    match value:
        case Numeric():
            text = value.text
        case str():
            text = value
        case bool() | None:
            text = ""
        case Decimal() | int() | float():
            text = str(value)
        case _ if value is MISSING:
            raise UndecodableError(f"the payload has no {source}, where its time should be")
        case _:
            text = ""
    if not text or len(text) > _MAX_CHARACTERS:
        shown_value = shown(value) if not isinstance(value, str) else shortened(value)
        raise UndecodableError(f"{source} is {shown_value}, which is no time")
    return text


def _unix(text: str, exponent: int) -> int:
    number = parse_plain_number(text)
    if number is None:
        raise UndecodableError(f"{shortened(text)} is no number, so it is no unix time")
    # Before it becomes an integer: 1e999999 would be one of a million digits.
    if not 0 <= number < _LAST_NS:
        raise UndecodableError("the payload's time is not between the years 2000 and 2100")
    return int(number.scaleb(exponent))


def _rfc3339(text: str) -> datetime:
    if _RFC3339.fullmatch(text) is not None:
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(text.upper())
    raise UndecodableError(f"{shortened(text)} is no time as 2026-11-22T17:46:58Z")


def _strptime(text: str, pattern: str) -> datetime:
    try:
        return datetime.strptime(text, pattern)  # noqa: DTZ007 - the zone is given later
    except (ValueError, OverflowError) as error:
        raise UndecodableError(f"{shortened(text)} is no time as {pattern}") from error


def _nanoseconds(moment: datetime, zone: tzinfo) -> int:
    try:
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
        return (aware - _EPOCH) // _MICROSECOND * 1000
    except (ValueError, OverflowError) as error:
        raise UndecodableError("the payload's time is not between the years 2000 and 2100") from error
