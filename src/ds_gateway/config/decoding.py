"""How payloads become fields: the kinds of payloads, and what is made of each field."""

from __future__ import annotations

import difflib
import zoneinfo
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator

from ds_gateway.config.base import Model, NonEmpty
from ds_gateway.config.payloads import (
    CborSettings,
    CsvSettings,
    Found,
    JsonSettings,
    NumberSettings,
    RawSettings,
    RegexSettings,
    StructSettings,
    TextSettings,
)
from ds_gateway.config.quantities import Number, Seconds

MAX_MAPPED: Final = 10_000
_TIME_FORMATS: Final = ("unix", "unix_ms", "unix_us", "unix_ns", "rfc3339")


def _scalar(value: Any) -> Any:
    if value is not None and not isinstance(value, str | bool | int | float):
        raise ValueError("must be text, a number, true or false")
    return value


def _pointer(value: str) -> str:
    if value.startswith("/") and any(
        part not in {"0", "1"} for part in (piece[:1] for piece in value.split("~")[1:])
    ):
        raise ValueError(
            f"{value!r} begins as a JSON pointer, where ~ is written ~0 (and / in a name ~1): write it so"
        )
    return value


def _column(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Scalar = Annotated[Any, PlainValidator(_scalar)]
Source = Annotated[str, Field(min_length=1), AfterValidator(_pointer), BeforeValidator(_column)]
"""A name; with dots also a way into objects; with a slash at the beginning a JSON pointer. A column's number."""


class ClampSettings(Model):
    """Bounds; a value beyond one is set to it."""

    min: Number | None = Field(None, description="Least value.")
    max: Number | None = Field(None, description="Greatest value.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, list):
            if len(value) != 2:
                raise ValueError("must be {min: 0, max: 100}, or [0, 100] for short")
            return {"min": value[0], "max": value[1]}
        return value

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("must have min or max, as {min: 0, max: 100}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min is {self.min} and max {self.max}: exchange them")
        return self


class FieldSettings(Model):
    """Where one field of a record comes from: ``value = raw * scale + offset``, in decimal."""

    from_: Source | None = Field(
        None,
        alias="from",
        description="Name in the payload, name.name or JSON pointer (/a/0); default: the field's own name.",
    )
    scale: Number | None = Field(None, description="Factor.")
    offset: Number | None = Field(None, description="Summand, after the factor.")
    clamp: ClampSettings | None = Field(
        None, description="Bounds of the scaled value: {min: 0, max: 100} or [0, 100]."
    )
    round: int | None = Field(None, ge=0, le=15, description="Decimal places to round to, halves to even.")
    map: dict[str, Scalar] | None = Field(
        None,
        min_length=1,
        max_length=MAX_MAPPED,
        description="Values and what they become, as {0: closed, 1: open}.",
    )
    else_: Scalar = Field(
        None, alias="else", description="What a value becomes that is not in map; default: it passes as it is."
    )
    constant: Scalar = Field(None, description="The value, whatever the payload says.")
    unit: str | None = Field(None, description="Unit (UCUM), announced in the stream's device record.")

    @property
    def has_arithmetic(self) -> bool:
        """Whether the value must be a number."""
        return not (self.scale is None and self.offset is None and self.clamp is None and self.round is None)

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.constant is not None and (
            self.from_ is not None or self.has_arithmetic or self.map is not None or self.else_ is not None
        ):
            raise ValueError("constant is the value whatever the payload says: only unit can stand beside it")
        if self.map is not None and self.has_arithmetic:
            raise ValueError("map takes values as the device sent them: scale, offset, clamp and round do not fit")
        if self.else_ is not None and self.map is None:
            raise ValueError("else is what a value becomes that is not in map, and there is no map")
        return self


def _zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{value!r} is no time zone that this machine knows: write it as Europe/Berlin, or install tzdata"
        ) from None
    return value


def _time_format(value: str) -> str:
    if value in _TIME_FORMATS:
        return value
    if "%" not in value:
        near = difflib.get_close_matches(value.lower(), _TIME_FORMATS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        words = ", ".join(_TIME_FORMATS)
        raise ValueError(f'must be {words} or a pattern as "%Y-%m-%d %H:%M:%S"{hint}')
    has = {letter for part in value.replace("%%", "").split("%")[1:] for letter in part[:1]}
    # Locale-dependent letters would read other texts on other machines.
    if unknown := has - set("YymdjHIMSfzpbBaA"):
        raise ValueError(
            f"{value!r} has %{min(unknown)}, which is not supported: take %Y %y %m %d %j %H %M %S %f %z"
        )
    if not has & set("Yy") or not (has & {"j"} or ("d" in has and has & set("mbB"))):
        raise ValueError(
            f"{value!r} does not give a day: a pattern has a year, a month and a day, as %Y-%m-%d; where date and "
            "time are two fields, name both, as from: [date, time]"
        )
    return value


class TimeSettings(Model):
    """The time that the payload gives; ``received`` says then when it was read."""

    from_: Source | list[Source] = Field(
        alias="from", description="Where it is in the payload, as in fields; several are joined by a blank."
    )
    format: Annotated[str, AfterValidator(_time_format)] = Field(
        "rfc3339", description="unix, unix_ms, unix_us, unix_ns, rfc3339, or a strptime pattern with a full date."
    )
    zone: Annotated[str, AfterValidator(_zone)] = Field(
        "UTC", description="Time zone of times that do not name theirs, as Europe/Berlin."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"from": value} if isinstance(value, str) else value

    @property
    def sources(self) -> list[str]:
        """Where it is."""
        return [self.from_] if isinstance(self.from_, str) else self.from_


def _deadband(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError("must be a number, 0 or more")
    return value


class ReportSettings(Model):
    """Which readings become records; the others are counted as suppressed."""

    on_change: bool = Field(False, description="Only readings that differ from the last one reported.")
    deadband: dict[NonEmpty, Annotated[float, PlainValidator(_deadband)]] | None = Field(
        None, min_length=1, description="How much a field must change to be a change, as {weight: 0.05}."
    )
    ignore: list[NonEmpty] = Field([], description="Fields whose changes alone are none, as [uptime].")
    heartbeat_seconds: Seconds | None = Field(
        None, gt=0, description="A reading is reported after this time although nothing changed."
    )
    every_seconds: Seconds | None = Field(
        None, gt=0, description="At most one reading in this time; the first one after it is reported."
    )

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if not self.on_change:
            for key, value in (
                ("deadband", self.deadband),
                ("heartbeat_seconds", self.heartbeat_seconds),
                ("ignore", self.ignore),
            ):
                if value:
                    raise ValueError(f"{key} is about changes: add on_change: true, or remove it")
            if self.every_seconds is None:
                raise ValueError("must say what to report: on_change: true, every_seconds: 10, or both")
        if (
            self.heartbeat_seconds is not None
            and self.every_seconds is not None
            and self.heartbeat_seconds < self.every_seconds
        ):
            raise ValueError(
                f"heartbeat_seconds is {self.heartbeat_seconds:g} and every_seconds {self.every_seconds:g}: the "
                "heartbeat must be the longer one"
            )
        return self


Kind = Literal["json", "csv", "regex", "struct", "cbor", "number", "text", "raw"]
KINDS: Final = ("json", "csv", "regex", "struct", "cbor", "number", "text", "raw")


class DecodeSettings(Model):
    """How payloads are read: exactly one of these, a word alone (decode: csv) where nothing is to be set."""

    json_: JsonSettings | None = Field(None, alias="json", description="JSON.")
    csv: CsvSettings | None = Field(None, description="Separated values.")
    regex: RegexSettings | None = Field(
        None, description="Regular expression with named groups; regex: 'PATTERN' is short for its pattern."
    )
    struct: StructSettings | None = Field(None, description="Binary values at fixed places.")
    cbor: CborSettings | None = Field(None, description="CBOR.")
    number: NumberSettings | None = Field(None, description="One number as text.")
    text: TextSettings | None = Field(None, description="Text.")
    raw: RawSettings | None = Field(None, description="Bytes, as base64.")
    only: Found | None = Field(
        None,
        description="RE2 pattern: a payload in which it is not found is no reading, and passed over; default: all "
        "are read.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in KINDS:
            near = difflib.get_close_matches(value.lower(), KINDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"must be {', '.join(KINDS[:-1])} or {KINDS[-1]}{hint}")
        return {value: {}}

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [kind for kind in KINDS if self._of(kind) is not None]
        if not given:
            raise ValueError(f"says no kind of payload: there are {', '.join(KINDS)}, as decode: json")
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}: a payload is read one way; keep one of them")
        return self

    def _of(self, kind: str) -> Model | None:
        found: Model | None = getattr(self, "json_" if kind == "json" else kind)
        return found

    @property
    def kind(self) -> str:
        """The one that is given."""
        return next(kind for kind in KINDS if self._of(kind) is not None)

    @classmethod
    def of(cls, word: Kind) -> DecodeSettings:
        """The settings that a word alone is short for."""
        return cls.model_validate(word)
