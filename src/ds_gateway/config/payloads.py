"""The kinds of payloads, one model each: what ``decode`` holds."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ds_gateway.config.base import Model, NonEmpty

try:
    import re2
except ImportError:  # there is no wheel for this platform, and everything else works without
    re2 = None

MAX_STRUCT_BYTES: Final = 64 * 1024

Encoding = Literal["utf-8", "latin-1"]
Order = Literal["big", "little", "big_swapped", "little_swapped"]
MemberType = Literal[
    "u8", "i8", "u16", "i16", "u24", "i24", "u32", "i32", "u64", "i64", "f16", "f32", "f64", "text", "hex"
]
TEXT_TYPES: Final = frozenset({"text", "hex"})


def compiled(pattern: str) -> Any:
    """The pattern for RE2, which takes linear time whatever the text is. Raises ValueError."""
    if re2 is None:
        raise ValueError(
            "regular expressions need the package google-re2, which is not installed here: install it, or take csv"
        )
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1024 * 1024
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0]
        raise ValueError(
            f"{pattern!r} cannot be used: {why.decode() if isinstance(why, bytes) else why}; the syntax is RE2's "
            "(no look-around, no back-references)"
        ) from None


def _found(value: str) -> str:
    compiled(value)
    return value


Found = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_found)]
"""A pattern that is looked for anywhere in a payload."""


def _pattern(value: str) -> str:
    if not compiled(value).groupindex:
        raise ValueError(
            f"{value!r} has no named group: what is to be a field is named, as in (?P<weight>[0-9.]+)"
        )
    return value


def _one_character(value: str) -> str:
    if len(value) != 1 or value in '"\r\n' or not value.isascii():
        raise ValueError('must be one ASCII character, no quote and no line end; a tab is "\\t"')
    return value


class JsonSettings(Model):
    """JSON: an object's members are the fields, anything else is the field value."""


class CsvSettings(Model):
    """Separated values: each payload is one row, perhaps with lines before it that are to be passed over."""

    columns: list[NonEmpty] | None = Field(
        None, min_length=1, max_length=1000, description="Names, in order; default: the numbers from 1 on."
    )
    delimiter: Annotated[str, AfterValidator(_one_character)] = Field(",", description="Between values.")
    quoting: bool = Field(True, description='Whether values may stand in "quotes"; "" is one quote in them.')
    skip_lines: int = Field(0, ge=0, le=1000, description="Lines at the beginning of each payload to pass over.")
    decimal: Literal[".", ","] = Field(".", description="Decimal point of numbers.")
    text: list[NonEmpty] = Field(
        [], description="Columns that stay text, even if they look like numbers: 007 is not 7."
    )
    encoding: Encoding = Field("utf-8", description="Encoding of the payload.")

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.decimal == self.delimiter:
            raise ValueError('decimal and delimiter are both ",": a row could not be read; set another delimiter')
        if self.columns is not None:
            if len(set(self.columns)) < len(self.columns):
                twice = next(name for name in self.columns if self.columns.count(name) > 1)
                raise ValueError(f"two columns are called {twice!r}: give each a name of its own")
            for name in self.text:
                if name not in self.columns:
                    raise ValueError(f"text has {name!r}, which is no column; there are {', '.join(self.columns)}")
        return self


class RegexSettings(Model):
    """A regular expression: each named group is a field. It is searched anywhere in the payload."""

    pattern: Annotated[str, AfterValidator(_pattern)] = Field(
        min_length=1, max_length=4096, description="RE2 pattern with named groups, as (?P<weight>[0-9.]+)."
    )
    decimal: Literal[".", ","] = Field(".", description="Decimal point of numbers.")
    text: list[NonEmpty] = Field(
        [], description="Groups that stay text, even if they look like numbers: 007 is not 7."
    )
    encoding: Encoding = Field("utf-8", description="Encoding of the payload.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"pattern": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        for name in self.text:
            if name not in self.groups:
                raise ValueError(f"text has {name!r}, which is no group; there are {', '.join(self.groups)}")
        return self

    @property
    def groups(self) -> list[str]:
        """Names of the groups."""
        return sorted(compiled(self.pattern).groupindex)


def _bit_range(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2:
        return tuple(value)
    raise ValueError("must be the lowest and the highest bit, as [4, 7]; bit 0 is the least significant")


Bit = Annotated[int, Field(ge=0, le=63)]


class StructMemberSettings(Model):
    """One value at a place of the payload."""

    type: MemberType = Field(description="u: unsigned, i: signed, f: IEEE float, with their bits; text or hex.")
    offset: int | None = Field(
        None,
        ge=0,
        le=MAX_STRUCT_BYTES,
        description="First byte, from 0; default: behind the member before. Members with bit or bits of one type "
        "that follow one another share their bytes.",
    )
    order: Order | None = Field(None, description="Order of its bytes; default: the struct's.")
    bit: Bit | None = Field(None, description="The value is this bit alone, true or false; 0 is the lowest.")
    bits: Annotated[tuple[Bit, Bit], BeforeValidator(_bit_range)] | None = Field(
        None, description="The value is these bits, lowest and highest, as an unsigned number."
    )
    length: int | None = Field(None, ge=1, le=MAX_STRUCT_BYTES, description="Bytes of a text or hex.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @property
    def size(self) -> int:
        """Its bytes."""
        return int(self.type[1:]) // 8 if self.length is None else self.length

    @property
    def has_bits(self) -> bool:
        """Whether it is a part of a number."""
        return self.bit is not None or self.bits is not None

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        is_text = self.type in TEXT_TYPES
        if is_text and self.length is None:
            raise ValueError(f"type {self.type} needs a length, in bytes, as length: 8")
        if not is_text and self.length is not None:
            raise ValueError(f"length is for text and hex; {self.type} has {self.type[1:]} bits: remove it")
        if not self.has_bits:
            return self
        if self.type[0] != "u":
            raise ValueError(f"bits are taken out of unsigned numbers, not of {self.type}: take u8, u16, u32")
        if self.bit is not None and self.bits is not None:
            raise ValueError("has bit and bits: one flag is bit: 3, a number of several bits is bits: [4, 7]")
        lowest, highest = self.bits or (self.bit or 0, self.bit or 0)
        if not lowest <= highest < self.size * 8:
            raise ValueError(f"{self.type} has the bits 0 to {self.size * 8 - 1}, lowest first: correct them")
        return self


class StructSettings(Model):
    """Binary values at fixed places."""

    members: dict[NonEmpty, StructMemberSettings] = Field(
        min_length=1, max_length=1000, description="Values by name, in order; u16 is short for {type: u16}."
    )
    order: Order = Field(
        "big", description="Order of bytes; swapped: with the 16-bit words the other way round, as in Modbus."
    )
    length: int | None = Field(
        None,
        ge=1,
        le=MAX_STRUCT_BYTES,
        description="Bytes of the payload, which is refused if it has others; default: up to the last member.",
    )
    longer: bool = Field(False, description="Whether a longer payload is taken, and its rest passed over.")

    def places(self) -> dict[str, int]:
        """First byte of each member."""
        places: dict[str, int] = {}
        start, end, before = 0, 0, None
        for name, member in self.members.items():
            shares = before is not None and before.has_bits and member.has_bits and before.type == member.type
            if member.offset is not None:
                start = member.offset
            elif not shares:
                start = end
            places[name], end, before = start, start + member.size, member
        return places

    @property
    def end(self) -> int:
        """Bytes up to the end of the member that lies farthest."""
        return max(start + self.members[name].size for name, start in self.places().items())

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.length is not None and self.end > self.length:
            raise ValueError(f"the members end at byte {self.end}, and length is {self.length}: raise it")
        for name, member in self.members.items():
            if (member.order or self.order).endswith("_swapped") and member.size == 3:
                raise ValueError(
                    f"{name} is {member.type}, without 16-bit words to swap: set order: big or little"
                )
        if self.end > MAX_STRUCT_BYTES:
            raise ValueError(f"the members end at byte {self.end}; at most {MAX_STRUCT_BYTES} are read")
        return self


class CborSettings(Model):
    """CBOR (RFC 8949), taken as if it were JSON."""


class NumberSettings(Model):
    """One number as text, nothing else: the field value."""

    decimal: Literal[".", ","] = Field(".", description="Decimal point.")


class TextSettings(Model):
    """The whole payload as text: the field value."""

    encoding: Encoding = Field("utf-8", description="Encoding; what is not UTF-8 comes as base64.")


class RawSettings(Model):
    """The bytes in base64: the field value."""
