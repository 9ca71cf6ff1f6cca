"""Settings of one device that do not fit each other: names that its payloads can never have."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Protocol

from ds_gateway.decoding.errors import SettingsMistakeError
from ds_gateway.decoding.ways import Way

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ds_gateway.config.decoding import DecodeSettings, FieldSettings, ReportSettings, TimeSettings


class ReadingSettings(Protocol):
    """What the settings of MQTT devices and of ports have in common."""

    @property
    def decode(self) -> DecodeSettings: ...  # noqa: D102
    @property
    def fields(self) -> Mapping[str, FieldSettings] | None: ...  # noqa: D102
    @property
    def drop(self) -> list[str]: ...  # noqa: D102
    @property
    def time(self) -> TimeSettings | None: ...  # noqa: D102
    @property
    def report(self) -> ReportSettings | None: ...  # noqa: D102


def check_settings(settings: ReadingSettings) -> None:
    """Raise `SettingsMistakeError` for the first mistake."""
    if settings.fields is not None and settings.drop:
        raise SettingsMistakeError(
            "fields lists all that passes, so there is nothing to drop: remove drop, or fields", key="drop"
        )
    names = _names(settings.decode)
    if names is not None:
        what = _WHAT[settings.decode.kind]
        for name, field in (settings.fields or {}).items():
            if field.constant is None:
                key = f"fields.{name}" if field.from_ is None else f"fields.{name}.from"
                _check(field.from_ or name, names, what, key)
        for name in settings.drop:
            _check(name, names, what, "drop")
        for name in settings.time.sources if settings.time else ():
            _check(name, names, what, "time.from")
    # What is reported are the fields of the record.
    reported = names if settings.fields is None else settings.fields
    if settings.report is not None and reported is not None:
        for name in settings.report.deadband or {}:
            _check(name, reported, "field", f"report.deadband.{name}")
        for name in settings.report.ignore:
            _check(name, reported, "field", "report.ignore")


_WHAT = {
    "struct": "member of the struct",
    "regex": "group of the pattern",
    "csv": "column",
    "number": "field of a number",
    "text": "field of a text",
    "raw": "field of raw bytes",
}


def _names(decode: DecodeSettings) -> Collection[str] | None:
    """Which values a payload can have; None where only the device knows."""
    if decode.struct is not None:
        return decode.struct.members
    if decode.regex is not None:
        return decode.regex.groups
    if decode.csv is not None:
        return decode.csv.columns
    if decode.number is not None:
        return ("value",)
    return ("value", "encoding") if decode.text is not None or decode.raw is not None else None


def _check(source: str, names: Collection[str], what: str, key: str) -> None:
    way = Way(source)
    if source in names or way.first in names:
        return
    near = difflib.get_close_matches(source, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(names))}"
    raise SettingsMistakeError(f"{source!r} is no {what}; {hint}", key=key)
