"""Which message answers which command."""

from __future__ import annotations

import re
import struct

import pytest

from ds_gateway.commands import MqttReply, Progress
from ds_gateway.mqtt.packets import Publication
from ds_gateway.mqtt.replies import MAX_CHARACTERS, answer_of, response_topic


def message(
    payload: bytes = b"done", *, correlation: bytes = b"", dup: bool = False, retain: bool = False
) -> Publication:
    properties = struct.pack(">BH", 9, len(correlation)) + correlation if correlation else b""
    return Publication(b"d/1/out", payload, 7, 1, dup, retain, properties)


def answer(
    publication: Publication, reply: MqttReply, command_id: str = "c-1", *, is_alone: bool = True
) -> Progress | None:
    return answer_of(publication, command_id, reply, is_alone=is_alone)


FIRST = MqttReply(topic="d/1/out")
BY_ID = MqttReply(topic="d/1/out", id_pointer="/a~1b/0/id")
RESPONSE = MqttReply(topic=None)


class TestCorrelationData:
    @pytest.mark.parametrize("reply", [FIRST, BY_ID, RESPONSE])
    def test_decides_alone(self, reply: MqttReply) -> None:
        assert answer(message(correlation=b"c-1", dup=True), reply, is_alone=False) is not None
        assert answer(message(b'{"a/b": [{"id": "c-1"}]}', correlation=b"c-2"), reply) is None


class TestAnIdInThePayload:
    @pytest.mark.parametrize(
        ("payload", "command_id"),
        [(b'{"a/b": [{"id": "c-1"}]}', "c-1"), (b'{"a/b": [{"id": 17}]}', "17"), (b'{"a/b":[{"id":"17"}]}', "17")],
    )
    def test_is_found(self, payload: bytes, command_id: str) -> None:
        assert answer(message(payload, dup=True), BY_ID, command_id, is_alone=False) is not None

    @pytest.mark.parametrize(
        "payload", [b"c-1", b"{}", b'{"a/b": [{"id": "c-2"}]}', b'{"a/b": [{"id": true}]}', b"[", b""]
    )
    def test_of_another_command_or_none_is_no_answer(self, payload: bytes) -> None:
        assert answer(message(payload), BY_ID) is None

    def test_is_looked_for_on_the_response_topic_too(self) -> None:
        reply = MqttReply(topic=None, id_pointer="/id")
        assert answer(message(b'{"id":"c-1"}'), reply) is not None


class TestWithoutAnyId:
    def test_the_first_message_counts(self) -> None:
        assert answer(message(), FIRST) == Progress("acknowledged", is_final=True, reply="done")

    def test_not_if_two_commands_wait_on_the_topic(self) -> None:
        assert answer(message(), FIRST, is_alone=False) is None

    def test_not_a_copy_which_may_be_the_answer_to_the_command_before(self) -> None:
        assert answer(message(dup=True), FIRST) is None

    def test_not_on_the_response_topic_where_everybody_answers(self) -> None:
        assert answer(message(), RESPONSE) is None


class TestARetainedMessage:
    @pytest.mark.parametrize("reply", [FIRST, RESPONSE])
    def test_is_never_an_answer(self, reply: MqttReply) -> None:
        assert answer(message(correlation=b"c-1", retain=True), reply) is None
        assert answer(message(retain=True), reply) is None


class TestThePatterns:
    REPLY = MqttReply(topic="d/1/out", pattern=re.compile("OK|done"), error=re.compile("ERR"))

    def test_tell_answers_from_other_messages(self) -> None:
        assert answer(message(b"21.5"), self.REPLY) is None
        assert answer(message(b"is done"), self.REPLY) is not None

    def test_say_what_failed_and_come_first(self) -> None:
        progress = answer(message(b"done: ERR 7\x00"), self.REPLY)
        assert progress == Progress(
            "failed", is_final=True, reason="the device answered 'done: ERR 7\\x00'", reply="done: ERR 7\x00"
        )

    def test_see_and_keep_the_beginning_only(self) -> None:
        assert answer(message(b"x" * MAX_CHARACTERS + b"OK"), self.REPLY) is None
        progress = answer(message("é".encode() * 5000), FIRST)
        assert progress is not None
        assert progress.reply == "é" * MAX_CHARACTERS

    def test_see_bytes_that_are_no_text(self) -> None:
        assert answer(message(b"\xff OK"), self.REPLY) == Progress(
            "acknowledged", is_final=True, reply="\ufffd OK"
        )


def test_the_response_topic_is_a_topic_whatever_the_client_is_called() -> None:
    assert response_topic("gw-1") == "ds-gateway/gw-1/reply"
    assert response_topic("a+b#%") == "ds-gateway/a%2Bb%23%25/reply"
