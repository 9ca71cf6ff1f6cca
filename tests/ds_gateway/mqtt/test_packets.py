from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ds_gateway.mqtt.packets import (
    CUT_BYTES,
    CutPacket,
    PacketBuffer,
    ProtocolError,
    Publication,
    digest_of,
    parse_publication,
    stable_properties,
    topic_digest,
)

PINGRESP = b"\xd0\x00"

publications = st.builds(
    Publication,
    topic=st.text(
        st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=40
    ).map(str.encode),
    payload=st.binary(max_size=300),
    mid=st.integers(1, 65535),
    qos=st.sampled_from([0, 1, 2]),
    dup=st.booleans(),
    retain=st.booleans(),
    properties=st.just(b""),
    missing_bytes=st.just(0),
).map(lambda each: each._replace(mid=each.mid if each.qos else 0))


def paho_bytes(publication: Publication, *, v5: bool, properties: Properties | None = None) -> bytes:
    """The packet as paho writes it."""
    client = Client(
        CallbackAPIVersion.VERSION2,
        "writer",
        protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
    )
    written: list[bytes] = []

    class Socket:
        def send(self, data: bytes) -> int:
            written.append(bytes(data))
            return len(data)

        def close(self) -> None:
            pass

    client._sock = Socket()  # type: ignore[assignment]
    client._send_publish(
        publication.mid,
        publication.topic,
        publication.payload,
        publication.qos,
        publication.retain,
        publication.dup,
        # Without it paho wants to tell a caller who waits for a QoS 0 message.
        info=_Info(),  # type: ignore[arg-type]
        properties=properties,
    )
    return b"".join(written)


class _Info:
    def _set_as_published(self) -> None:
        pass


def properties_of(**values: Any) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def packed(properties: Properties) -> bytes:
    """Without the length in front, which is one byte here."""
    raw: bytes = properties.pack()  # type: ignore[no-untyped-call]
    return raw[1:]


def publication(**changes: Any) -> Publication:
    return Publication(b"t", b"payload", 1, 1, False, False, b"")._replace(**changes)


class TestAPublish:
    @given(publications, st.booleans())
    def test_is_read_as_paho_writes_it(self, expected: Publication, v5: bool) -> None:  # noqa: FBT001
        assert parse_publication(paho_bytes(expected, v5=v5), properties=v5) == expected

    def test_has_its_raw_properties(self) -> None:
        properties = properties_of(ContentType="x", UserProperty=[("a", "b"), ("c", "d")])
        parsed = parse_publication(paho_bytes(publication(), v5=True, properties=properties), properties=True)
        assert parsed.properties == packed(properties)
        assert parsed.payload == b"payload"

    @given(publications.filter(lambda each: len(each.payload) < 20), st.booleans(), st.data())
    def test_cut_short_never_reads_beyond_its_end(
        self,
        whole: Publication,
        v5: bool,  # noqa: FBT001
        data: st.DataObject,
    ) -> None:
        body = paho_bytes(whole, v5=v5)[2:]
        cut = data.draw(st.integers(0, len(body)))
        try:
            parsed = parse_publication(bytes([0x32, cut]) + body[:cut], properties=v5)
        except ProtocolError:
            return
        assert body.startswith(struct.pack(">H", len(parsed.topic)) + parsed.topic)

    @pytest.mark.parametrize(
        ("packet", "why"),
        [
            (b"\x36\x05\x00\x01t\x00\x01", "QoS 3"),
            (b"\x32\x05\x00\x09t\x00\x01", "too early"),
            (b"\x32\x03\x00\x01t", "too early"),
            (b"\x32\x05\x00\x01t\x00\x00", "malformed"),
            (b"\x30\x02\x00\x00", "alias"),
        ],
    )
    def test_that_is_none_says_so(self, packet: bytes, why: str) -> None:
        with pytest.raises(ProtocolError, match=why):
            parse_publication(packet, properties=False)


class TestAPacketBuffer:
    @given(st.lists(publications, max_size=8), st.data())
    def test_cuts_the_same_packets_however_the_bytes_come(
        self, expected: list[Publication], data: st.DataObject
    ) -> None:
        packets = [packet for each in expected for packet in (paho_bytes(each, v5=True), PINGRESP)]
        stream = b"".join(packets)
        buffer, found = PacketBuffer(), list[bytes | CutPacket]()
        at = 0
        while at < len(stream):
            step = data.draw(st.integers(1, 400))
            found += buffer.feed(stream[at : at + step])
            at += step
        assert found == packets

    def test_gives_a_packet_out_with_its_last_byte(self) -> None:
        packet = paho_bytes(publication(payload=bytes(300)), v5=False)
        buffer = PacketBuffer()
        for index in range(len(packet) - 1):
            assert list(buffer.feed(packet[index : index + 1])) == []
        assert list(buffer.feed(packet[-1:])) == [packet]

    @pytest.mark.parametrize("step", [1000, 4096, CUT_BYTES - 1, CUT_BYTES, CUT_BYTES + 9])
    def test_keeps_the_same_beginning_of_a_packet_that_is_too_large(self, step: int) -> None:
        large = paho_bytes(publication(payload=bytes(3 * CUT_BYTES)), v5=False)
        small = paho_bytes(publication(), v5=False)
        stream = small + large + small + PINGRESP
        buffer, found = PacketBuffer(max_bytes=CUT_BYTES), list[bytes | CutPacket]()
        for at in range(0, len(stream), step):
            found += buffer.feed(stream[at : at + step])
        assert found == [small, CutPacket(large[:CUT_BYTES], len(large) - CUT_BYTES), small, PINGRESP]

    def test_holds_no_more_than_the_beginning_of_it(self) -> None:
        buffer = PacketBuffer(max_bytes=CUT_BYTES)
        length = b"\xff\xff\xff\x7f"
        assert list(buffer.feed(b"\x30" + length + bytes(CUT_BYTES))) == []
        for _ in range(100):
            assert list(buffer.feed(bytes(CUT_BYTES))) == []
        assert buffer._have == 0

    def test_refuses_a_length_of_five_bytes(self) -> None:
        with pytest.raises(ProtocolError, match="four bytes"):
            list(PacketBuffer().feed(b"\x30\xff\xff\xff\xff\x01"))


class TestADigest:
    @pytest.mark.parametrize(
        "other",
        [
            publication(topic=b"u"),
            publication(payload=b"other"),
            publication(properties=b"\x03\x00\x01x"),
            publication(topic=b"tp", payload=b"ayload"),
        ],
    )
    def test_differs_with_topic_payload_and_properties(self, other: Publication) -> None:
        assert digest_of(other) != digest_of(publication())

    @pytest.mark.parametrize(
        "copy", [publication(mid=9), publication(dup=True), publication(qos=2), publication(retain=True)]
    )
    def test_is_the_same_for_every_copy(self, copy: Publication) -> None:
        assert digest_of(copy) == digest_of(publication())

    def test_leaves_out_expiry_alias_and_subscription_id(self) -> None:
        first = properties_of(ContentType="x", MessageExpiryInterval=60, SubscriptionIdentifier=300)
        second = properties_of(ContentType="x", MessageExpiryInterval=59, TopicAlias=7)
        assert stable_properties(packed(first)) == stable_properties(packed(second)) != b""

    def test_does_not_depend_on_the_order_of_properties(self) -> None:
        content_type, user = b"\x03\x00\x01x", b"\x26\x00\x01a\x00\x01b"
        assert stable_properties(content_type + user) == stable_properties(user + content_type)

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "PayloadFormatIndicator": st.integers(0, 1),
                "ContentType": st.text(max_size=9),
                "ResponseTopic": st.text(st.characters(codec="utf-8", exclude_characters="+#"), max_size=9),
                "CorrelationData": st.binary(max_size=9),
                "UserProperty": st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=3),
            },
        )
    )
    def test_covers_every_other_property(self, values: dict[str, Any]) -> None:
        raw = packed(properties_of(**values))
        assert sorted(stable_properties(raw)) == sorted(raw)

    @pytest.mark.parametrize("raw", [b"\x7f\x00", b"\x03\x00\x09x", b"\x02\x00", b"\x0b\xff"])
    def test_of_broken_properties_is_refused(self, raw: bytes) -> None:
        with pytest.raises(ProtocolError):
            stable_properties(raw)

    def test_of_a_topic_is_of_the_topic_alone(self) -> None:
        assert topic_digest(b"a") != topic_digest(b"b")
        assert len(topic_digest(b"a")) == 8
