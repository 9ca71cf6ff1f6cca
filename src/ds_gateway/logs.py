"""Log events: a name with key-values, as logfmt for people, fields for systemd's journal, or JSON for machines.

    event(_log, "warning", "serial.port.waiting", source="scale-1", reason="no such device")

Names are ``layer.thing.happened``; there is one logger a layer, below ``ds_gateway``. A repeat (same name, same
texts; numbers may differ) within a minute is only counted, and the count told once when the minute is over.
While it goes on the next counts come after two minutes, four, ... a quarter of an hour: days without a server stay
small.
What is never logged: payloads, and secrets (a `SecretStr` shows as stars).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from ds_gateway import journald
from ds_gateway.records import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT: Final = "ds_gateway"
REPEAT_SECONDS: Final = 60.0
MAX_REPEAT_SECONDS: Final = 900.0
_MAX_REMEMBERED: Final = 1000
_MAX_CHARACTERS: Final = 2000
_VALUES: Final = "event_values"

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_PRIORITIES: Final = {logging.DEBUG: "7", logging.INFO: "6", logging.WARNING: "4", logging.ERROR: "3"}
"""Of syslog, which the journal has."""
_BARE = re.compile(r"[^\s\"=\\\x00-\x20\x7f-\x9f\u2028\u2029]+")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", _VALUES}


def logger(layer: str) -> logging.Logger:
    """The logger of one layer."""
    return logging.getLogger(f"{ROOT}.{layer}")


def event(
    log: logging.Logger, level: str, name: str, /, *, exc: BaseException | None = None, **values: object
) -> None:
    """Log one event; ``level`` is debug, info, warning or error. Any thread."""
    log.log(_LEVELS[level], name, extra={_VALUES: values}, exc_info=exc)


def setup(level: str, form: Literal["auto", "logfmt", "json"], *, stream: TextIO | None = None) -> None:
    """Send the process's log to ``stream`` (standard error); replaces what an earlier call set up.

    ``auto`` is logfmt on a terminal, fields where it is systemd's journal, otherwise JSON. Other libraries'
    loggers speak from warning on.
    """
    stream = stream or sys.stderr
    handler = _handler(form, stream)
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, EventHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(_LEVELS[level])


def _handler(form: Literal["auto", "logfmt", "json"], stream: TextIO) -> EventHandler:
    if form == "auto" and _is_journal(stream):
        return JournalHandler(stream, journald.Journald())
    handler = EventHandler(stream)
    is_json = form == "json" or (form == "auto" and not stream.isatty())
    handler.setFormatter(JsonFormatter() if is_json else LogfmtFormatter())
    return handler


def _is_journal(stream: TextIO) -> bool:
    try:
        return journald.is_connected(os.environ, stream.fileno())
    except (OSError, ValueError):  # no file, or a closed one
        return False


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, and the event's values."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        head = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _bounded(record.getMessage()),
        }
        body = {key: _bounded(value) for key, value in _values(self, record).items() if key not in head}
        return json.dumps({**head, **body}, allow_nan=False)


class LogfmtFormatter(logging.Formatter):
    """``time level event key=value ...``; what could break the line or drive a terminal is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        values = " ".join(f"{_bare(key)}={_bare(_bounded(value))}" for key, value in _values(self, record).items())
        name = _bare(_bounded(record.getMessage()))
        return f"{_time(record)} {record.levelname.lower():7} {name} {values}".rstrip()


def _time(record: logging.LogRecord) -> str:
    return rfc3339(int(record.created * 1_000_000) * 1000)


def _values(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, object]:
    """The values of `event`, or of a plain logging call with ``extra``."""
    given: Mapping[str, object] = getattr(record, _VALUES, {})
    values = {key: value for key, value in vars(record).items() if key not in _STANDARD} | dict(given)
    if record.exc_info and record.exc_info[0] is not None:
        values["traceback"] = formatter.formatException(record.exc_info)
    return values


def _bounded(value: object) -> Any:
    """The value as JSON can have it, and not too long: names and reasons come from outside."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0.0 else str(value)  # NaN and infinity are not JSON
    text = str(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."


def _bare(value: object) -> str:
    text = str(value)
    return text if _BARE.fullmatch(text) and text.isprintable() else json.dumps(text)


@dataclass(slots=True)
class _Seen:
    """A repeat being counted, and the newest record of it."""

    until: float
    newest: logging.LogRecord
    window: float = REPEAT_SECONDS
    count: int = 0


class Repeats:
    """Which records to write: the first of its kind, and when its window is over the newest with the count. Pure.

    ``now`` is monotonic, in seconds.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[object, ...], _Seen] = {}
        self._next_due = float("inf")

    def pass_on(self, record: logging.LogRecord, now: float) -> list[logging.LogRecord]:
        """The records to write now that this one came."""
        due = self.due(now)
        kind = _kind(record)
        seen = self._seen.get(kind)
        if seen is not None:
            seen.count += 1
            seen.newest = record
            return due
        if len(self._seen) >= _MAX_REMEMBERED:
            oldest = next(iter(self._seen))
            due += _summary(self._seen.pop(oldest))
        self._remember(kind, _Seen(now + REPEAT_SECONDS, record))
        return [*due, record]

    def due(self, now: float) -> list[logging.LogRecord]:
        """Counts whose window is over by now. What was repeated has a longer one next, else it is forgotten."""
        if now < self._next_due:
            return []
        over = [(kind, seen) for kind, seen in self._seen.items() if seen.until <= now]
        self._next_due = min(
            (seen.until for seen in self._seen.values() if seen.until > now), default=float("inf")
        )
        told: list[logging.LogRecord] = []
        for kind, seen in over:
            del self._seen[kind]
            told += _summary(seen)
            if seen.count:
                window = min(2 * seen.window, MAX_REPEAT_SECONDS)
                self._remember(kind, _Seen(now + window, seen.newest, window))
        return told

    def _remember(self, kind: tuple[object, ...], seen: _Seen) -> None:
        self._seen[kind] = seen
        self._next_due = min(self._next_due, seen.until)


def _summary(seen: _Seen) -> list[logging.LogRecord]:
    if not seen.count:
        return []
    values = dict(getattr(seen.newest, _VALUES, {}))
    setattr(seen.newest, _VALUES, {**values, "repeats": seen.count})
    return [seen.newest]


def _kind(record: logging.LogRecord) -> tuple[object, ...]:
    values = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    texts = {**values, **getattr(record, _VALUES, {})}.items()
    return (
        record.name,
        record.levelno,
        record.getMessage(),
        *(entry for entry in texts if isinstance(entry[1], str)),
    )


class EventHandler(logging.StreamHandler[TextIO]):
    """Writes events to a stream, repeats only once a minute. Debug events are never held back."""

    def __init__(self, stream: TextIO, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._repeats = Repeats()
        self._monotonic = monotonic

    def emit(self, record: logging.LogRecord) -> None:
        """Write what is due. Called with the handler's lock held."""
        if record.levelno <= logging.DEBUG:
            self.write(record)
            return
        for each in self._repeats.pass_on(record, self._monotonic()):
            self.write(each)

    def write(self, record: logging.LogRecord) -> None:
        """Write this one, whatever came before."""
        super().emit(record)

    def close(self) -> None:
        """Tell the counts that are still held back."""
        self.acquire()
        try:
            for each in self._repeats.due(float("inf")):
                self.write(each)
        finally:
            self.release()
        super().close()


class JournalHandler(EventHandler):
    """Writes events to systemd's journal as fields; what it does not take goes to the stream as JSON."""

    def __init__(
        self,
        stream: TextIO,
        journal: journald.Journald,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream, monotonic=monotonic)
        self._journal = journal
        self._text = LogfmtFormatter()
        self.setFormatter(JsonFormatter())

    def write(self, record: logging.LogRecord) -> None:
        """Write this one, whatever came before."""
        try:
            self._journal.send(self._fields(record))
        except OSError:
            super().write(record)

    def close(self) -> None:
        """Tell the counts that are still held back, and give the socket back."""
        super().close()
        self._journal.close()

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        name = str(_bounded(record.getMessage()))
        values = {key: _bounded(value) for key, value in _values(self._text, record).items()}
        told = " ".join(f"{_bare(key)}={_bare(value)}" for key, value in values.items() if key != "traceback")
        return {
            **{f"DSG_{key.upper()}": str(value) for key, value in values.items()},
            "MESSAGE": f"{_bare(name)} {told}".rstrip(),
            "PRIORITY": _PRIORITIES.get(record.levelno, "6"),
            "SYSLOG_IDENTIFIER": "ds-gateway",
            "DSG_EVENT": name,
            "DSG_LOGGER": record.name,
        }
