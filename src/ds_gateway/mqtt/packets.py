"""Bytes from the broker -> whole packets -> publications: sans-IO.

Only PUBLISH is parsed here, because there is one for every message; other packets are passed on whole.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from ds_gateway.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLISH: Final = 3
MAX_PACKET_BYTES: Final = 4 * 1024 * 1024
"""MQTT allows 256 MiB; a box with a small memory does not."""
CUT_BYTES: Final = 128 * 1024
"""More than the longest topic, so that it is known whose message it was. With one read more it is still far below
the limit, so that a packet is cut at the same byte however it comes: copies have the same digest."""
_U16: Final = struct.Struct(">H")
_DIGEST_HEAD: Final = struct.Struct(">HI")

# MQTT 5, 2.2.2.2: the properties that a PUBLISH may have, by the kind of their value.
_FIXED: Final = {0x01: 1, 0x02: 4, 0x23: 2}
_STRINGS: Final = {0x03: 1, 0x08: 1, 0x09: 1, 0x26: 2}
_VARIABLE: Final = 0x0B
_CORRELATION_DATA: Final = 0x09
_USER_PROPERTY: Final = 0x26
# They differ from copy to copy of the same message: expiry counts down, alias and subscription id are the link's.
_OF_THE_COPY: Final = frozenset({0x02, 0x0B, 0x23})


class ProtocolError(DeviceError):
    """The broker sent bytes that are not MQTT, or not what this client asked for."""


class Publication(NamedTuple):
    """One PUBLISH. ``properties`` is the raw property list of MQTT 5, without its length. ``mid`` 0: QoS 0.

    ``missing_bytes`` of the payload's end were not kept, because the message is too large to be held.
    """

    topic: bytes
    payload: bytes
    mid: int
    qos: int
    dup: bool
    retain: bool
    properties: bytes
    missing_bytes: int = 0


class CutPacket(NamedTuple):
    """The first bytes of a packet that is too large to be held."""

    head: bytes
    missing_bytes: int


class PacketBuffer:
    """Cuts a byte stream into packets. A packet in the making is not copied again with every read.

    Of a packet of more than ``max_bytes`` only the first ``CUT_BYTES`` are kept.
    """

    def __init__(self, max_bytes: int = MAX_PACKET_BYTES) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 2
        self._cut: CutPacket | None = None
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[bytes | CutPacket]:
        """Take bytes; yield every packet that is now complete. Raises `ProtocolError`.

        The iterator must be used up before the next call.
        """
        if self._cut is not None:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            if self._skip:
                return
            data = data[skipped:]
            yield self._cut
            self._cut = None
        self._parts.append(data)
        self._have += len(data)
        if self._have < self._need:
            return
        buffer = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        at, size = 0, len(buffer)
        while True:
            end = _packet_end(buffer, at, size)
            if end > size:
                break
            yield buffer[at:end]
            at = end
        rest = buffer[at:]
        self._parts, self._have, self._need = [rest], len(rest), end - at
        if self._need > self._max_bytes:
            self._need = CUT_BYTES
            if self._have >= CUT_BYTES:
                self._cut = CutPacket(rest[:CUT_BYTES], end - at - CUT_BYTES)
                self._skip = end - at - self._have
                self._parts, self._have, self._need = [], 0, 2


def _packet_end(buffer: bytes, at: int, size: int) -> int:
    """Return the end of the packet at ``at``, or, while its length is not known, more than ``size``."""
    length, shift = 0, 0
    for index in range(at + 1, at + 5):
        if index >= size:
            return index + 1
        byte = buffer[index]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return index + 1 + length
        shift += 7
    raise ProtocolError("the broker sent a packet length of more than four bytes")


def parse_publication(packet: bytes, *, properties: bool) -> Publication:
    """Parse a whole PUBLISH; ``properties`` says whether the connection speaks MQTT 5. Raises `ProtocolError`."""
    first = packet[0]
    qos = (first >> 1) & 3
    if qos == 3:
        raise ProtocolError("the broker sent a PUBLISH with QoS 3")
    at = 2
    while packet[at - 1] & 0x80:
        at += 1
    try:
        topic_end = at + 2 + _U16.unpack_from(packet, at)[0]
        topic = packet[at + 2 : topic_end]
        mid = 0
        if qos:
            mid = _U16.unpack_from(packet, topic_end)[0]
            topic_end += 2
        raw = b""
        if properties:
            length, start = _variable(packet, topic_end)
            topic_end = start + length
            raw = packet[start:topic_end]
    except (struct.error, IndexError) as error:
        raise ProtocolError("the broker sent a PUBLISH that ends too early") from error
    if topic_end > len(packet) or not topic or (qos and not mid):
        raise ProtocolError("the broker sent a malformed PUBLISH, or one with a topic alias nobody offered")
    return Publication(topic, packet[topic_end:], mid, qos, first & 8 != 0, first & 1 != 0, raw)


def digest_of(publication: Publication) -> bytes:
    """8 bytes over topic, payload and those properties that are the same in every copy.

    A retained message has the digest of the live one that it repeats.
    """
    topic, raw = publication.topic, publication.properties
    properties = stable_properties(raw) if raw else b""
    head = _DIGEST_HEAD.pack(len(topic), len(properties))
    return blake2b(b"%b%b%b%b" % (head, topic, properties, publication.payload), digest_size=8).digest()


def topic_digest(topic: bytes) -> bytes:
    """8 bytes over the topic alone."""
    return blake2b(topic, digest_size=8).digest()


def stable_properties(raw: bytes) -> bytes:
    """Properties without expiry, alias and subscription id, in an order of their own. Raises `ProtocolError`."""
    return b"".join(sorted([each for each in _split(raw) if each[0] not in _OF_THE_COPY]))


def user_property(raw: bytes, name: bytes) -> bytes:
    """The value of the first user property of this name; empty without one. Raises `ProtocolError`."""
    head = bytes([_USER_PROPERTY]) + _U16.pack(len(name)) + name
    found = next((each for each in _split(raw) if each.startswith(head)), b"")
    return found[len(head) + 2 :]


def correlation_data(raw: bytes) -> bytes:
    """The correlation data; empty without any. Raises `ProtocolError`."""
    return next((each[3:] for each in _split(raw) if each[0] == _CORRELATION_DATA), b"")


def _split(raw: bytes) -> list[bytes]:
    """Each property with its identifier. Raises `ProtocolError`."""
    found: list[bytes] = []
    at, size = 0, len(raw)
    try:
        while at < size:
            start, kind = at, raw[at]
            at += 1
            if kind in _FIXED:
                at += _FIXED[kind]
            elif kind in _STRINGS:
                for _ in range(_STRINGS[kind]):
                    at += 2 + _U16.unpack_from(raw, at)[0]
            elif kind == _VARIABLE:
                _, at = _variable(raw, at)
            else:
                raise ProtocolError(f"the broker sent a PUBLISH with the unknown property {kind:#04x}")
            found.append(raw[start:at])
    except (struct.error, IndexError) as error:
        raise ProtocolError("the broker sent a PUBLISH with a cut property") from error
    if at != size:
        raise ProtocolError("the broker sent a PUBLISH with a cut property")
    return found


def _variable(data: bytes, at: int) -> tuple[int, int]:
    """Return a variable byte integer (MQTT 5, 1.5.5) and where it ends."""
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
