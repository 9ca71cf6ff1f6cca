"""Typical mistakes and what an operator reads about them, literally."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ds_gateway.config.places import Machine
from harness.configuration import MINIMAL, load_text, mistakes_in

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """\
gateway: {id: line-7}
data_dir: /var/lib/example
server: {url: "http://127.0.0.1:4437"}
"""
"""Three lines: what follows begins on line 4."""

BROKER = "mqtt:\n  hall:\n    url: mqtt://127.0.0.1\n"
"""Three more lines."""

DEVICE = BROKER + "    devices:\n"
"""Four lines: devices begin on line 8."""

PORT = "serial: {scale: {port: /dev/ttyUSB0}}\n"
"""One line: what follows begins on line 5."""

MISTAKES: list[tuple[str, str, list[str]]] = [
    (
        "unknown key, near to one",
        HEAD + PORT + "jurnal: {max_bytes: 2GiB}\n",
        ["5: jurnal: unknown key; did you mean journal?"],
    ),
    (
        "unknown key, near to none",
        HEAD + PORT + "log: {colour: true}\n",
        ["5: log.colour: unknown key; there are format, level"],
    ),
    (
        "key of one other section",
        HEAD + PORT + "recover: auto\n",
        ["5: recover: unknown key; it belongs to exactly_once.recover"],
    ),
    (
        "key of several sections",
        HEAD + PORT + "max_bytes: 1GiB\n",
        [
            (
                "5: max_bytes: unknown key; it belongs to batch.max_bytes, journal.max_bytes, "
                "serial.NAME.framing.*.max_bytes or server.max_bytes"
            )
        ],
    ),
    (
        "key of an entry in a list",
        HEAD + BROKER + "    topic: a\n    devices: [{topic: a}]\n",
        ["7: mqtt.hall.topic: unknown key; it belongs to mqtt.NAME.devices[].topic"],
    ),
    (
        "key of another section, near to one",
        HEAD + PORT + "journal:\n  max_byte: 2GiB\n  listen: x\nlog: {listen: x}\n",
        [
            "6: journal.max_byte: unknown key; did you mean max_bytes?",
            "7: journal.listen: unknown key; it belongs to server.listen or status.listen",
            "8: log.listen: unknown key; it belongs to server.listen or status.listen",
        ],
    ),
    (
        "more kept for repair than the journal may have",
        HEAD + PORT + "journal:\n  max_bytes: 64MiB\n  retain_bytes: 65MiB\n",
        [
            (
                "7: journal.retain_bytes: is 65MiB, and the whole journal has journal.max_bytes: 64MiB: set it "
                "well below that, or raise journal.max_bytes"
            )
        ],
    ),
    (
        "hyphen for underscore",
        HEAD + PORT + "journal:\n  max-bytes: 2GiB\n",
        ["6: journal.max-bytes: unknown key; did you mean max_bytes?"],
    ),
    (
        "misspelt required key is told once",
        HEAD + "mqtt:\n  hall:\n    uri: mqtt://h\n    devices: [{topic: a}]\n",
        ["6: mqtt.hall.uri: unknown key; did you mean url?"],
    ),
    (
        "nothing but a comment",
        "# later\n",
        [
            "1: data_dir: must be set, because neither STATE_DIRECTORY nor HOME is",
            "1: server: is required: The stream server.",
            "1: no source: add a broker under mqtt or a port under serial",
        ],
    ),
    (
        "no source",
        HEAD + "mqtt:\n",
        ["1: no source: add a broker under mqtt or a port under serial"],
    ),
    (
        "missing url",
        HEAD + "mqtt:\n  hall:\n    devices: [{topic: a}]\n",
        ["5: mqtt.hall.url: is required: mqtt://host:1883 or mqtts://host:8883."],
    ),
    (
        "text where a number belongs",
        HEAD + "serial:\n  scale:\n    port: /dev/ttyUSB0\n    baudrate: 96oo\n",
        ["7: serial.scale.baudrate: must be a whole number, not '96oo'"],
    ),
    (
        "a quoted number",
        HEAD + 'serial: {scale: {port: /dev/ttyUSB0, baudrate: "9600"}}\n',
        ["4: serial.scale.baudrate: must be a whole number, not '9600'; write it without quotes"],
    ),
    (
        "number where text belongs",
        HEAD + "serial: {scale: {port: 3}}\n",
        ["4: serial.scale.port: must be text, not 3; put it in quotes"],
    ),
    (
        "YAML 1.1 boolean",
        'gateway: {id: line-7}\ndata_dir: /d\nserver:\n  url: "http://127.0.0.1:4437"\n  create: yes\n' + PORT,
        ["5: server.create: must be true or false, not 'yes'"],
    ),
    (
        "one of several words",
        HEAD + "serial:\n  scale:\n    port: /dev/ttyUSB0\n    parity: Evn\n",
        ["7: serial.scale.parity: must be none, even, odd, mark or space, not 'Evn'; did you mean even?"],
    ),
    (
        "out of range",
        HEAD + PORT + "batch: {parallel: 0, max_bytes: 10}\n",
        ["5: batch.max_bytes: must be at least 1024, not 10", "5: batch.parallel: must be at least 1, not 0"],
    ),
    (
        "wrong unit of a size",
        HEAD + PORT + "journal: {max_bytes: 2GX}\n",
        [
            (
                "5: journal.max_bytes: must be a number of bytes, or a number with kB, MB, GB, TB, KiB, "
                "MiB, GiB or "
                "TiB, not '2GX'"
            )
        ],
    ),
    (
        "wrong unit of a duration",
        HEAD + PORT + "batch: {max_delay_seconds: 5 apples}\n",
        [
            (
                "5: batch.max_delay_seconds: must be a number of seconds, or a number with ms, s, m, h or d, "
                "not '5 apples'"
            )
        ],
    ),
    (
        "half a second where whole ones count",
        HEAD + BROKER + "    keepalive_seconds: 2.5s\n    devices: [{topic: a}]\n",
        ["7: mqtt.hall.keepalive_seconds: must be a whole number of seconds, not '2.5s'"],
    ),
    (
        "stop bits",
        HEAD + "serial: {scale: {port: /dev/ttyUSB0, stopbits: 3}}\n",
        ["4: serial.scale.stopbits: must be 1, 1.5 or 2, not 3"],
    ),
    (
        "word where a mapping belongs",
        HEAD + "serial:\n  scale: /dev/ttyUSB0\n",
        ["5: serial.scale: must be a mapping, not '/dev/ttyUSB0'"],
    ),
    (
        "mapping where a list belongs",
        HEAD + BROKER + "    devices: {topic: a}\n",
        ["7: mqtt.hall.devices: must be a list, each entry behind a hyphen, not a mapping"],
    ),
    (
        "no devices",
        HEAD + BROKER + "    devices: []\n",
        ["7: mqtt.hall.devices: must have at least 1 entry"],
    ),
    (
        "source's name",
        HEAD + 'serial: {"hall 1": {port: /dev/ttyUSB0}}\n',
        [
            (
                "4: serial.hall 1: must be 1 to 64 letters, digits, dots, underscores and hyphens, the "
                "first a letter "
                "or digit, not 'hall 1'"
            )
        ],
    ),
    (
        "one name for two sources",
        HEAD + "mqtt: {hall: {url: 'mqtt://h', devices: [{topic: a}]}}\nserial: {hall: {port: /dev/ttyUSB0}}\n",
        ["5: serial.hall: mqtt.hall has this name already: give each source its own"],
    ),
    (
        "two sources on one port",
        HEAD + "serial:\n  a: {port: /dev/ttyUSB0}\n  b: {port: /dev/ttyUSB0}\n",
        ["6: serial.b.port: serial.a reads this port already: '/dev/ttyUSB0'"],
    ),
    (
        "two clients with one id",
        HEAD
        + "mqtt:\n"
        + "  a: {url: 'mqtt://h', devices: [{topic: a}]}\n"
        + "  b: {url: 'mqtt://h:1883', devices: [{topic: b}]}\n",
        [
            (
                "6: mqtt.b.client_id: mqtt.a is on the same broker with the same client id, and they "
                "would push each "
                "other off: give one of them another client_id, or put the devices of both under one"
            )
        ],
    ),
    (
        "qos 2",
        HEAD + BROKER + "    qos: 2\n    devices: [{topic: a}]\n",
        [
            (
                "7: mqtt.hall.qos: qos 2 would lose messages when the gateway is killed (the client confirms them "
                "before they are stored); use qos: 1, the broker delivers QoS 2 publications at QoS 1 then"
            )
        ],
    ),
    (
        "dedupe key without a slash",
        HEAD + BROKER + "    dedupe_key: id\n    devices: [{topic: a}]\n",
        [
            (
                "7: mqtt.hall.dedupe_key: must be a JSON pointer into the payload (/id is the member id), "
                "user_property:NAME or correlation_data, not 'id'"
            )
        ],
    ),
    (
        "dedupe key as a mapping",
        HEAD + BROKER + "    dedupe_key: {user_property: id}\n    devices: [{topic: a}]\n",
        ["7: mqtt.hall.dedupe_key: is one word without a blank: write user_property:id"],
    ),
    (
        "dedupe key of a property without a name",
        HEAD + BROKER + "    dedupe_key: 'user_property: id'\n    devices: [{topic: a}]\n",
        [
            (
                "7: mqtt.hall.dedupe_key: must be a JSON pointer into the payload (/id is the member id), "
                "user_property:NAME or correlation_data, not 'user_property: id'"
            )
        ],
    ),
    (
        "dedupe key with a tilde",
        HEAD + BROKER + "    dedupe_key: /a~b\n    devices: [{topic: a}]\n",
        [
            (
                "7: mqtt.hall.dedupe_key: must have a ~ only in ~0, which stands for ~, and in ~1, which stands "
                "for /, not '/a~b'"
            )
        ],
    ),
    *(
        (
            f"dedupe key without a name: {key}",
            HEAD + BROKER + f"    dedupe_key: {key}\n    devices: [{{topic: a}}]\n",
            [f"7: mqtt.hall.dedupe_key: must name a member behind each slash, not {key!r}; the member id is /id"],
        )
        for key in ("/", "/a/", "//a")
    ),
    (
        "dedupe key in payloads that are text",
        HEAD + BROKER + "    dedupe_key: /id\n    devices: [{topic: a, decode: text}]\n",
        [
            (
                "7: mqtt.hall.dedupe_key: is '/id', a JSON pointer, which finds nothing in payloads that are "
                "not JSON, and all devices of this broker have decode: text: take user_property:NAME or "
                "correlation_data, set decode: json if the payloads are JSON, or remove it"
            )
        ],
    ),
    (
        "dedupe key that needs MQTT 5",
        HEAD + BROKER + "    version: 3.1.1\n    dedupe_key: correlation_data\n    devices: [{topic: a}]\n",
        [
            (
                "5: mqtt.hall: MQTT 3.1.1 has no properties, and dedupe_key is correlation_data: set version: "
                '"5", or take a JSON pointer into the payload'
            )
        ],
    ),
    (
        "broker with http URL",
        HEAD + "mqtt: {hall: {url: 'http://h', devices: [{topic: a}]}}\n",
        [
            (
                "4: mqtt.hall.url: must be mqtt://host[:port] or mqtts://host[:port], not 'http://h'; user and "
                "password have their own keys"
            )
        ],
    ),
    (
        "password in the broker's URL is not repeated",
        HEAD + "mqtt: {hall: {url: 'mqtt://gw:hunter2@h', devices: [{topic: a}]}}\n",
        [
            (
                "4: mqtt.hall.url: must be mqtt://host[:port] or mqtts://host[:port], not "
                "'mqtt://***@h'; user and "
                "password have their own keys"
            )
        ],
    ),
    (
        "host that would kill the network thread",
        HEAD + "mqtt: {hall: {url: 'mqtt://bad..host', devices: [{topic: a}]}}\n",
        [
            (
                "4: mqtt.hall.url: must have a host name whose parts between dots have 1 to 63 characters, "
                "not 'mqtt://bad..host'"
            )
        ],
    ),
    (
        "certificates without TLS",
        HEAD + "mqtt: {hall: {url: 'mqtt://h', tls: {ca: /proc/version}, devices: [{topic: a}]}}\n",
        ["4: mqtt.hall: tls is for mqtts:// URLs"],
    ),
    (
        "certificate that is not there",
        HEAD + "mqtt:\n  hall:\n    url: mqtts://h\n    tls: {ca: /nowhere/ca.pem}\n    devices: [{topic: a}]\n",
        [
            (
                "7: mqtt.hall.tls.ca: /nowhere/ca.pem cannot be read: No such file or directory; put it there, or "
                "correct the path"
            )
        ],
    ),
    (
        "half a client certificate",
        HEAD + "mqtt: {hall: {url: 'mqtts://h', tls: {cert: /proc/version}, devices: [{topic: a}]}}\n",
        ["4: mqtt.hall.tls: cert and key belong together: give both or neither"],
    ),
    (
        "capture that nobody captures",
        HEAD + DEVICE + '      - topic: "a/{sensor}"\n        stream: telemetry/{senser}\n',
        [
            (
                "9: mqtt.hall.devices[0].stream: stream 'telemetry/{senser}': {senser} is unknown; "
                "did you mean {sensor}?"
            )
        ],
    ),
    (
        "wildcard in the middle",
        HEAD + DEVICE + '      - topic: "a/#/b"\n',
        [
            (
                "8: mqtt.hall.devices[0].topic: topic 'a/#/b': # takes the rest of a topic, so it can only be the "
                "last level"
            )
        ],
    ),
    (
        "shared subscription",
        HEAD + DEVICE + '      - topic: "$share/group/a"\n',
        [
            (
                "8: mqtt.hall.devices[0].topic: topic '$share/group/a': shared subscriptions lose messages with a "
                "persistent session: they stay parked for a member that is away; subscribe to the topic itself"
            )
        ],
    ),
    (
        "stream that leads elsewhere",
        HEAD + DEVICE + '      - {topic: a, stream: "../other"}\n',
        [
            (
                "8: mqtt.hall.devices[0].stream: must have no empty part, no '.' and no '..' between slashes, "
                "not '../other'"
            )
        ],
    ),
    (
        "page for everybody without a token",
        HEAD + PORT + 'status: {listen: "0.0.0.0:8437"}\n',
        ["5: status: a page that listens on 0.0.0.0:8437 can be read by others: set status.token"],
    ),
    (
        "two mistakes in the file's order",
        HEAD
        + "log: {level: loud}\n"
        + "serial:\n  scale: {port: /dev/ttyUSB0, bytesize: 9}\nbatch: {paralel: 1}\n",
        [
            "4: log.level: must be debug, info, warning or error, not 'loud'",
            "6: serial.scale.bytesize: must be 5, 6, 7 or 8, not 9",
            "7: batch.paralel: unknown key; did you mean parallel?",
        ],
    ),
]


@pytest.mark.parametrize(
    ("text", "expected"), [pytest.param(text, told, id=name) for name, text, told in MISTAKES]
)
def test_a_mistake_is_told_with_line_key_value_and_way_out(text: str, expected: list[str], tmp_path: Path) -> None:
    assert mistakes_in(tmp_path, text) == expected


UNSUPPORTED = [
    ("metrics: {listen: x}\n" + PORT, "4: metrics: not supported in this version"),
    (
        PORT + "batch: {compression: gzip}\n",
        "5: batch.compression: gzip is not supported in this version: use none",
    ),
    (
        DEVICE + "      - {topic: a, commands: {topic: b, qos: 2}}\n",
        (
            "8: mqtt.hall.devices[0].commands.qos: not supported in this version: commands are published at "
            "QoS 1: remove it"
        ),
    ),
    (
        DEVICE + "      - {topic: a, commands: {topic: b, retain: true}}\n",
        (
            "8: mqtt.hall.devices[0].commands.retain: not supported in this version: a broker would hand a kept "
            "command to every device that connects later: remove it"
        ),
    ),
]


@pytest.mark.parametrize(("text", "expected"), UNSUPPORTED)
def test_what_is_documented_and_not_built_yet_is_told_as_such(text: str, expected: str, tmp_path: Path) -> None:
    assert mistakes_in(tmp_path, HEAD + text) == [expected]


class TestTheEmbeddedServer:
    """Its keys and those of a server elsewhere exclude one another."""

    @staticmethod
    def mistakes(tmp_path: Path, server: str) -> list[str]:
        text = f"gateway: {{id: a}}\ndata_dir: /d\nserver:\n  {server}\n{PORT}"
        return mistakes_in(tmp_path, text)

    @pytest.mark.parametrize(
        "more",
        [
            "create: true",
            "token: x",
            "listen: 127.0.0.1:1",
            "listen: 127.9.9.9:4437",
            "listen: localhost:4437",
            'listen: "[::1]:4437"',
            "listen: 0.0.0.0:4437\n  token: x",
            'listen: "[::]:4437"\n  token: x',
            "max_bytes: 1GiB\n  retain_bytes: 64MiB\n  retain_age: 30d",
        ],
    )
    def test_what_goes_with_it(self, tmp_path: Path, more: str) -> None:
        assert self.mistakes(tmp_path, f"url: embedded\n  {more}") == []

    @pytest.mark.parametrize(
        ("key", "value", "told"),
        [
            (
                "proxy",
                "http://proxy:3128",
                (
                    "has no use with server.url: embedded: nothing is between the gateway and a server in its "
                    "own process: remove it"
                ),
            ),
            (
                "tls",
                "{}",
                (
                    "has no use with server.url: embedded: it speaks http:// only; put a reverse proxy with the "
                    "certificates before server.listen: remove it"
                ),
            ),
            (
                "headers",
                "{X-Site: a}",
                (
                    "has no use with server.url: embedded: nothing is between the gateway and a server in its "
                    "own process; a bearer token is server.token: remove it"
                ),
            ),
            *(
                (
                    "listen",
                    f"'{listen}'",
                    (
                        "must be an IP address of this machine (IPv6 in brackets) or localhost, : and a port, as "
                        f"127.0.0.1:4437 for this machine alone or 0.0.0.0:4437 for all, not '{listen}'"
                    ),
                )
                for listen in (
                    "127.0.0.1",
                    "[1:2:3]:4437",
                    "[127.0.0.1]:4437",
                    "300.1.1.1:4437",
                    "127.1:4437",
                    "[.]:4437",
                    "gateway.local:4437",
                    "localhost",
                )
            ),
            ("listen", "127.0.0.1:0", "must have a port from 1 to 65535, not '127.0.0.1:0'"),
            ("max_bytes", "1", "must be at least 1048576, not 1"),
            (
                "create",
                "false",
                (
                    "nobody else creates the streams of a server in this process, and false would keep every "
                    "record in the journal: remove it, or set server.url to another server than embedded"
                ),
            ),
            ("retain_age", "30s", "must be at least 60, not '30s'"),
            ("retain_bytes", "1KiB", "must be at least 1048576, not '1KiB'"),
        ],
    )
    def test_what_does_not(self, tmp_path: Path, key: str, value: str, told: str) -> None:
        assert self.mistakes(tmp_path, f"url: embedded\n  {key}: {value}") == [f"5: server.{key}: {told}"]

    @pytest.mark.parametrize("retain_bytes", ["64MiB", "65MiB"])
    def test_a_store_that_is_full_before_anything_is_dropped(self, tmp_path: Path, retain_bytes: str) -> None:
        more = f"max_bytes: 64MiB\n  retain_bytes: {retain_bytes}"
        assert self.mistakes(tmp_path, f"url: embedded\n  {more}") == [
            (
                f"6: server.retain_bytes: is {retain_bytes} of each stream, and the store is full with "
                "server.max_bytes: 64MiB, before anything is dropped: set it well below that, at most to that "
                "divided by the number of streams"
            )
        ]

    @pytest.mark.parametrize("listen", ["0.0.0.0:4437", "[::]:4437", "192.0.2.1:4437", "[2001:db8::1]:4437"])
    def test_others_than_this_machine_need_a_token(self, tmp_path: Path, listen: str) -> None:
        [told] = self.mistakes(tmp_path, f"url: embedded\n  listen: '{listen}'")
        assert told == (
            f"5: server.listen: others than this machine could read and write the streams on '{listen}': set "
            "server.token, which every reader needs then, or listen on 127.0.0.1"
        )

    @pytest.mark.parametrize(
        "key", ["listen: 127.0.0.1:4437", "max_bytes: 1GiB", "retain_bytes: 1GiB", "retain_age: 1d"]
    )
    def test_its_keys_are_refused_with_a_server_elsewhere(self, tmp_path: Path, key: str) -> None:
        name = key.partition(":")[0]
        [told] = self.mistakes(tmp_path, f"url: http://h\n  {key}")
        assert told == (
            f"5: server.{name}: is for server.url: embedded, and the server is elsewhere: remove it, or set "
            "server.url to embedded"
        )

    @pytest.mark.parametrize(
        ("listen", "url"),
        [
            ("127.0.0.1:4437", "http://127.0.0.1:4437/v1/stream"),
            ("0.0.0.0:80", "http://127.0.0.1:80/v1/stream"),
            ("[::]:80", "http://[::1]:80/v1/stream"),
            ("localhost:80", "http://localhost:80/v1/stream"),
        ],
    )
    def test_where_people_find_its_streams(self, tmp_path: Path, listen: str, url: str) -> None:
        server = f"server: {{url: embedded, token: x, listen: '{listen}'}}\n"
        text = f"gateway: {{id: a}}\ndata_dir: /d\n{server}{PORT}"
        assert load_text(tmp_path, text).settings.server.base_url == url


@pytest.mark.parametrize("later", ["a/{x}", "a/{y}", "a/+"])
def test_two_devices_with_one_topic_are_refused(later: str, tmp_path: Path) -> None:
    text = HEAD + DEVICE + f'      - topic: "a/{{x}}"\n      - topic: "{later}"\n'
    [told] = mistakes_in(tmp_path, text)
    assert told.startswith(f"9: mqtt.hall.devices[1].topic: topic '{later}': never reached")


def test_sound_parts_are_checked_while_others_are_wrong(tmp_path: Path) -> None:
    text = HEAD + DEVICE + '      - {topic: "a/#/b"}\n      - {topic: c, decode: xml}\nlog: {level: loud}\n'
    told = mistakes_in(tmp_path, text)
    assert [line.split(": ")[1] for line in told] == [
        "mqtt.hall.devices[0].topic",
        "mqtt.hall.devices[1].decode",
        "log.level",
    ]


class TestTheGatewaysName:
    WITHOUT = MINIMAL.replace("gateway: {id: line-7}\n", "")

    def test_is_the_host_name_by_default(self, tmp_path: Path) -> None:
        assert load_text(tmp_path, self.WITHOUT).settings.gateway.id == "box-1"

    @pytest.mark.parametrize(
        "name", ["raspberrypi", "RaspberryPi", "debian", "localhost.localdomain", "ubuntu", ""]
    )
    def test_is_asked_for_where_many_machines_have_that_name(self, name: str, tmp_path: Path) -> None:
        assert mistakes_in(tmp_path, self.WITHOUT, machine=Machine(name, is_root=False)) == [
            (
                f"1: gateway.id: must be set, because the host name {name!r} is that of many machines: give this "
                "gateway a name of its own, as gateway: {id: line-7}"
            )
        ]

    def test_may_be_given_whatever_the_machine_is_called(self, tmp_path: Path) -> None:
        loaded = load_text(tmp_path, MINIMAL, machine=Machine("raspberrypi", is_root=False))
        assert loaded.settings.gateway.id == "line-7"

    def test_is_a_plain_word(self, tmp_path: Path) -> None:
        assert mistakes_in(tmp_path, MINIMAL.replace("line-7", "line/7")) == [
            (
                "1: gateway.id: must be 1 to 64 letters, digits, dots, underscores and hyphens, the "
                "first a letter or "
                "digit, not 'line/7'"
            )
        ]


def test_a_terminal_takes_nothing_in_a_message_for_a_command(tmp_path: Path) -> None:
    for told in mistakes_in(tmp_path, HEAD + PORT + '"\\e[31m": 1\nlog: {level: "\\e[2J"}\n'):
        assert told.isprintable()
