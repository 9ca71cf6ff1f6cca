"""What a metric reads from a status document: functions from documents to samples. Pure."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    Document = Mapping[str, Any]
    Sample = tuple[tuple[str, ...], float | None]
    """Values of the labels, and the value; None: there is none now, and so no series."""
    Samples = Callable[[Document], Iterable[Sample]]
    Value = Callable[[Document], float | None]

MAX_DEVICES: Final = 500
"""Devices with series of their own: those that spoke first."""
UP_STATES: Final = frozenset({"connected", "open", "alarm", "idle", "sending", "listening", "reading", "unheard"})
"""States of sources, streams, commands and the embedded server in which they do their work."""
STOPPED_STATES: Final = frozenset({"halted", "parked"})
"""States of streams that wait for an operator."""


def one(*path: str) -> Samples:
    """The one number at this path."""

    def samples(document: Document) -> Iterator[Sample]:
        yield (), _number(_at(document, path))

    return samples


def each(rows: str, labels: Sequence[str], value: Value) -> Samples:
    """A number for each row of a list, with keys of the row as labels."""

    def samples(document: Document) -> Iterator[Sample]:
        for row in document.get(rows) or ():
            yield tuple(str(row.get(label, "")) for label in labels), value(row)

    return samples


def of_devices(value: Value) -> Samples:
    """A number for each of the first devices."""

    def samples(document: Document) -> Iterator[Sample]:
        for row in islice(document.get("devices") or (), MAX_DEVICES):
            yield (str(row["source"]), str(row["name"])), value(row)

    return samples


def counted(*path: str, key: str | None = None) -> Samples:
    """A number for each entry of a mapping, with its name as label."""

    def samples(document: Document) -> Iterator[Sample]:
        counts = _at(document, path)
        for name, value in counts.items() if isinstance(counts, dict) else ():
            yield (name,), _number(value if key is None else value[key])

    return samples


def key(name: str) -> Value:
    """The number under this key."""
    return lambda row: _number(row.get(name))


def is_up(row: Document) -> float | None:
    """Whether it does its work, by its state."""
    return _is_among(row, UP_STATES)


def is_stopped(row: Document) -> float | None:
    """Whether it waits for an operator, by its state."""
    return _is_among(row, STOPPED_STATES)


def section(name: str, value: Value) -> Samples:
    """A number of a section that there may not be."""

    def samples(document: Document) -> Iterator[Sample]:
        section = document.get(name)
        if isinstance(section, dict):
            yield (), value(section)

    return samples


def when(*names: str) -> Value:
    """The first of these instants that there is, as seconds since 1970."""

    def value(row: Document) -> float | None:
        for name in names:
            if (instant := seconds(row.get(name))) is not None:
                return instant
        return None

    return value


def seconds(instant: object) -> float | None:
    """Seconds since 1970 of RFC 3339 text, or of nanoseconds since 1970; None for everything else."""
    if isinstance(instant, int):
        return instant / 1e9
    try:
        return datetime.fromisoformat(str(instant)).timestamp()
    except ValueError:
        return None


def first_of(*names: str) -> Value:
    """The first of these numbers that there is."""
    return lambda row: next((value for name in names if (value := _number(row.get(name))) is not None), None)


def devices_of_sources(document: Document) -> Iterator[Sample]:
    """How many devices each source has."""
    counts = {str(row["name"]): 0 for row in document.get("sources") or ()}
    for row in document.get("devices") or ():
        counts[str(row["source"])] = counts.get(str(row["source"]), 0) + 1
    for name, count in counts.items():
        yield (name,), float(count)


def devices_without_series(document: Document) -> Iterator[Sample]:
    """How many devices are beyond the first."""
    yield (), float(max(len(document.get("devices") or ()) - MAX_DEVICES, 0))


def build(document: Document) -> Iterator[Sample]:
    """What runs, in the labels."""
    gateway = document["gateway"]
    yield (gateway["id"], gateway["version"], gateway["config_digest"]), 1.0


def is_set(name: str) -> Value:
    """Whether there is anything under this key."""
    return lambda row: float(bool(row.get(name)))


def length(name: str) -> Value:
    """How long the list under this key is."""
    return lambda row: float(len(row.get(name) or ()))


def of_sources(value: Value) -> Samples:
    """A number for each source."""
    return each("sources", ("name",), value)


def of_streams(value: Value) -> Samples:
    """A number for each stream."""
    return each("streams", ("name",), value)


def _at(document: Document, path: Sequence[str]) -> object:
    value: object = document
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _is_among(row: Document, states: frozenset[str]) -> float | None:
    return float(row["state"] in states) if "state" in row else None
