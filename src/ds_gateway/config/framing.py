"""How a byte stream is cut into frames.

Messages as in `models`: one that begins with "must" gets the refused value appended.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from ds_gateway.config.base import Model
from ds_gateway.config.crc_catalogue import catalogue_name, crc_model
from ds_gateway.config.quantities import Bytes, Seconds
from ds_gateway.config.texts import line_ends

MAX_FRAME_BYTES: Final = 1024 * 1024
MAX_TRIED_BYTES: Final = 4096
"""Longest frame where each place may have to be tried with a check: the work for a byte grows with it."""

Order = Literal["little", "big"]


def _hex(value: str) -> str:
    try:
        found = bytes.fromhex(value)
    except ValueError:
        found = b""
    if not found:
        raise ValueError('must be bytes in hex digits, as "02" or "42 4d"')
    return found.hex(" ")


def _mark(value: str) -> str:
    if value and len(bytes.fromhex(_hex(value))) > 2:
        raise ValueError('must be one or two bytes in hex digits, as "02" or "10 02"')
    return _hex(value) if value else value


def _byte(value: str) -> str:
    if len(bytes.fromhex(_hex(value))) != 1:
        raise ValueError('must be one byte in hex digits, as "1b"')
    return _hex(value)


def _word(value: str) -> str:
    if len(bytes.fromhex(_hex(value))) > 16:
        raise ValueError('must be at most 16 bytes in hex digits, as "42 4d"')
    return _hex(value)


HexMark = Annotated[str, AfterValidator(_mark)]
HexByte = Annotated[str, AfterValidator(_byte)]
HexWord = Annotated[str, AfterValidator(_word)]
Gap = Annotated[Seconds, Field(ge=0.001, le=60)]


class LineSettings(Model):
    """Frames that end with a delimiter."""

    delimiter: Annotated[str, Field(min_length=1, max_length=16)] = Field("\n", description="End of a frame.")
    max_bytes: Bytes = Field(
        4096, ge=1, le=MAX_FRAME_BYTES, description="Longest frame; a longer one is discarded."
    )

    @field_validator("delimiter")
    @classmethod
    def _delimiter(cls, value: str) -> str:
        return line_ends(value)


class FixedSettings(Model):
    """Frames that all have the same length; without a check a lost byte is only noticed by a silence."""

    bytes: int = Field(ge=1, le=65536, description="Bytes of a frame, its check included.")
    gap_seconds: Gap = Field(0.05, description="Silence after which an unfinished frame is given up, in seconds.")


class LengthFieldSettings(Model):
    """The number in a frame that says how long it is."""

    offset: int = Field(0, ge=0, le=1024, description="Bytes of the frame in front of the number.")
    bytes: Literal[1, 2, 3, 4] = Field(1, description="Bytes of the number.")
    order: Order = Field("big", description="Which byte of the number comes first.")
    adds: int | None = Field(
        None,
        ge=-1024,
        le=1024,
        description="Bytes of the frame that the number does not count; default: all up to its own end.",
    )

    @property
    def uncounted(self) -> int:
        """What the number does not count of the frame, in bytes."""
        return self.offset + self.bytes if self.adds is None else self.adds


class LengthSettings(LengthFieldSettings):
    """Frames that begin with their length."""

    cut: bool = Field(True, description="Whether the number, and what stands in front of it, is cut off.")
    max_bytes: Bytes = Field(
        1024, ge=1, le=MAX_FRAME_BYTES, description="Longest frame as it is on the line; a longer one is none."
    )
    gap_seconds: Gap = Field(0.05, description="Silence after which an unfinished frame is given up, in seconds.")

    @model_validator(mode="after")
    def _room(self) -> Self:
        head = self.offset + self.bytes
        if self.max_bytes <= head:
            raise ValueError(f"max_bytes is {self.max_bytes}, and the number ends behind byte {head}: give more")
        return self


class DelimitedSettings(Model):
    """Frames between a start and a stop, which are cut off."""

    start: HexMark = Field("02", description='Start in hex digits, one or two bytes; "": frames only have a stop.')
    stop: HexMark = Field("03", min_length=1, description="Stop in hex digits, one or two bytes.")
    escape: HexByte | None = Field(
        None, description="Byte in front of one that is no start and no stop; default: none."
    )
    xor: HexByte = Field("00", description="What an escaped byte is changed by, as 20 in HDLC.")
    after: int = Field(0, ge=0, le=16, description="Bytes of a check behind the stop; it covers the stop, too.")
    max_bytes: Bytes = Field(
        4096,
        ge=1,
        le=MAX_FRAME_BYTES,
        description="Longest frame as it is on the line; a longer one is discarded.",
    )

    @model_validator(mode="after")
    def _marks(self) -> Self:
        start, stop = (mark.replace(" ", "") for mark in (self.start, self.stop))
        if start == stop:
            raise ValueError('start and stop are the same: remove start with start: ""')
        if start and (start.startswith(stop) or stop.startswith(start)):
            raise ValueError("start and stop must not begin with one another: each has to be told from the other")
        if self.escape is None:
            if self.xor != "00":
                raise ValueError("xor is for escaped bytes: give escape, too")
        elif self.escape in {self.start, self.stop}:
            raise ValueError("escape must be another byte than start and stop")
        elif self.xor != "00" and max(len(start), len(stop)) > 2:
            raise ValueError("with xor, start and stop are one byte each")
        return self


class SlipSettings(Model):
    """SLIP, RFC 1055."""

    max_bytes: Bytes = Field(
        2048,
        ge=1,
        le=MAX_FRAME_BYTES,
        description="Longest frame as it is on the line; a longer one is discarded.",
    )


class CobsSettings(Model):
    """COBS, with a zero byte behind each frame."""

    max_bytes: Bytes = Field(
        2048,
        ge=2,
        le=MAX_FRAME_BYTES,
        description="Longest frame as it is on the line; a longer one is discarded.",
    )


class IdleSettings(Model):
    """Frames with silence between them."""

    gap_seconds: Gap = Field(description="Silence that ends a frame, in seconds; 20ms or more for USB adapters.")
    max_bytes: Bytes = Field(
        4096, ge=1, le=MAX_FRAME_BYTES, description="Longest frame; a longer one is discarded."
    )


class SyncSettings(Model):
    """Frames that begin with a sync word; the word stays a part of them."""

    word: HexWord = Field(description="What a frame begins with, in hex digits.")
    length: LengthFieldSettings | None = Field(
        None, description="Where its length stands; or give bytes for frames of one length."
    )
    bytes: int | None = Field(None, ge=2, description="Bytes of a frame, word and check included, if it is fixed.")
    max_bytes: Bytes = Field(
        1024,
        ge=2,
        le=MAX_FRAME_BYTES,
        description="Longest frame; a longer one is none. The smaller, the sooner a wrong length is noticed.",
    )
    gap_seconds: Gap = Field(0.5, description="Silence after which an unfinished frame is given up, in seconds.")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.length is None) == (self.bytes is None):
            raise ValueError("give one of length (where a frame says how long it is) and bytes (all are so long)")
        word_bytes = len(bytes_of(self.word))
        if self.bytes is not None and not word_bytes < self.bytes <= self.max_bytes:
            raise ValueError(
                f"bytes is more than the {word_bytes} of the word, and at most max_bytes ({self.max_bytes})"
            )
        if self.length is not None and self.max_bytes <= self.length.offset + self.length.bytes:
            raise ValueError(
                f"max_bytes is {self.max_bytes}, and the length ends behind byte "
                f"{self.length.offset + self.length.bytes}: give more"
            )
        if self.length is not None and self.length.offset < word_bytes:
            raise ValueError(
                f"length.offset counts from the beginning of the word: {word_bytes} is the first byte behind it"
            )
        return self


class NmeaSettings(Model):
    """NMEA 0183: sentences with their checksum, which is cut off."""

    max_bytes: Bytes = Field(
        256, ge=8, le=MAX_TRIED_BYTES, description="Longest sentence; the standard's own limit is 82."
    )


class DsmrSettings(Model):
    """The P1 port of smart meters: telegrams with their CRC, which is cut off."""

    crc: bool = Field(True, description="Whether a CRC is behind the exclamation mark; false for DSMR 2 and 3.")
    max_bytes: Bytes = Field(4096, ge=16, le=16384, description="Longest telegram; a longer one is discarded.")


class EmptySettings(Model):
    """Nothing to set."""


class SumSettings(Model):
    """The sum of all bytes."""

    bytes: Literal[1, 2, 4] = Field(1, description="Bytes of the sum.")
    complement: Literal["none", "ones", "twos"] = Field("none", description="Which complement of it is sent.")


CrcName = Annotated[str, AfterValidator(catalogue_name)]


class CheckSettings(Model):
    """What tells whether a frame arrived as it was sent; it is cut off before the frame is decoded."""

    nmea: EmptySettings | None = Field(None, description="The star and two digits of NMEA 0183.")
    xor: EmptySettings | None = Field(None, description="All bytes exclusive-or, one byte.")
    sum: SumSettings | None = Field(None, description="The sum of all bytes.")
    crc: CrcName | None = Field(None, description="A CRC by its name in the catalogue, as CRC-16/MODBUS.")
    order: Order | None = Field(
        None,
        description="Which byte comes first; default: little for CRCs that are reflected (as MODBUS), else big.",
    )
    place: Literal["end", "start"] = Field("end", description="Where in the frame it stands.")
    written: Literal["binary", "hex"] = Field("binary", description="As bytes, or as hex digits.")
    skip: int = Field(0, ge=0, le=1024, description="Bytes at the frame's beginning that it does not cover.")

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return _from_word(value, ("nmea", "xor", "sum"), 'crc: "CRC-16/MODBUS"')

    @model_validator(mode="after")
    def _one(self) -> Self:
        _require_one(self, ("nmea", "xor", "sum", "crc"))
        return self

    @property
    def wire_bytes(self) -> int:
        """Bytes that it takes in a frame."""
        if self.nmea is not None:
            return 3
        size = crc_model(self.crc).size if self.crc is not None else self.sum.bytes if self.sum is not None else 1
        return size * (2 if self.written == "hex" else 1)


_KINDS: Final = ("line", "fixed", "length", "delimited", "slip", "cobs", "idle", "sync", "nmea", "dsmr")
_SELF_CHECKED: Final = ("nmea", "dsmr")
_TRIED: Final = ("fixed", "length", "sync")


class FramingSettings(Model):
    """How a byte stream is cut into frames: one of these, line if none is given. See framing.md."""

    line: LineSettings | None = Field(None, description="Lines.")
    fixed: FixedSettings | None = Field(None, description="Frames of one length.")
    length: LengthSettings | None = Field(None, description="Frames that begin with their length.")
    delimited: DelimitedSettings | None = Field(None, description="Frames between a start and a stop.")
    slip: SlipSettings | None = Field(None, description="SLIP.")
    cobs: CobsSettings | None = Field(None, description="COBS.")
    idle: IdleSettings | None = Field(None, description="Frames with silence between them.")
    sync: SyncSettings | None = Field(None, description="Frames that begin with a sync word.")
    nmea: NmeaSettings | None = Field(None, description="NMEA 0183 sentences.")
    dsmr: DsmrSettings | None = Field(None, description="Telegrams of smart meters.")
    check: CheckSettings | None = Field(
        None, description="Check at the end of each frame; default: none. nmea and dsmr have their own."
    )

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        value = _from_word(value, _KINDS, "line: {}")
        if isinstance(value, dict) and not value.keys() & {*_KINDS}:
            return {"line": {}, **value}
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        kind = _require_one(self, _KINDS)
        if self.check is None:
            return self
        if kind in _SELF_CHECKED:
            raise ValueError(f"{kind} has a check of its own: remove check")
        if self.check.nmea is not None and kind != "line":
            raise ValueError("check: nmea is for framing: line; framing: nmea has it already")
        settings = getattr(self, kind)
        longest = settings.bytes if kind == "fixed" else settings.max_bytes
        if kind in _TRIED and longest > MAX_TRIED_BYTES:
            raise ValueError(
                f"with a check, frames of {kind} have at most {MAX_TRIED_BYTES} bytes, because each place may "
                f"have to be tried: {'bytes' if kind == 'fixed' else 'max_bytes'} is {longest}"
            )
        smallest = self.check.wire_bytes + self.check.skip + 1
        if longest < smallest:
            raise ValueError(
                f"the check needs frames of {smallest} bytes or more, and {kind} allows {longest}: give more"
            )
        if self.delimited is not None and self.delimited.after not in {0, self.check.wire_bytes}:
            raise ValueError(
                f"delimited.after is the check behind the stop: {self.check.wire_bytes}, or 0 if it is in front"
            )
        if self.length is not None and self.length.cut and self.check.place == "start":
            raise ValueError("with a check at the start, length cannot be cut off: give length.cut: false")
        return self


def bytes_of(digits: str) -> bytes:
    """The bytes that these hex digits are."""
    return bytes.fromhex(digits)


def _from_word(value: Any, words: tuple[str, ...], example: str) -> Any:
    """A bare word is short for a mapping with its defaults."""
    if not isinstance(value, str):
        return value
    if value not in words:
        raise ValueError(f"must be {', '.join(words[:-1])} or {words[-1]}, or a mapping, as {{{example}}}")
    return {value: {}}


def _require_one(settings: Model, kinds: tuple[str, ...]) -> str:
    given = [kind for kind in kinds if getattr(settings, kind) is not None]
    if not given:
        raise ValueError(f"has none of {', '.join(kinds)}: give one")
    if len(given) > 1:
        raise ValueError(f"has {' and '.join(given)}: give one of them")
    return given[0]
