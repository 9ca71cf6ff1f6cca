"""Of a certificate (X.509, RFC 5280): whose it is, and from when to when. Pure, bounded, for untrusted bytes.

No more of DER than that needs: the standard library keeps its reader to itself, and certificates of clients and
peers are no reason for another compiled library on a small box. Nothing is decided by what is read here.

    Certificate ::= SEQUENCE { tbsCertificate SEQUENCE {
        [0] version OPTIONAL, serialNumber, signature, issuer,
        validity SEQUENCE { notBefore, notAfter }, subject, ...
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_VERSION: Final = 0xA0
_OID: Final = 0x06
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_CENTURY_FROM: Final = 50
"""UTCTime has two digits for the year: below 50 they are of this century (RFC 5280, 4.1.2.5.1)."""
_MAX_TIME_CHARACTERS: Final = 30
_BMP_STRING: Final = 0x1E
_LONG: Final = 0x80
_MAX_LENGTH_BYTES: Final = 4
MAX_CERTIFICATES: Final = 2000
MAX_SUBJECT_CHARACTERS: Final = 200

_ATTRIBUTES: Final = {bytes((0x55, 0x04, 3)): "CN", bytes((0x55, 0x04, 10)): "O", bytes((0x55, 0x04, 11)): "OU"}
"""What is shown of a name: the common name, the organisation, its unit (2.5.4.n)."""

_BEGIN = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----")
_END = re.compile(rb"-----END (?:TRUSTED |X509 )?CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is shown of one."""

    subject: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class _Value:
    """One value of DER."""

    tag: int
    content: bytes


def from_pem(text: bytes) -> list[Certificate]:
    """Every certificate in a PEM file, in its order; what stands around them is passed over. Raises ValueError."""
    found: list[Certificate] = []
    for block in _blocks(text):
        if len(found) == MAX_CERTIFICATES:
            break
        try:
            der = base64.b64decode(b"".join(block.split()), validate=True)
        except binascii.Error as error:
            raise ValueError(f"a certificate in it is no base64 ({error})") from None
        found.append(parse(der))
    return found


def _blocks(text: bytes) -> Iterator[bytes]:
    """What stands between the lines. Each byte is looked at once: where one end is missing there is no other."""
    at = 0
    while (begin := _BEGIN.search(text, at)) and (end := _END.search(text, begin.end())):
        yield text[begin.end() : end.start()]
        at = end.end()


def parse(der: bytes) -> Certificate:
    """One certificate. Raises ValueError."""
    try:
        return _parse(der)
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("a certificate in it is cut off, or none") from error


def _parse(der: bytes) -> Certificate:
    [whole] = _values(der, _SEQUENCE, most=1)
    [to_be_signed] = _values(whole.content, _SEQUENCE, most=1)
    fields = _values(to_be_signed.content, None, most=7)
    if fields[0].tag == _VERSION:
        fields = fields[1:]
    _serial, _signature, _issuer, validity, subject = fields[:5]
    begin, end = _values(validity.content, None, most=2)
    return Certificate(_name(subject.content), _time(begin), _time(end))


def _values(data: bytes, tag: int | None, *, most: int) -> list[_Value]:
    """The values that stand one behind the other, at most so many. Raises ValueError, IndexError."""
    found: list[_Value] = []
    at = 0
    while at < len(data) and len(found) < most:
        found_tag, length = data[at], data[at + 1]
        at += 2
        if length & _LONG:
            size = length & ~_LONG
            if not 0 < size <= _MAX_LENGTH_BYTES:
                raise ValueError("a certificate in it has a length that cannot be")
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise IndexError
        if tag is not None and found_tag != tag:
            raise ValueError("what is in it is no certificate")
        found.append(_Value(found_tag, data[at : at + length]))
        at += length
    if not found:
        raise IndexError
    return found


def _time(value: _Value) -> datetime:
    if len(value.content) > _MAX_TIME_CHARACTERS:
        raise ValueError("a certificate in it has a time that is none")  # and that no message shall repeat
    text = value.content.decode("ascii")
    if value.tag == _UTC_TIME:
        text = ("20" if int(text[:2]) < _CENTURY_FROM else "19") + text
    elif value.tag != _GENERALIZED_TIME:
        raise ValueError("a certificate in it has no times")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _name(content: bytes) -> str:
    """``CN=..., O=...``; a name without any of them is empty."""
    if not content:
        return ""
    parts: list[str] = []
    for relative in _values(content, _SET, most=50):
        for attribute in _values(relative.content, _SEQUENCE, most=10):
            kind, value = _values(attribute.content, None, most=2)
            short = _ATTRIBUTES.get(kind.content) if kind.tag == _OID else None
            if short is not None:
                parts.append(f"{short}={_text(value)}")
    return ", ".join(parts)[:MAX_SUBJECT_CHARACTERS]


def _text(value: _Value) -> str:
    text = value.content.decode("utf-16-be" if value.tag == _BMP_STRING else "utf-8", errors="replace")
    return "".join(each if each.isprintable() else "?" for each in text)
