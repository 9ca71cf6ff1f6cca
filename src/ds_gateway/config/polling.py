"""What a port asks its devices by itself: requests as text, as hex digits, or registers of Modbus RTU."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ds_gateway.config.base import Model, NonEmpty
from ds_gateway.config.commands import Regex
from ds_gateway.config.decoding import DecodeSettings, FieldSettings
from ds_gateway.config.quantities import Number, Seconds
from ds_gateway.config.texts import line_ends

MAX_REGISTERS: Final = 1000
"""Listed for one unit in one poll."""
_WORDS: Final = {"u16": 1, "i16": 1, "u32": 2, "i32": 2, "f32": 2, "u64": 4, "i64": 4, "f64": 4}


def _ascii(value: str) -> str:
    if not value.isascii():
        raise ValueError('must be ASCII; give other bytes as hex: "02 54 03"')
    return value


def _hex(value: str) -> str:
    try:
        data = bytes.fromhex(value)
    except ValueError:
        raise ValueError('must be hex digits, two for each byte, as "02 54 03"') from None
    if not data:
        raise ValueError('must be hex digits, two for each byte, as "02 54 03"')
    return value


def _request_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", value) or value in {".", ".."}:
        raise ValueError("must be of letters, digits, _, - and .")
    return value


Interval = Annotated[Seconds, Field(ge=0.01, le=7 * 86400)]
Timeout = Annotated[Seconds, Field(ge=0.01, le=60)]
RequestRetries = Annotated[int, Field(ge=0, le=10)]
RequestName = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_request_name)]


class RegisterSettings(Model):
    """One value of a Modbus device: ``value = raw * scale + offset``, in decimal."""

    name: NonEmpty = Field(description="Name of the field.")
    function: Literal["holding", "input", "coil", "discrete"] = Field(
        "holding", description="Which table it is in: holding or input registers, coils or discrete inputs."
    )
    address: int = Field(
        ge=0, le=65535, description="Address as it is sent, from 0: the manual's 40001 is the holding register 0."
    )
    type: Literal["u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bool"] | None = Field(
        None, description="What the registers hold; default: u16, and bool in coils and discrete inputs."
    )
    order: Literal["big", "little", "word_swapped", "byte_swapped"] = Field(
        "big",
        description="Order of the bytes of 0xAABBCCDD: big AABB CCDD, word_swapped CCDD AABB, byte_swapped "
        "BBAA DDCC, little DDCC BBAA.",
    )
    scale: Number | None = Field(None, description="Factor.")
    offset: Number | None = Field(None, description="Summand, after the factor.")
    unit: str | None = Field(None, description="Unit (UCUM), announced in the stream's device record.")

    @property
    def is_bit(self) -> bool:
        """Whether it is in a table of bits."""
        return self.function in {"coil", "discrete"}

    @property
    def kind(self) -> str:
        """Its type."""
        return self.type or ("bool" if self.is_bit else "u16")

    @property
    def count(self) -> int:
        """How many addresses it takes."""
        return _WORDS.get(self.kind, 1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.is_bit and self.kind != "bool":
            raise ValueError(f"a {self.function} is one bit: remove type: {self.type}, or take function: holding")
        if not self.is_bit and self.kind == "bool":
            raise ValueError(
                f"{self.function} registers have 16 bits: remove type: bool, or take function: coil or discrete"
            )
        if self.is_bit and (self.scale is not None or self.offset is not None):
            raise ValueError(f"a {self.function} is true or false: remove scale and offset")
        if self.address + self.count > 65536:
            raise ValueError(f"address {self.address} is the last there are, and {self.kind} needs {self.count}")
        return self


class ModbusSettings(Model):
    """Registers of one Modbus RTU unit; they make one record together."""

    unit: int = Field(ge=1, le=247, description="Address of the device on the line.")
    registers: Annotated[list[RegisterSettings], Field(min_length=1, max_length=MAX_REGISTERS)] = Field(
        description="What is read."
    )
    merge: bool = Field(default=True, description="Whether neighbours are read with one request.")
    gap: int = Field(
        0, ge=0, le=124, description="How many addresses that are not listed may be read along, to save a request."
    )
    max_registers: int = Field(
        125, ge=4, le=125, description="Most registers that the device gives for one request."
    )

    @model_validator(mode="after")
    def _names(self) -> Self:
        seen: set[str] = set()
        for register in self.registers:
            if register.name in seen:
                raise ValueError(f"two registers have the name {register.name!r}: give each its own")
            seen.add(register.name)
        return self


class RequestSettings(Model):
    """One request, and how its answer is known and read."""

    name: RequestName | None = Field(
        None,
        description="Makes a device of its own of the answers, DEVICE/NAME; default: they are readings of the "
        "device.",
    )
    write: Annotated[
        str, Field(min_length=1, max_length=4096), AfterValidator(_ascii), AfterValidator(line_ends)
    ] | (None) = Field(None, description='Text of the request with its line end, in double quotes: "MEAS?\\n".')
    hex: Annotated[str, Field(max_length=8192), AfterValidator(_hex)] | None = Field(
        None, description="The request in hex digits, with its checksum."
    )
    modbus: ModbusSettings | None = Field(None, description="Registers of a Modbus RTU unit.")
    reply: Regex | None = Field(
        None, description="Regular expression found in the frame that is the answer; default: any frame."
    )
    interval_seconds: Interval | None = Field(
        None, description="How often it is asked; default: 10 seconds, or the poll's."
    )
    timeout_seconds: Timeout | None = Field(
        None, description="How long an answer is waited for; default: 1 second, or the poll's."
    )
    retries: RequestRetries | None = Field(
        None, description="How often it is asked again without an answer; default: 2, or the poll's."
    )
    decode: DecodeSettings | None = Field(None, description="How this answer is read; default: as the device's.")
    fields: dict[str, FieldSettings] | None = Field(
        None, description="Fields of this answer; default: the device's."
    )

    @property
    def data(self) -> bytes:
        """What is written; empty for Modbus."""
        if self.hex is not None:
            return bytes.fromhex(self.hex)
        return (self.write or "").encode("ascii")

    def check_one(self, more: dict[str, object]) -> None:
        """ValueError unless exactly one of the ways to ask is there."""
        ways = {"write": self.write, "hex": self.hex, "modbus": self.modbus, **more}
        given = [key for key, value in ways.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}: a request is one of them")
        if not given:
            *others, last = ways
            raise ValueError(f'asks nothing: give {", ".join(others)} or {last}, as write: "MEAS?\\n"')

    def check_modbus(self) -> None:
        """ValueError for keys that Modbus has no use for, or that say the same twice."""
        if self.modbus is None:
            return
        if self.reply is not None or self.decode is not None:
            key = "reply" if self.reply is not None else "decode"
            raise ValueError(f"{key} has no use with modbus, whose answers say what they are: remove it")
        scaled = [each.name for each in self.modbus.registers if {each.scale, each.offset, each.unit} != {None}]
        if self.fields is not None and scaled:
            raise ValueError(
                f"the register {scaled[0]} has scale, offset or unit, and there are fields: give them in one place"
            )

    @model_validator(mode="after")
    def _request(self) -> Self:
        if type(self) is RequestSettings:
            self.check_one({})
        self.check_modbus()
        return self


class PollSettings(RequestSettings):
    """What a device is asked: one request, or several under requests; one at a time, commands go first."""

    requests: Annotated[list[RequestSettings], Field(min_length=1, max_length=100)] | None = Field(
        None, description="Several requests; what they leave out they have from here."
    )
    turnaround_seconds: Annotated[Seconds, Field(le=60)] = Field(
        0.0, description="Silence on the line before a request and after an answer; Modbus takes what it needs."
    )
    unasked: Literal["drop", "keep"] = Field(
        "drop", description="What becomes of frames that answer nothing: dropped and counted, or kept as readings."
    )

    @model_validator(mode="after")
    def _poll(self) -> Self:
        self.check_one({"requests": self.requests})
        if self.requests is not None:
            given = sorted(self.model_fields_set & {"name", "reply", "decode", "fields"})
            if given:
                raise ValueError(f"{given[0]} belongs to each of the requests: move it there")
        names = [each.name for each in self.requests or () if each.name is not None]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two requests have the name {twice!r}: give each its own")
        return self

    def resolved(self) -> list[RequestSettings]:
        """All requests, with nothing left to defaults."""
        found = []
        for request in self.requests or [self]:
            values = {name: getattr(request, name) for name in RequestSettings.model_fields}
            for key, default in (("interval_seconds", 10.0), ("timeout_seconds", 1.0), ("retries", 2)):
                if values[key] is None:
                    own = getattr(self, key)
                    values[key] = default if own is None else own
            found.append(RequestSettings.model_construct(**values))
        return found
