"""What is written to a port for a command: a text or hex digits, with values of the payload in it.

    {payload}        the whole payload, a text or a number
    {name}           a member of a payload that is an object
    {name:.1f}       a number in Python's format; {{ and }} are plain braces

Values come from outside: none can end a line or smuggle another command in.
"""

from __future__ import annotations

import math
import re
import string
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.mapping.errors import MappingError, RefusedPayloadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ds_gateway.config.commands import WriteSettings

MAX_WRITE_BYTES: Final = 4096
"""A slow line is busy for seconds with so many, and readings wait."""
_MAX_WIDTH: Final = 64
_WHOLE: Final = "payload"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Without `c`, which makes a control character of a number, and `n`, which asks the machine's locale.
_SPEC = re.compile(r"(?:[ -z|~]?[<>=^])?[+\- ]?#?(0?\d*)[,_]?(?:\.(\d+))?([bdeEfFgGoxX%]?)", re.ASCII)
_INTEGER_TYPES: Final = frozenset("bdoxX")
_HEX = re.compile(r"[0-9A-Fa-f ]*")


class WriteTemplate:
    """Immutable. The constructor raises `MappingError` with the key ``write``."""

    __slots__ = ("_is_hex", "_parts", "names")

    def __init__(self, settings: WriteSettings) -> None:
        text = settings.text if settings.text is not None else settings.hex
        assert text is not None, "the settings have one of them"
        self._is_hex = settings.text is None
        self._parts = _parse(text)
        self.names = frozenset(name for _, name, _ in self._parts if name is not None)
        """The placeholders."""
        if _WHOLE in self.names and len(self.names) > 1:
            raise _mistake(
                text,
                "{payload} is the whole payload, and the others are members of it: a payload cannot be both; take "
                "one kind",
            )
        for literal, _, _ in self._parts:
            if self._is_hex and not _HEX.fullmatch(literal):
                raise _mistake(
                    text, f"{literal!r} has more in it than hex digits and blanks; write text without hex"
                )
            if not self._is_hex and not literal.isascii():
                raise _mistake(text, 'only ASCII is written as text: give other bytes as {hex: "02 54 03"}')
        if not self.names:
            try:
                self.render(None)
            except RefusedPayloadError as error:
                raise _mistake(text, f"{error}; each byte has two digits") from error

    def render(self, payload: Any) -> bytes:
        """The bytes for this payload, a JSON value. Raises `RefusedPayloadError`."""
        values = self._values(payload)
        text = "".join(
            literal + ("" if name is None else self._formatted(name, values[name], spec))
            for literal, name, spec in self._parts
        )
        if len(text) > MAX_WRITE_BYTES * (3 if self._is_hex else 1):
            raise RefusedPayloadError(
                f"{len(text)} characters would be written; at most {MAX_WRITE_BYTES} bytes are"
            )
        if not self._is_hex:
            return text.encode("ascii")
        try:
            data = bytes.fromhex(text)
        except ValueError:
            raise RefusedPayloadError(f"{_shown(text)} is no row of bytes in hex digits") from None
        if not data:
            raise RefusedPayloadError("nothing would be written")
        return data

    def _values(self, payload: Any) -> Mapping[str, Any]:
        """The values by placeholder."""
        if not self.names:
            if payload is None or payload == {}:
                return {}
            raise RefusedPayloadError(
                "the device's write has no placeholder, so a payload would mean nothing: send null"
            )
        if _WHOLE in self.names:
            return {_WHOLE: payload}
        wanted = ", ".join(sorted(self.names))
        if not isinstance(payload, dict):
            raise RefusedPayloadError(f"the payload must be an object with {wanted}")
        missing, unknown = self.names - payload.keys(), payload.keys() - self.names
        if missing:
            raise RefusedPayloadError(f"the payload has no {min(missing)!r}; it must have {wanted}")
        if unknown:
            raise RefusedPayloadError(
                f"the payload has {_shown(min(unknown))}, which is not used; there are {wanted}"
            )
        return payload

    def _formatted(self, name: str, value: Any, spec: str) -> str:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and not math.isfinite(value):
            raise RefusedPayloadError(f"{name} is not a finite number")
        if spec:
            if not is_number:
                raise RefusedPayloadError(f"{name} must be a number, for the format {{{name}:{spec}}}")
            return self._number(name, value, spec)
        if is_number:
            if self._is_hex:
                # Its decimal digits would be taken for hex ones.
                raise RefusedPayloadError(
                    f"{name} is a number, and the device's write does not say how it becomes bytes, "
                    f"as {{{name}:02X}}"
                )
            return str(value)
        if not isinstance(value, str):
            raise RefusedPayloadError(f"{name} must be a text or a number")
        if not value.isascii() or not value.isprintable():
            raise RefusedPayloadError(f"{name} must be printable ASCII, and no control character")
        return value

    def _number(self, name: str, value: float, spec: str) -> str:
        match = _SPEC.fullmatch(spec)
        assert match is not None, "checked when the template was read"
        width, _, kind = match.groups()
        if kind in _INTEGER_TYPES and kind and isinstance(value, float):
            if not value.is_integer():
                raise RefusedPayloadError(f"{name} must be a whole number, for the format {{{name}:{spec}}}")
            value = int(value)
        try:
            text = format(value, spec)
        except (ValueError, OverflowError) as error:
            raise RefusedPayloadError(f"{name}: {error}") from None
        if self._is_hex and width and len(text) > int(width):
            raise RefusedPayloadError(f"{name} is too large for the format {{{name}:{spec}}}")
        return text


def _parse(text: str) -> list[tuple[str, str | None, str]]:
    """Literal text, with the placeholder behind it and its format."""
    try:
        parsed = [*string.Formatter().parse(text)]
    except ValueError as error:
        raise _mistake(text, f"{error}; a placeholder is {{name}}, a plain brace {{{{ or }}}}") from None
    parts: list[tuple[str, str | None, str]] = []
    for literal, name, spec, conversion in parsed:
        if name is not None:
            shown = f"{{{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"
            if conversion or not _NAME.fullmatch(name):
                raise _mistake(
                    text,
                    f"{shown} is no placeholder: it is {{payload}} or {{name}}, with letters, digits and _; a "
                    "plain brace is {{ or }}",
                )
            match = _SPEC.fullmatch(spec or "")
            if match is None:
                raise _mistake(text, f"{shown} has no format of a number, as {{{name}:.1f}} or {{{name}:02X}}")
            try:
                format(1, spec or "")
            except ValueError as error:
                raise _mistake(text, f"{shown}: {error}") from None
            if any(int(digits) > _MAX_WIDTH for digits in match.groups()[:2] if digits):
                raise _mistake(text, f"{shown} is wider than {_MAX_WIDTH} characters: make it smaller")
        parts.append((literal, name, spec or ""))
    return parts


def _mistake(text: str, why: str) -> MappingError:
    return MappingError(f"{text!r}: {why}", key="write")


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else f"{text[:80]}...")
