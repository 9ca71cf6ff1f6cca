"""From a command's device back to its topic or port, and what the device gets."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_gateway.commands import MqttMessage, MqttReply, SerialMessage, SerialReply
from ds_gateway.config.models import Settings
from ds_gateway.mapping import CommandRoutes, MappingError, RefusedNameError, RefusedPayloadError
from ds_gateway.mapping.inversion import NameInverse
from ds_gateway.mapping.routes import DeviceRule
from harness.configuration import given_device


def routes(
    *devices: dict[str, Any], serial: dict[str, Any] | None = None, version: str = "5", **more: Any
) -> CommandRoutes:
    return CommandRoutes(
        Settings.model_validate(
            {
                "gateway": {"id": "line-7"},
                "data_dir": "/d",
                "server": {"url": "http://h"},
                "mqtt": {"hall": {"url": "mqtt://h", "version": version, "devices": [*devices]}}
                if devices
                else {},
                "serial": {"scale": serial} if serial else {},
                **more,
            }
        )
    )


def device(topic: str, commands: str | dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    if isinstance(commands, str):
        commands = {"topic": commands}
    return {"topic": topic, "commands": commands, **more}


def port(write: Any, **more: Any) -> dict[str, Any]:
    return {"port": "/dev/x", "commands": {"write": write, **more}}


def topic_of(found: CommandRoutes, name: str) -> str:
    message = found.route(name).message(None)
    assert isinstance(message, MqttMessage)
    return message.topic


def mistake(*devices: dict[str, Any], **more: Any) -> str:
    with pytest.raises(MappingError) as caught:
        routes(*devices, **more)
    return str(caught.value)


def refusal(found: CommandRoutes, name: str) -> str:
    with pytest.raises(RefusedNameError) as caught:
        found.route(name)
    return str(caught.value)


# Levels with everything in them that names may be confused by.
LEVELS = st.text(st.sampled_from("ab-{}@ .é"), max_size=4)
CAPTURES = ("x", "y", "z")


@st.composite
def entries(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    """An entry whose names can be inverted, and the levels of a topic of it."""
    count = draw(st.integers(1, 3))
    captures = draw(st.permutations(CAPTURES))[:count]
    has_rest = draw(st.booleans())
    levels = ["in", *(f"{{{name}}}" for name in captures)]
    values = ["in", *(draw(LEVELS) for _ in captures)]
    if has_rest:
        levels[-1] = f"{{{captures[-1]}...}}"
        values[-1:] = draw(st.lists(LEVELS, max_size=3))
    affix = st.text(st.sampled_from("ab-@"), max_size=2)
    order = [*captures]
    if not has_rest:
        order = draw(st.permutations(order))
    name = draw(affix) + "/".join(f"{draw(affix)}{{{each}}}" + ("" if has_rest else draw(affix)) for each in order)
    commands = "out/" + "/".join(f"{{{each}}}" for each in captures)
    if not has_rest and draw(st.booleans()):
        return device("/".join(levels), commands), values
    return device("/".join(levels), commands, name=name), values


class TestTheInverse:
    @given(entries())
    def test_gives_back_the_captures_of_each_name_that_a_topic_makes(
        self, given_entry: tuple[dict[str, Any], list[str]]
    ) -> None:
        entry, values = given_entry
        topic = "/".join(values)
        rule = DeviceRule(given_device(entry), "line-7")
        captured = rule.pattern.match(topic)
        assert captured is not None
        found = routes(entry)
        try:
            made = rule.route(topic)
        except RefusedNameError:
            return  # no device has this topic
        assert made is not None
        if all(captured.values()):
            assert topic_of(found, made.device) == "out/" + "/".join(captured.values())
        else:
            # Nothing is sent rather than something wrong: an empty capture has no way back.
            assert refusal(found, made.device)

    @given(entries(), st.text(st.sampled_from("ab-@/"), min_size=1, max_size=12))
    def test_of_any_name_makes_that_name_again(
        self, given_entry: tuple[dict[str, Any], list[str]], name: str
    ) -> None:
        entry, _ = given_entry
        try:
            topic = topic_of(routes(entry), name)
        except RefusedNameError:
            return
        made = DeviceRule(given_device(entry), "line-7").route("in/" + topic.removeprefix("out/"))
        assert made is not None
        assert made.device == name

    @given(entries(), entries(), st.text(st.sampled_from("ab-@/"), min_size=1, max_size=12))
    def test_two_entries_are_never_both_meant(
        self,
        one: tuple[dict[str, Any], list[str]],
        other: tuple[dict[str, Any], list[str]],
        name: str,
    ) -> None:
        inverses = [
            NameInverse(each.get("name") or "/".join(re.findall(r"\{\w\}", each["topic"])), rest_of(each["topic"]))
            for each in (one[0], other[0])
        ]
        if inverses[0].captures_of(name) is not None and inverses[1].captures_of(name) is not None:
            assert inverses[0].meets(inverses[1])
            assert inverses[1].meets(inverses[0])

    @pytest.mark.parametrize(
        ("one", "other", "meet"),
        [
            ("{x}/{y}", "{z}", False),
            ("{x}/{y}", "a/{z}", True),
            ("a/{x}", "b/{x}", False),
            ("a-{x}", "{x}-b", True),
            ("a-{x}", "ab-{x}", False),
            ("{x}-b", "{x}-ab", False),
            ("a", "{x}", True),
            ("a/b", "{x}", False),
            ("a", "b", False),
            ("a", "a", True),
            ("a-", "a-{x}", False),
        ],
    )
    def test_whether_two_templates_can_make_one_name(self, one: str, other: str, meet: bool) -> None:  # noqa: FBT001
        assert NameInverse(one).meets(NameInverse(other)) is meet
        assert NameInverse(other).meets(NameInverse(one)) is meet

    @pytest.mark.parametrize(
        ("one", "rest", "other", "meet"),
        [
            ("{x}/{r}", "r", "{x}", False),
            ("{x}/{r}", "r", "a/b/c", True),
            ("a/{r}", "r", "b/{x}/{y}", False),
            ("a/{r}", "r", "a/{x}/{y}", True),
            ("{r}", "r", "{x}/{y}", True),
            ("a/b/{r}", "r", "{x}/{y}", False),
        ],
    )
    def test_a_rest_takes_one_level_at_least(self, one: str, rest: str, other: str, meet: bool) -> None:  # noqa: FBT001
        assert NameInverse(one, rest).meets(NameInverse(other)) is meet
        assert NameInverse(other).meets(NameInverse(one, rest)) is meet


def rest_of(topic: str) -> str | None:
    found = re.search(r"\{(\w+)\.\.\.\}", topic)
    return None if found is None else found[1]


class TestARoute:
    def test_has_what_the_entry_says(self) -> None:
        found = routes(
            device(
                "s/{hall}/{sensor}/telemetry",
                {"topic": "s/{hall}/{sensor}/set", "delivery": "at_most_once", "expires_after": 5},
                max_rate=2,
            )
        )
        route = found.route("h1/s2")
        assert (route.device, route.source, route.delivery) == ("h1/s2", "hall", "at_most_once")
        assert (route.expires_after_seconds, route.max_rate) == (5, 2)
        assert route.message({"on": True}) == MqttMessage("s/h1/s2/set", b'{"on":true}')

    def test_defaults(self) -> None:
        route = routes(device("s/{x}", "c/{x}")).route("a")
        assert (route.delivery, route.expires_after_seconds, route.max_rate) == ("at_least_once", 60, None)

    def test_the_rest_may_stand_anywhere_in_a_topic(self) -> None:
        found = routes(device("s/{path...}", "c/{path...}/set", name="{path}"))
        assert topic_of(found, "a/b/c") == "c/a/b/c/set"

    def test_a_fixed_device(self) -> None:
        found = routes(device("plug/state", "plug/set"), device("lamp/+/state", "lamp/set", name="lamp"))
        assert topic_of(found, "plug/state") == "plug/set"
        assert topic_of(found, "lamp") == "lamp/set"

    def test_the_same_capture_twice(self) -> None:
        found = routes(device("s/{x}", "c/{x}", name="{x}/{x}"))
        assert topic_of(found, "a/a") == "c/a"
        assert "no device 'a/b'" in refusal(found, "a/b")

    def test_a_port_is_called_as_it_is(self) -> None:
        found = routes(serial={**port("T\r\n"), "name": "the {scale}"})
        message = found.route("the {scale}").message(None)
        assert message == SerialMessage(b"T\r\n")
        assert str(message) == r"'T\r\n'", "for people"

    def test_replies_on_a_broker(self) -> None:
        reply = {
            "topic": "stat/{x}/R",
            "id": "/id",
            "pattern": "OK",
            "error": "ERR",
            "timeout_seconds": 3,
            "retries": 2,
        }
        found = routes(device("s/{x}", {"topic": "c/{x}", "reply": reply}))
        message = found.route("a").message("on")
        assert message == MqttMessage(
            "c/a", b"on", MqttReply("stat/a/R", "/id", re.compile("OK"), re.compile("ERR"), 3.0, 2)
        )
        assert found.reply_filters("hall") == ["stat/+/R"]
        assert found.reply_filters("other") == []

    def test_the_response_topic(self) -> None:
        replies: list[Any] = ["response_topic", {}]
        for reply in replies:
            message = routes(device("s/{x}", {"topic": "c/{x}", "reply": reply})).route("a").message("on")
            assert isinstance(message, MqttMessage)
            assert message.reply == MqttReply(None)

    def test_replies_on_a_port(self) -> None:
        commands = port("T\r\n", turnaround_seconds=0.5, reply={"pattern": "OK", "error": "E", "retries": 1})
        message = routes(serial=commands).route("scale").message({})
        assert message == SerialMessage(b"T\r\n", SerialReply(re.compile("OK"), re.compile("E"), 2.0, 1), 0.5)

    def test_reply_filters_contain_no_other(self) -> None:
        def answering(name: str, topic: str) -> dict[str, Any]:
            return device(
                f"{name}/{{x...}}", {"topic": f"{name}/{{x}}", "reply": {"topic": topic}}, name=f"{name}/{{x}}"
            )

        found = routes(answering("a", "stat/{x}/y"), answering("b", "stat/a/b"), answering("c", "other"))
        assert found.reply_filters("hall") == ["stat/#", "other"]

    def test_whether_there_are_any(self) -> None:
        assert not routes(device("s/{x}", None))
        assert routes(device("s/{x}", "c/{x}"))
        assert routes(device("s/{x}", None), downlink={"gateway_commands": ["status"]})


class TestARefusedName:
    def test_an_unknown_one_with_the_nearest(self) -> None:
        found = routes(device("plug/state", "plug/set", name="plug"), device("s/{x}/{y}", "c/{x}/{y}"))
        assert refusal(found, "plog") == "there is no device 'plog': did you mean plug?"
        assert refusal(found, "a/b/c") == "there is no device 'a/b/c': commands are taken by plug, {x}/{y}"

    def test_a_device_without_commands_says_where(self) -> None:
        found = routes(device("s/{x}", None), device("t/{x}/{y}", "c/{x}/{y}"), serial={"port": "/dev/x"})
        assert (
            refusal(found, "a")
            == "device 'a' takes no commands: mqtt.hall.devices[0] has no commands; add them there"
        )
        found = routes(device("t/{x}/{y}", "c/{x}/{y}"), serial={"port": "/dev/x"})
        assert "serial.scale has no commands" in refusal(found, "scale")

    def test_one_whose_messages_a_narrower_entry_takes(self) -> None:
        found = routes(device("s/pump", None, name="pump"), device("s/{x}", "c/{x}"))
        assert "mqtt.hall.devices[0] has no commands" in refusal(found, "pump")
        assert topic_of(found, "fan") == "c/fan"

    def test_has_a_code_for_programs(self) -> None:
        found = routes(device("s/{x}", None), device("t/{x}/{y}", "c/{x}/{y}"))
        for name, code in (("a", "no_commands"), ("a/b/c", "unknown_device"), ("@gateway", "unknown_device")):
            with pytest.raises(RefusedNameError) as caught:
                found.route(name)
            assert caught.value.code == code

    def test_a_second_topic_of_a_device_takes_nothing_away(self) -> None:
        found = routes(device("state/{x}", None), device("s/{x}", "c/{x}"))
        assert topic_of(found, "pump") == "c/pump"

    @pytest.mark.parametrize("name", ["", "a\nb", "+", "#", "a+", "\0", "x" * 2000, "\ud800", "@gateway", "a/"])
    def test_what_could_lead_elsewhere(self, name: str) -> None:
        assert refusal(routes(device("s/{x}", "c/{x}")), name)
        assert refusal(routes(device("s/{x...}", "c/{x...}", name="d/{x}")), name)


class TestWhatCannotBeInverted:
    def test_is_told_with_its_place(self) -> None:
        told = mistake(device("s", None), device("t/{a}/{b}", "c/{a}/{b}", name="{a}-{b}"))
        assert told == (
            "mqtt.hall.devices[1].name: name '{a}-{b}': a command could not tell where {a} ends and {b} begins: "
            "put a slash between them, as {a}/{b}"
        )

    def test_two_names_that_can_be_the_same_over_brokers_and_ports(self) -> None:
        told = mistake(device("s/{x}", "c/{x}"), serial=port("T\n"))
        assert told.startswith(
            "serial.scale.commands: a device can have the name 'scale' here and '{x}' in mqtt.hall.devices[0]"
        )

    def test_a_stream_of_the_downlink_for_readings(self) -> None:
        told = mistake(device("s/{x}", "c/{x}", stream="commands/{gateway}"))
        assert told.startswith(
            "mqtt.hall.devices[0].stream: stream 'commands/{gateway}': can be 'commands/line-7'"
        )


class TestAnMqttPayload:
    @pytest.mark.parametrize(
        ("payload", "sent"),
        [("on", b"on"), ("", b""), ("é", "é".encode()), (None, b"null"), (1.5, b"1.5"), (True, b"true"),
         ([1, {"a": "b"}], b'[1,{"a":"b"}]')],
    )  # fmt: skip
    def test_a_text_goes_as_it_is_and_all_else_as_compact_json(self, payload: Any, sent: bytes) -> None:
        message = routes(device("s/{x}", "c/{x}")).route("a").message(payload)
        assert isinstance(message, MqttMessage)
        assert message.payload == sent

    @pytest.mark.parametrize("payload", ["\ud800", 2**70, {"a": "\ud800"}])
    def test_what_cannot_be_sent(self, payload: Any) -> None:
        with pytest.raises(RefusedPayloadError) as caught:
            routes(device("s/{x}", "c/{x}")).route("a").message(payload)
        assert caught.value.code == "bad_payload"


def written(write: Any, payload: Any) -> bytes:
    message = routes(serial=port(write)).route("scale").message(payload)
    assert isinstance(message, SerialMessage)
    return message.data


class TestASerialWrite:
    @pytest.mark.parametrize(
        ("write", "payload", "data"),
        [
            ("T\r\n", None, b"T\r\n"),
            ("T\r\n", {}, b"T\r\n"),
            ("{payload}\r\n", "SI", b"SI\r\n"),
            ("{payload}\r\n", 12, b"12\r\n"),
            ("SET {temp:.1f}\r\n", {"temp": 21.46}, b"SET 21.5\r\n"),
            ("SET {temp:.1f}\r\n", {"temp": 21}, b"SET 21.0\r\n"),
            ("{n:04d}{n}", {"n": 7.0}, b"00077.0"),
            ('{{"on": {on}}}\n', {"on": 1}, b'{"on": 1}\n'),
            ({"hex": "02 54 {value:04X} 03"}, {"value": 258}, b"\x02\x54\x01\x02\x03"),
            ({"hex": "{payload}"}, "0aFF", b"\x0a\xff"),
            ({"hex": "02 03"}, None, b"\x02\x03"),
        ],
    )
    def test_what_is_written(self, write: Any, payload: Any, data: bytes) -> None:
        assert written(write, payload) == data

    @pytest.mark.parametrize(
        ("write", "payload", "told"),
        [
            ("T\r\n", "x", "a payload would mean nothing: send null"),
            ("T\r\n", False, "a payload would mean nothing"),
            ("{payload}\r\n", "a\r\nRESET", "payload must be printable ASCII, and no control character"),
            ("{payload}\r\n", "é", "payload must be printable ASCII"),
            ("{payload}\r\n", None, "payload must be a text or a number"),
            ("{payload}\r\n", True, "payload must be a text or a number"),
            ("{payload}\r\n", {"payload": "a"}, "payload must be a text or a number"),
            ("{a}\n", "x", "the payload must be an object with a"),
            ("{a}\n", {"b": 1}, "the payload has no 'a'; it must have a"),
            ("{a}\n", {"a": 1, "b": 1}, "the payload has 'b', which is not used; there are a"),
            ("{a}\n", {"a": []}, "a must be a text or a number"),
            ("{a:.1f}\n", {"a": "1"}, "a must be a number, for the format {a:.1f}"),
            ("{a:.1f}\n", {"a": True}, "a must be a number, for the format {a:.1f}"),
            ("{a:d}\n", {"a": 1.5}, "a must be a whole number, for the format {a:d}"),
            ("{a}\n", {"a": float("inf")}, "a is not a finite number"),
            ("{a}\n", {"a": "x" * 5000}, "5001 characters would be written; at most 4096 bytes are"),
            ({"hex": "{a:02X}"}, {"a": 256}, "a is too large for the format {a:02X}"),
            ({"hex": "{a:02X}"}, {"a": -1}, "'-1' is no row of bytes in hex digits"),
            ({"hex": "{a}"}, {"a": 12}, "does not say how it becomes bytes, as {a:02X}"),
            ({"hex": "{a}"}, {"a": "xy"}, "'xy' is no row of bytes in hex digits"),
            ({"hex": "{a}"}, {"a": ""}, "nothing would be written"),
        ],
    )
    def test_what_is_refused(self, write: Any, payload: Any, told: str) -> None:
        with pytest.raises(RefusedPayloadError, match=re.escape(told)):
            written(write, payload)

    @given(st.text(max_size=8))
    def test_no_text_ends_a_line(self, text: str) -> None:
        try:
            data = written("SET {payload}\r\n", text)
        except RefusedPayloadError:
            assert not (text.isascii() and text.isprintable())
        else:
            assert data == b"SET " + text.encode() + b"\r\n"
            assert all(32 <= byte < 127 for byte in data[:-2])

    @pytest.mark.parametrize(
        ("write", "told"),
        [
            ("{a", "expected '}' before end of string; a placeholder is {name}, a plain brace {{ or }}"),
            ("a}", "Single '}' encountered in format string"),
            ("{}", "{} is no placeholder"),
            ("{a.b}", "{a.b} is no placeholder"),
            ("{a[0]}", "{a[0]} is no placeholder"),
            ("{a!r}", "{a!r} is no placeholder"),
            ("{a:c}", "{a:c} has no format of a number, as {a:.1f} or {a:02X}"),
            ("{a:s}", "{a:s} has no format of a number"),
            ("{a:{b}}", "{a:{b}} has no format of a number"),
            ("{a:65d}", "{a:65d} is wider than 64 characters: make it smaller"),
            ("{a:.65f}", "{a:.65f} is wider than 64 characters"),
            ("{a:.1d}", "{a:.1d}: Precision not allowed in integer format specifier"),
            ("{payload} {a}", "{payload} is the whole payload, and the others are members of it"),
            ("é", "only ASCII is written as text"),
            ({"hex": "0g"}, "'0g' has more in it than hex digits and blanks"),
            ({"hex": "012"}, "'012' is no row of bytes in hex digits; each byte has two digits"),
            ({"hex": "  "}, "nothing would be written"),
        ],
    )
    def test_a_wrong_template(self, write: Any, told: str) -> None:
        found = mistake(serial=port(write))
        assert found.startswith("serial.scale.commands.write: ")
        assert told in found
