"""Mistakes in the settings of commands and what an operator reads about them, literally."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ds_gateway.mapping import CommandRoutes
from harness.configuration import load_text, mistakes_in

HEAD = """\
gateway: {id: line-7}
data_dir: /var/lib/example
server: {url: "http://127.0.0.1:4437"}
"""
"""Three lines: what follows begins on line 4."""

BROKER = "mqtt:\n  hall:\n    url: mqtt://127.0.0.1\n    devices:\n"
"""Four more lines: devices begin on line 8."""
ENTRY = BROKER + "      - topic: s/{hall}/{sensor}/t\n        commands: "
"""Two more: commands are on line 9."""
PORT = "serial:\n  scale:\n    port: /dev/ttyUSB0\n    commands: "
"""Four lines: commands are on line 7."""

MISTAKES: list[tuple[str, str]] = [
    (
        ENTRY + "{}\n",
        (
            "9: mqtt.hall.devices[0].commands.topic: is required: Topic to publish to, with the captures of "
            "the entry's topic."
        ),
    ),
    (
        ENTRY + "{topik: a}\n",
        "9: mqtt.hall.devices[0].commands.topik: unknown key; did you mean topic?",
    ),
    (
        ENTRY + '{topic: "c/{room}"}\n',
        (
            "9: mqtt.hall.devices[0].commands.topic: 'c/{room}': {room} is no capture of the topic; there "
            "are {hall}, {sensor}"
        ),
    ),
    (
        ENTRY + '{topic: "c/+/set"}\n',
        (
            "9: mqtt.hall.devices[0].commands.topic: 'c/+/set': + and # are no levels of one topic: name "
            "that level in the entry's topic, as {name}, and write the same here"
        ),
    ),
    (
        ENTRY + '{topic: "c/{hall"}\n',
        "9: mqtt.hall.devices[0].commands.topic: 'c/{hall': a brace is open; a placeholder is {name}",
    ),
    (
        ENTRY + '{topic: "c/{sensor}"}\n        name: "{hall}"\n',
        (
            "9: mqtt.hall.devices[0].commands.topic: 'c/{sensor}': {sensor} is not in the name of the "
            "device, so no command could tell what it is: put {sensor} into name"
        ),
    ),
    (
        ENTRY + '{topic: "c", reply: {topic: "r/{sensor}"}}\n        name: "{hall}"\n',
        (
            "9: mqtt.hall.devices[0].commands.reply.topic: 'r/{sensor}': {sensor} is not in the name of the "
            "device, so no command could tell what it is: put {sensor} into name"
        ),
    ),
    (
        ENTRY + '{topic: "c"}\n        name: "{hall}"\n',
        "",
    ),
    (
        ENTRY + '{topic: "c"}\n        name: "{hall}-{sensor}"\n',
        (
            "10: mqtt.hall.devices[0].name: name '{hall}-{sensor}': a command could not tell where {hall} "
            "ends and {sensor} begins: put a slash between them, as {hall}/{sensor}"
        ),
    ),
    (
        ENTRY + '{topic: "c"}\n        name: "@gateway"\n',
        (
            "10: mqtt.hall.devices[0].name: name '@gateway' is the gateway itself to whoever sends commands: "
            "give the device another name"
        ),
    ),
    (
        BROKER + '      - topic: "s/{a}/{rest...}"\n        commands: {topic: "c/{a}"}\n',
        (
            "8: mqtt.hall.devices[0].name: must be set with commands, because {rest...} takes several "
            'levels: write name: "{a}/{rest}", if that is what the devices are called'
        ),
    ),
    (
        BROKER
        + '      - topic: "s/{a}/{rest...}"\n        name: "{rest}/{a}"\n        commands: {topic: "c/{a}"}\n',
        (
            "9: mqtt.hall.devices[0].name: name '{rest}/{a}': {rest} takes several levels, so a command "
            "cannot be led back to its topic: put {rest} last"
        ),
    ),
    (
        BROKER + '      - topic: "s/+/t"\n        commands: {topic: "c"}\n',
        (
            "8: mqtt.hall.devices[0].name: must be set with commands, because the topic 's/+/t' has "
            "wildcards without a name: write {name} in place of + in the topic, or give all its messages one "
            "device with name"
        ),
    ),
    (
        ENTRY + "{topic: c, delivery: exactly_once}\n",
        (
            "9: mqtt.hall.devices[0].commands.delivery: must be at_least_once or at_most_once, not "
            "'exactly_once'; did you mean at_least_once?"
        ),
    ),
    (
        ENTRY + "{topic: c, expires_after: 2d}\n",
        "9: mqtt.hall.devices[0].commands.expires_after: must be at most 86400, not '2d'",
    ),
    (
        ENTRY + "{topic: c, expires_after: 0}\n",
        "9: mqtt.hall.devices[0].commands.expires_after: must be at least 0.1, not 0",
    ),
    (
        ENTRY + "{topic: c, reply: yes}\n",
        (
            "9: mqtt.hall.devices[0].commands.reply: must be response_topic or a mapping, as {topic: "
            "stat/{sensor}/RESULT}, not 'yes'"
        ),
    ),
    (
        ENTRY + "{topic: c, reply: {pattern: '('}}\n",
        (
            "9: mqtt.hall.devices[0].commands.reply.pattern: must be a regular expression (missing ), "
            "unterminated subpattern at position 0), not '('"
        ),
    ),
    (
        ENTRY + "{topic: c, reply: {id: id}}\n",
        (
            "9: mqtt.hall.devices[0].commands.reply.id: must be a JSON pointer into the answer, as /id for "
            "its member id, not 'id'"
        ),
    ),
    (
        ENTRY + "{topic: c, delivery: at_most_once, reply: {retries: 2}}\n",
        (
            "9: mqtt.hall.devices[0].commands.reply.retries: is 2, and with delivery: at_most_once nothing "
            "is sent twice: remove it, or take delivery: at_least_once"
        ),
    ),
    (
        ENTRY + '{topic: c, reply: {topic: "s/{sensor}/r/t"}}\n',
        "",
    ),
    (
        ENTRY + '{topic: c, reply: {topic: "{sensor}/a/b/t"}}\n',
        (
            "9: mqtt.hall.devices[0].commands.reply.topic: the answers come on '+/a/b/t', which overlaps "
            "with 's/+/+/t', and a broker may deliver a message for both of them twice: make them disjoint, "
            "or make one of them contain the other"
        ),
    ),
    (
        ENTRY + '{topic: c, reply: response_topic}\n    version: "3.1.1"\n',
        (
            "9: mqtt.hall.devices[0].commands.reply: MQTT 3.1.1 has no response topic: give the topic that "
            'the device answers on, as reply: {topic: stat/NAME/RESULT}, or set mqtt.hall.version: "5"'
        ),
    ),
    (
        ENTRY + '{topic: c, reply: {pattern: OK}}\n    version: "3.1.1"\n',
        (
            "9: mqtt.hall.devices[0].commands.reply: MQTT 3.1.1 has no response topic: give the topic that "
            'the device answers on, as reply: {topic: stat/NAME/RESULT}, or set mqtt.hall.version: "5"'
        ),
    ),
    (
        BROKER + "      - topic: s/{x}\n        max_rate: 2\n",
        (
            "9: mqtt.hall.devices[0].max_rate: is the most commands a second, and there are no commands "
            "here: remove it"
        ),
    ),
    (
        ENTRY + "{topic: c}\n        max_rate: 0\n",
        "10: mqtt.hall.devices[0].max_rate: must be at least 0.001, not 0",
    ),
    (
        ENTRY + "{topic: c}\n      - topic: t/{x}/{y}\n        commands: {topic: d}\n",
        (
            "10: mqtt.hall.devices[1].name: a device can have the name '{x}/{y}' here and '{hall}/{sensor}' "
            "in mqtt.hall.devices[0], and a command could not tell which: give one of them another "
            "name, as with a first part of its own"
        ),
    ),
    (
        PORT + "{}\n",
        "7: serial.scale.commands.write: is required: What is written: text, or a mapping with hex.",
    ),
    (
        PORT + "{write: 5}\n",
        "7: serial.scale.commands.write: must be text, or a mapping with hex, not 5",
    ),
    (
        PORT + "{write: {}}\n",
        '7: serial.scale.commands.write: is one text, as "T\\r\\n", or one mapping {hex: "02 54 03"}',
    ),
    (
        PORT + "{write: 'T\\r\\n'}\n",
        (
            '7: serial.scale.commands.write.text: has a backslash in it, not a line end: write "T\\r\\n" in '
            "double quotes"
        ),
    ),
    (
        PORT + '{write: "{a"}\n',
        (
            "7: serial.scale.commands.write: '{a': expected '}' before end of string; a placeholder is "
            "{name}, a plain brace {{ or }}"
        ),
    ),
    (
        PORT + '{write: "T", reply: {error: E}}\n',
        (
            "7: serial.scale.commands.reply.pattern: is required: Regular expression found in the frame that "
            "is the answer."
        ),
    ),
    (
        PORT + '{write: "T", turnaround_seconds: 2h}\n',
        "7: serial.scale.commands.turnaround_seconds: must be at most 60, not '2h'",
    ),
    (
        PORT + '{write: "T"}\n    name: "@gateway"\n',
        (
            "8: serial.scale.name: name '@gateway' is the gateway itself to whoever sends commands: give the "
            "device another name"
        ),
    ),
    (
        PORT + '{write: "T"}\ndownlink: {stream: commands}\n',
        (
            "8: downlink.stream: stream 'commands': has no {gateway}, and several gateways would share it: "
            "put {gateway} into it"
        ),
    ),
    (
        PORT + '{write: "T"}\ndownlink: {stream: "a/{gatway}/{gateway}"}\n',
        "8: downlink.stream: stream 'a/{gatway}/{gateway}': {gatway} is unknown; did you mean {gateway}?",
    ),
    (
        PORT + '{write: "T"}\ndownlink: {receipts: "r//{gateway}"}\n',
        ("8: downlink.receipts: must have no empty part, no '.' and no '..' between slashes, not 'r//{gateway}'"),
    ),
    (
        PORT + '{write: "T"}\ndownlink: {receipts: "r/+/{gateway}"}\n',
        "8: downlink.receipts: stream name 'r/+/x': + and # are refused",
    ),
    (
        'downlink: {receipts: "commands/{gateway}"}\n' + PORT + '{write: "T"}\n',
        (
            "4: downlink.receipts: receipts 'commands/{gateway}': is the stream of the commands, too, and "
            "each receipt would be taken for a command: give one of them another name"
        ),
    ),
    (
        'downlink: {receipts: "gateway/{gateway}"}\n' + PORT + '{write: "T"}\n',
        (
            "4: downlink.receipts: receipts 'gateway/{gateway}': this is the stream of the gateway's losses: "
            "give it another name"
        ),
    ),
    (
        PORT + '{write: "T"}\n    stream: "receipts/line-7"\n',
        (
            "8: serial.scale.stream: stream 'receipts/line-7': can be 'receipts/line-7', the stream of "
            "downlink.receipts: give this device another stream"
        ),
    ),
    (
        'downlink: {stream: "x/{gateway}/c"}\n' + ENTRY + '{topic: c}\n        stream: "x/{gateway}/{hall}"\n',
        (
            "11: mqtt.hall.devices[0].stream: stream 'x/{gateway}/{hall}': can be 'x/line-7/c', the stream "
            "of downlink.stream: give this device another stream"
        ),
    ),
    (
        "downlink: {gateway_commands: [stop]}\n" + PORT + '{write: "T"}\n',
        "4: downlink.gateway_commands[0]: must be status, reload or resolve, not 'stop'",
    ),
    (
        "downlink: {start: head}\n" + PORT + '{write: "T"}\n',
        "4: downlink.start: must be tail or beginning, not 'head'",
    ),
]


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_a_mistake_is_told_with_line_key_value_and_way_out(text: str, expected: str, tmp_path: Path) -> None:
    assert mistakes_in(tmp_path, HEAD + text) == [expected] * bool(expected)


class TestTheGatewaysName:
    TEXT = "data_dir: /d\nserver: {url: http://h}\n"

    @pytest.mark.parametrize(
        ("more", "where"),
        [
            (ENTRY + "{topic: c}\n", "mqtt.hall.devices[0].commands"),
            (PORT + '{write: "T"}\n', "serial.scale.commands"),
            (
                "serial: {scale: {port: /dev/x}}\ndownlink: {gateway_commands: [status]}\n",
                "downlink.gateway_commands",
            ),
        ],
    )
    def test_must_be_in_the_file_with_commands(self, more: str, where: str, tmp_path: Path) -> None:
        told = (
            f"1: gateway.id: must be set, because {where} is: commands are sent to this name, and a host name may "
            "change; give this gateway a name of its own, as gateway: {id: line-7}"
        )
        assert mistakes_in(tmp_path, self.TEXT + more) == [told]

    def test_or_in_the_environment(self, tmp_path: Path) -> None:
        environ = {"DS_GATEWAY__GATEWAY__ID": "line-7"}
        assert mistakes_in(tmp_path, self.TEXT + ENTRY + "{topic: c}\n", environ) == []

    def test_is_the_host_name_without_commands(self, tmp_path: Path) -> None:
        assert (
            mistakes_in(tmp_path, self.TEXT + "serial: {scale: {port: /dev/x}}\ndownlink: {start: tail}\n") == []
        )


def test_what_is_right(tmp_path: Path) -> None:
    text = ENTRY + '{topic: "c/{hall}", reply: response_topic}\n' + PORT + "{write: {hex: '02'}}\n"
    settings = load_text(tmp_path, HEAD + text).settings
    commands = settings.mqtt["hall"].devices[0].commands
    assert commands is not None
    assert commands.reply is not None
    assert settings.downlink.command_stream("line-7") == "commands/line-7"
    assert settings.downlink.receipt_stream("line-7") == "receipts/line-7"


def test_a_stream_named_after_a_capture_is_refused_when_it_comes(tmp_path: Path) -> None:
    """``{hall}/line-7`` can be ``commands/line-7`` only if a hall is called so, and then it is refused."""
    text = ENTRY + '{topic: c}\n        stream: "{hall}/{gateway}"\n'
    assert mistakes_in(tmp_path, HEAD + text) == []


def test_a_stream_as_the_downlinks_does_no_harm_without_commands(tmp_path: Path) -> None:
    assert mistakes_in(tmp_path, HEAD + "serial: {scale: {port: /dev/x, stream: receipts/line-7}}\n") == []


TEXTS = st.lists(
    st.sampled_from(
        [
            "{a}",
            "{b}",
            "{r}",
            "{r...}",
            "{payload}",
            "{a:02X}",
            "/",
            "-",
            "x",
            "+",
            "#",
            "{",
            "é",
            "\\r",
            "02",
            "\n",
        ]
    ),
    max_size=5,
).map("".join)
ODD = st.none() | st.booleans() | st.integers(-1, 9) | st.floats() | TEXTS | st.lists(TEXTS, max_size=2)
REPLIES = st.fixed_dictionaries(
    {},
    optional={
        "topic": TEXTS,
        "id": TEXTS,
        "pattern": TEXTS | st.text(st.sampled_from("()[*+?{1,}\\^"), max_size=6),
        "error": TEXTS,
        "timeout_seconds": st.floats() | st.just("2s"),
        "retries": st.integers(-1, 3),
        "other": ODD,
    },
)
COMMANDS = st.fixed_dictionaries(
    {},
    optional={
        "topic": TEXTS,
        "write": TEXTS | st.fixed_dictionaries({}, optional={"text": TEXTS, "hex": TEXTS}) | ODD,
        "delivery": st.sampled_from(["at_most_once", "at_least_once"]) | ODD,
        "expires_after": st.floats() | st.just("5s"),
        "turnaround_seconds": st.floats() | st.just("50ms"),
        "reply": st.just("response_topic") | REPLIES | ODD,
    },
)
SOUND = st.fixed_dictionaries({"topic": st.sampled_from(["c", "c/{a}", "c/{a}/{b}", "{r...}/c"])})
DEVICES = st.lists(
    st.fixed_dictionaries(
        {"topic": st.sampled_from(["s/{a}", "t/{a}/{b}", "u/{a}/{r...}", "+/v/{b}", "w/#", "x/y"]) | TEXTS},
        optional={"name": TEXTS, "stream": TEXTS, "max_rate": ODD, "commands": SOUND | COMMANDS | ODD},
    ),
    max_size=3,
)
PORTS = st.fixed_dictionaries(
    {"port": st.just("/dev/x")},
    optional={"name": TEXTS, "stream": TEXTS, "commands": st.just({"write": "T"}) | COMMANDS | ODD},
)
DOWNLINKS = st.fixed_dictionaries(
    {},
    optional={
        "stream": TEXTS | st.just("telemetry/{gateway}"),
        "receipts": TEXTS,
        "start": ODD,
        "gateway_commands": st.just(["status"]) | ODD,
    },
)


# Most are right by themselves, and some are not together.
PLAUSIBLE_ENTRY = st.fixed_dictionaries(
    {"topic": st.sampled_from(["s/{a}", "t/{a}/{b}", "u/{a}/{r...}", "v/+/{a}", "w/#", "x/y"])},
    optional={
        "name": st.sampled_from(["{a}", "{a}/{b}", "{b}/x-{a}", "{a}-{b}", "{a}/{r}", "{r}/{a}", "{r}", "pump"]),
        "stream": st.sampled_from(["x/{gateway}", "commands/{gateway}", "{a}/{gateway}", "x/{a}"]),
        "commands": st.fixed_dictionaries(
            {"topic": st.sampled_from(["c", "c/{a}", "c/{b}/{a}", "c/{r...}", "c/+"])},
            optional={
                "reply": st.sampled_from(
                    ["response_topic", {"topic": "r/{a}"}, {"topic": "s/{b}/r"}, {"id": "/x"}]
                )
            },
        ),
    },
)
PLAUSIBLE_PORT = st.fixed_dictionaries(
    {"port": st.just("/dev/x")},
    optional={
        "name": st.sampled_from(["pump", "{a}", "a/b"]),
        "commands": st.fixed_dictionaries(
            {"write": st.sampled_from(["T", "{a}", "{payload:d}", {"hex": "02"}, "{"])}
        ),
    },
)


class TestWhateverIsWritten:
    """What `check` accepts, the gateway can run; and no text makes anything but mistakes that can be told."""

    @staticmethod
    def check_and_build(**values: object) -> CommandRoutes | None:
        values["mqtt"] = {"hall": {"url": "mqtt://h", "devices": values.pop("devices")}}
        with tempfile.TemporaryDirectory() as folder:
            text = HEAD + yaml.safe_dump(values, allow_unicode=True)
            mistakes = mistakes_in(Path(folder), text)
            assert all(told.isprintable() for told in mistakes)
            return None if mistakes else CommandRoutes(load_text(Path(folder), text).settings)

    @given(devices=DEVICES, port=PORTS, downlink=DOWNLINKS)
    def test_odd_values(self, devices: list[object], port: object, downlink: object) -> None:
        self.check_and_build(devices=devices, serial={"scale": port}, downlink=downlink)

    @given(devices=st.lists(PLAUSIBLE_ENTRY, min_size=1, max_size=3), port=PLAUSIBLE_PORT)
    def test_plausible_values(self, devices: list[dict[str, object]], port: dict[str, object]) -> None:
        routes = self.check_and_build(devices=devices, serial={"scale": port})
        if routes is not None:
            assert bool(routes) == any("commands" in each for each in (*devices, port))
