from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ds_gateway.mqtt.keyring import KEY_ENTRIES, KeyRing, row_name
from ds_gateway.mqtt.keys import KEY_BYTES, MAX_JSON_BYTES, NO_KEY, KeyReader
from ds_gateway.mqtt.packets import Publication

if TYPE_CHECKING:
    from collections.abc import Mapping


def message(
    payload: bytes = b"", *, topic: bytes = b"t", missing_bytes: int = 0, **properties: Any
) -> Publication:
    made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in properties.items():
        setattr(made, name, value)
    raw: bytes = made.pack()  # type: ignore[no-untyped-call]
    return Publication(topic, payload, 1, 1, False, False, raw[1:], missing_bytes)


class TestAKeyInThePayload:
    @pytest.mark.parametrize(
        ("pointer", "payload"),
        [
            ("/id", b'{"id": "7", "temp": 1}'),
            ("/meta/id", b'{"meta": {"id": "7"}}'),
            ("/0/id", b'[{"id": "7"}]'),
            ("/a~1b/c~0d", b'{"a/b": {"c~d": "7"}}'),
            ("/~01", b'{"~1": "7"}'),
        ],
    )
    def test_is_found_at_its_pointer(self, pointer: str, payload: bytes) -> None:
        read = KeyReader(pointer)
        found = read(message(payload))
        assert len(found) == KEY_BYTES
        assert found == read(message(payload.replace(b"1}", b"2}")))
        assert found != read(message(payload.replace(b"7", b"8")))

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"7",
            b"not json",
            b"[]",
            b"{}",
            b'{"id": null}',
            b'{"id": ""}',
            b'{"id": true}',
            b'{"id": 1.5}',
            b'{"id": 18446744073709551616}',
            b'{"id": {"a": 1}}',
            b'{"id": [1]}',
        ],
    )
    def test_is_none_where_there_is_no_text_and_no_whole_number(self, payload: bytes) -> None:
        assert KeyReader("/id")(message(payload)) == NO_KEY

    @pytest.mark.parametrize("pointer", ["/1", "/-", "/01x", "/99999999999999999999"])
    def test_is_none_beyond_an_array(self, pointer: str) -> None:
        assert KeyReader(pointer)(message(b'["7"]')) == NO_KEY

    def test_is_none_in_a_payload_that_is_cut_or_huge(self) -> None:
        read = KeyReader("/id")
        huge = b'{"id": 7, "x": "%b"}' % bytes([65] * MAX_JSON_BYTES)
        assert read(message(b'{"id": 7}', missing_bytes=1)) == NO_KEY
        assert read(message(huge)) == NO_KEY

    def test_tells_text_from_a_number(self) -> None:
        read = KeyReader("/id")
        assert read(message(b'{"id": 7}')) != read(message(b'{"id": "7"}'))


class TestAKeyInTheProperties:
    def test_is_the_first_user_property_of_that_name(self) -> None:
        read = KeyReader("user_property:id")
        found = read(message(b"x", UserProperty=[("no", "0"), ("id", "7"), ("id", "8")], ContentType="a"))
        assert found != NO_KEY
        assert found == read(message(b"y", UserProperty=[("id", "7")]))
        assert found != read(message(b"x", UserProperty=[("id", "8")]))

    def test_is_the_correlation_data(self) -> None:
        read = KeyReader("correlation_data")
        found = read(message(b"x", CorrelationData=b"\x00\x01"))
        assert found != NO_KEY
        assert found == read(message(b"y", CorrelationData=b"\x00\x01", ContentType="a"))

    @pytest.mark.parametrize("setting", ["user_property:id", "correlation_data"])
    @pytest.mark.parametrize(
        "properties", [{}, {"UserProperty": [("idx", "7")]}, {"UserProperty": [("id", "")]}, {"ContentType": "id"}]
    )
    def test_is_none_without_the_property(self, setting: str, properties: Mapping[str, Any]) -> None:
        assert KeyReader(setting)(message(b"x", **properties)) == NO_KEY


class TestADigest:
    def test_differs_with_topic_and_setting(self) -> None:
        one = message(b'{"a": "7", "b": "7"}')
        other = message(b'{"a": "7", "b": "7"}', topic=b"u")
        digests = {KeyReader("/a")(one), KeyReader("/b")(one), KeyReader("/a")(other)}
        assert len(digests) == 3

    def test_keeps_topic_and_key_apart(self) -> None:
        read = KeyReader("correlation_data")
        first = read(message(topic=b"t", CorrelationData=b"xy"))
        assert first != read(message(topic=b"tx", CorrelationData=b"y"))


def key(number: int) -> bytes:
    return number.to_bytes(KEY_BYTES, "big")


def apply(rows: dict[str, bytes], ring: KeyRing) -> None:
    for name, row in ring.changes():
        if row is None:
            del rows[name]
        else:
            rows[name] = row


class TestAKeyRing:
    def test_knows_a_key_again(self) -> None:
        ring = KeyRing()
        assert [ring.add(key(number), 1) for number in (1, 2, 1)] == [True, True, False]

    def test_is_the_same_after_a_restore(self) -> None:
        ring, rows = KeyRing(), dict[str, bytes]()
        for commit in range(1, 4):
            ring.add(key(commit), commit)
            ring.add(key(commit + 100), commit)
            apply(rows, ring)
        assert sorted(rows) == [row_name(1), row_name(2), row_name(3)]
        restored = KeyRing()
        restored.restore(rows)
        assert [restored.add(key(number), 9) for number in (1, 103, 4)] == [False, False, True]

    def test_writes_nothing_when_nothing_is_new(self) -> None:
        ring = KeyRing()
        ring.add(key(1), 1)
        assert list(ring.changes()) == [(row_name(1), key(1))]
        ring.add(key(1), 2)
        assert list(ring.changes()) == []

    def test_keeps_at_least_so_many(self) -> None:
        ring, rows = KeyRing(max_entries=10), dict[str, bytes]()
        for commit in range(1, 6):
            for number in range(4):
                ring.add(key(commit * 10 + number), commit)
            apply(rows, ring)
        assert sorted(rows) == [row_name(3), row_name(4), row_name(5)]
        assert len(ring) == 12
        assert not ring.add(key(30), 6)
        assert ring.add(key(23), 6)

    def test_refuses_a_row_that_is_none(self) -> None:
        with pytest.raises(ValueError, match="17 bytes"):
            KeyRing().restore({row_name(1): bytes(17)})

    def test_keeps_as_many_keys_as_are_promised(self) -> None:
        assert KEY_ENTRIES == 32_768
