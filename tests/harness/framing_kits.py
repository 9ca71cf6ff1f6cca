"""Every framing with an encoder, which shares no code with the framer: for the tests that hold for all of them."""

from __future__ import annotations

import binascii
import functools
import operator
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.config.framing import FramingSettings
from ds_gateway.framing import build_framer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ds_gateway.framing import Framer

MAX_BYTES: Final = 64
TEXT: Final = b"0123456789.,- kgABC"
ANY: Final = bytes(range(256))


@dataclass(frozen=True)
class Kit:
    """One framing: what it is built of, and how its device sends a payload."""

    name: str
    settings: dict[str, Any]
    encode: Callable[[bytes], bytes]
    alphabet: bytes = ANY
    """What payloads are made of."""
    sizes: tuple[int, int] = (1, 20)
    """Fewest and most bytes of a payload."""
    marks: tuple[bytes, ...] = ()
    """What garbage has to have in it to be nasty."""
    trap: bytes = b""
    """The beginning of a frame that promises much and is never kept."""
    costs: int = 0
    """Frames that garbage in front of them may cost: the framing cannot do better."""
    behind: bytes = b""
    """What has to stand in front of a frame that is to be found."""
    is_proof: bool = False
    """Whether it has a check of 16 bits or more."""
    needs_silence: bool = False
    """Whether only a silence shows where garbage ends."""
    between: bool = False
    """Whether the device is silent between two frames, and has to be."""

    def build(self) -> Framer:
        """A new framer."""
        return build_framer(FramingSettings.model_validate(self.settings))

    @property
    def max_bytes(self) -> int:
        """The most that may be held between two calls."""
        kind = next(value for key, value in self.settings.items() if key != "check")
        limit = kind.get("max_bytes", kind.get("bytes"))
        assert isinstance(limit, int)
        return limit + 8  # and what may be the beginning of a mark


def sent(kit: Kit, framer: Framer, wires: Iterable[bytes], chunked: Callable[[bytes], list[bytes]]) -> list[bytes]:
    """The frames of what is sent, in pieces, and then silence."""
    frames: list[bytes] = []
    stream = list(wires) if kit.between else [b"".join(wires)]
    for wire in stream:
        for chunk in chunked(wire):
            frames += framer.feed(chunk)
        if kit.between:
            frames += framer.idle()
    return frames + (framer.idle() if framer.gap_seconds is not None else [])


def crc16(data: bytes) -> bytes:
    """CRC-16/IBM-3740, as it is sent."""
    return binascii.crc_hqx(data, 0xFFFF).to_bytes(2, "big")


def crc32(data: bytes) -> bytes:
    """CRC-32/ISO-HDLC, as it is sent."""
    return zlib.crc32(data).to_bytes(4, "little")


def arc(data: bytes) -> int:
    """CRC-16/ARC, bit by bit."""
    register = 0
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0xA001 if register & 1 else 0)
    return register


def xor(data: bytes) -> int:
    """All bytes, exclusive-or."""
    return functools.reduce(operator.xor, data, 0)


def nmea(payload: bytes) -> bytes:
    """``$...`` with its checksum."""
    return b"%b*%02X\r\n" % (payload, xor(payload[1:]))


def dsmr(payload: bytes) -> bytes:
    """A telegram with its CRC."""
    return b"%b!%04X\r\n" % (payload, arc(payload + b"!"))


def stuffed(data: bytes, marks: bytes, escape: int, mask: int) -> bytes:
    """With an escape in front of each of the marks, and of itself."""
    return b"".join(
        bytes([escape, byte ^ mask]) if byte in marks or byte == escape else bytes([byte]) for byte in data
    )


def slip(data: bytes) -> bytes:
    """RFC 1055, with an END behind it only."""
    return data.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0"


def cobs(data: bytes) -> bytes:
    """Cheshire and Baker's encoding for short frames, with a zero behind it."""
    assert len(data) < 254
    return b"".join(bytes([len(part) + 1]) + part for part in data.split(b"\0")) + b"\0"


def pms(payload: bytes) -> bytes:
    """As PMS5003: a word, a length, and the sum of all in two bytes. The payload has the first two in it."""
    return payload + sum(payload).to_bytes(2, "big")


def _pms_payload(data: bytes) -> bytes:
    return b"\x42\x4d" + (len(data) + 2).to_bytes(2, "big") + data


def _with(crc: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda payload: payload + crc(payload)


_CRC16: Final = {"crc": "CRC-16/IBM-3740"}
_LIMIT: Final = {"max_bytes": MAX_BYTES}

KITS: Final = (
    Kit("line", {"line": _LIMIT}, lambda p: p + b"\n", TEXT, marks=(b"\n", b"\r\n"), costs=1, behind=b"\n"),
    Kit(
        "line-nmea",
        {"line": {"delimiter": "\n", **_LIMIT}, "check": "nmea"},
        nmea,
        TEXT,
        marks=(b"$", b"*", b"\n"),
        costs=1,
        behind=b"\n",
    ),
    Kit(
        "line-crc-hex",
        {"line": {"delimiter": "\r\n", **_LIMIT}, "check": {"crc": "CRC-16/IBM-3740", "written": "hex"}},
        lambda p: p + b"%04X\r\n" % binascii.crc_hqx(p, 0xFFFF),
        TEXT,
        marks=(b"\r\n", b"\r"),
        costs=1,
        behind=b"\r\n",
        is_proof=True,
    ),
    Kit("fixed", {"fixed": {"bytes": 7}}, lambda p: p, sizes=(7, 7), needs_silence=True),
    Kit(
        "fixed-xor",
        {"fixed": {"bytes": 8}, "check": "xor"},
        lambda p: p + bytes([xor(p)]),
        sizes=(7, 7),
        needs_silence=True,
    ),
    # No zeros: FF FF in front of them would make a frame whose CRC holds.
    Kit("fixed-crc", {"fixed": {"bytes": 9}, "check": _CRC16}, _with(crc16), TEXT, sizes=(7, 7), is_proof=True),
    Kit(
        "length",
        {"length": {"order": "little", "bytes": 2, **_LIMIT}},
        lambda p: len(p).to_bytes(2, "little") + p,
        marks=(b"\x3e\0",),
        trap=b"\x3e\0",
        needs_silence=True,
    ),
    Kit(
        "length-crc",
        {"length": {"cut": True, **_LIMIT}, "check": {"crc": "CRC-32/ISO-HDLC"}},
        lambda p: _with(crc32)(bytes([len(p) + 4]) + p),
        marks=(b"\x3f",),
        trap=b"\x3f",
        is_proof=True,
    ),
    Kit(
        "delimited",
        {"delimited": _LIMIT},
        lambda p: b"\x02" + p + b"\x03",
        TEXT,
        marks=(b"\x02", b"\x03"),
        trap=b"\x02",
    ),
    Kit(
        "delimited-bcc",
        {"delimited": {"after": 1, **_LIMIT}, "check": "xor"},
        lambda p: b"\x02" + p + b"\x03" + bytes([xor(p + b"\x03")]),
        TEXT,
        marks=(b"\x02", b"\x03"),
        trap=b"\x02",
        costs=1,
    ),
    Kit(
        "delimited-escape",
        {"delimited": {"start": "7b", "stop": "7d", "escape": "1b", "xor": "20", **_LIMIT}, "check": _CRC16},
        lambda p: b"{" + stuffed(_with(crc16)(p), b"{}", 0x1B, 0x20) + b"}",
        marks=(b"{", b"}", b"\x1b"),
        trap=b"{",
        is_proof=True,
    ),
    Kit(
        "delimited-dle",
        {"delimited": {"start": "10 02", "stop": "10 03", "escape": "10", **_LIMIT}, "check": _CRC16},
        lambda p: b"\x10\x02" + stuffed(_with(crc16)(p), b"", 0x10, 0) + b"\x10\x03",
        marks=(b"\x10\x02", b"\x10\x03", b"\x10"),
        trap=b"\x10\x02",
        costs=1,
        behind=b"\x10\x03",
        is_proof=True,
    ),
    Kit(
        "delimited-hdlc",
        {
            "delimited": {"start": "", "stop": "7e", "escape": "7d", "xor": "20", **_LIMIT},
            "check": {"crc": "CRC-16/IBM-3740"},
        },
        lambda p: stuffed(_with(crc16)(p), b"\x7e", 0x7D, 0x20) + b"\x7e",
        marks=(b"\x7e", b"\x7d"),
        trap=b"\x7d",
        costs=1,
        behind=b"\x7e",
        is_proof=True,
    ),
    Kit("slip", {"slip": _LIMIT}, slip, marks=(b"\xc0", b"\xdb"), costs=1, behind=b"\xc0"),
    Kit(
        "slip-crc",
        {"slip": _LIMIT, "check": _CRC16},
        lambda p: slip(_with(crc16)(p)),
        marks=(b"\xc0", b"\xdb"),
        costs=1,
        behind=b"\xc0",
        is_proof=True,
    ),
    Kit("cobs", {"cobs": _LIMIT}, cobs, marks=(b"\0", b"\xff", b"\1"), costs=1, behind=b"\0"),
    Kit(
        "cobs-crc",
        {"cobs": _LIMIT, "check": {"crc": "CRC-32/ISO-HDLC"}},
        lambda p: cobs(_with(crc32)(p)),
        marks=(b"\0", b"\xff", b"\1"),
        costs=1,
        behind=b"\0",
        is_proof=True,
    ),
    Kit("idle", {"idle": {"gap_seconds": 0.02, **_LIMIT}}, lambda p: p, needs_silence=True, between=True),
    Kit(
        "idle-crc",
        {"idle": {"gap_seconds": 0.02, **_LIMIT}, "check": _CRC16},
        _with(crc16),
        needs_silence=True,
        between=True,
        is_proof=True,
    ),
    Kit(
        "sync-sum",
        {
            "sync": {"word": "42 4d", "length": {"offset": 2, "bytes": 2}, **_LIMIT},
            "check": {"sum": {"bytes": 2}},
        },
        lambda p: pms(_pms_payload(p)),
        marks=(b"\x42", b"\x42\x4d", b"\x42\x4d\0\x3c"),
        trap=b"\x42\x4d\0\x3c",
        is_proof=True,
    ),
    Kit(
        "sync-fixed-crc",
        {"sync": {"word": "aa aa 55", "bytes": 12, **_LIMIT}, "check": {"crc": "CRC-16/IBM-3740", "skip": 3}},
        lambda p: b"\xaa\xaa\x55" + _with(crc16)(p),
        sizes=(7, 7),
        marks=(b"\xaa", b"\xaa\xaa\x55"),
        trap=b"\xaa\xaa\x55",
        is_proof=True,
    ),
    Kit(
        "sync-unchecked",
        {"sync": {"word": "fa ce", "length": {"offset": 2}, **_LIMIT}},
        lambda p: b"\xfa\xce" + bytes([len(p)]) + p,
        TEXT,
        sizes=(5, 20),
        marks=(b"\xfa", b"\xfa\xce"),
        trap=b"\xfa\xce\x3d",
        costs=MAX_BYTES // 8 + 1,
    ),
    Kit(
        "nmea",
        {"nmea": _LIMIT},
        nmea,
        TEXT,
        marks=(b"$", b"!", b"*", b"\r\n", b"$GP*0"),
        trap=b"$",
    ),
    Kit(
        "dsmr",
        {"dsmr": _LIMIT},
        dsmr,
        TEXT,
        marks=(b"/", b"!", b"/ISK5", b"/IS", b"!0000"),
        trap=b"/ISK5",
        is_proof=True,
    ),
    Kit(
        "dsmr-old",
        {"dsmr": {"crc": False, **_LIMIT}},
        lambda p: p + b"!\r\n",
        TEXT,
        marks=(b"/", b"!", b"/ISK5", b"/IS"),
        trap=b"/ISK5",
        costs=1,
    ),
)


def payload_of(kit: Kit, data: bytes) -> bytes:
    """What the framer is to give back for this content: some frames keep their head."""
    match kit.name:
        case "nmea" | "line-nmea":
            return b"$GP" + data
        case "dsmr" | "dsmr-old":
            return b"/ISK5" + data
        case "sync-sum":
            return _pms_payload(data)
        case "sync-fixed-crc":
            return b"\xaa\xaa\x55" + data
        case "sync-unchecked":
            return b"\xfa\xce" + bytes([len(data)]) + data
        case _:
            return data


def wire_of(kit: Kit, data: bytes) -> bytes:
    """What the device sends for this content."""
    return kit.encode(payload_of(kit, data) if kit.name in _HEADED else data)


_HEADED: Final = frozenset({"nmea", "line-nmea", "dsmr", "dsmr-old"})
