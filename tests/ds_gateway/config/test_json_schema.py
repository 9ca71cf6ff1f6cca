"""The JSON Schema of the configuration: it accepts what the loader accepts, and refuses what is plainly wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_gateway.config import document, json_schema
from ds_gateway.config.document import Node, Place
from harness.command import Command
from harness.configuration import MINIMAL, mistakes_in

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "config").glob("*.yaml"))
SCHEMA = json_schema.document()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

HEAD = "gateway: {id: line-7}\ndata_dir: /d\nserver: {url: 'http://127.0.0.1:4437'}\n"
PORT = "serial: {scale: {port: /dev/ttyUSB0}}\n"


def values(text: str) -> Any:
    """A text as an editor's YAML 1.2 parser sees it."""

    def plain(node: Node) -> Any:
        if isinstance(node.value, dict):
            return {key: plain(each) for key, each in node.entries.items()}
        if isinstance(node.value, list):
            return [plain(each) for each in node.items]
        return node.value

    return plain(document.parse(text, Place("text")))


def refused(text: str) -> list[str]:
    """Where the schema refuses a text, as dotted keys."""
    return sorted({document.dotted(tuple(error.absolute_path)) for error in VALIDATOR.iter_errors(values(text))})


class TestTheSchema:
    def test_is_a_schema_of_its_dialect(self) -> None:
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        assert SCHEMA["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]

    def test_the_committed_file_is_up_to_date(self) -> None:
        assert (ROOT / json_schema.FILE).read_text(encoding="utf-8") == json_schema.text(), (
            f"run: python -m ds_gateway.config.json_schema > {json_schema.FILE}"
        )

    def test_has_a_description_for_every_key(self) -> None:
        models = [SCHEMA, *SCHEMA["$defs"].values()]
        keys = [(key, field) for model in models for key, field in model.get("properties", {}).items()]
        assert len(keys) > 80
        told = [field | SCHEMA["$defs"].get(field.get("$ref", "").rpartition("/")[2], {}) for _, field in keys]
        assert [field for field in told if not field.get("description")] == []

    def test_knows_no_key_that_the_loader_does_not_know(self, tmp_path: Path) -> None:
        assert mistakes_in(tmp_path, MINIMAL + "include:\n") == []
        assert set(SCHEMA["properties"]) == {"include", *values(MINIMAL)} | {
            *("serial", "batch", "journal", "downlink", "exactly_once", "status", "health", "log", "limits")
        }

    def test_what_is_narrower_by_hand_belongs_to_keys_that_there_are(self) -> None:
        for model, key in json_schema.NARROWER:
            assert key in model.model_fields

    def test_forbids_other_keys_everywhere(self) -> None:
        models = [
            SCHEMA,
            *(each for model in SCHEMA["$defs"].values() for each in (model, *model.get("anyOf", ()))),
        ]
        objects = [model for model in models if "properties" in model]
        assert len(objects) > 20
        assert [model for model in objects if model.get("additionalProperties") is not False] == []

    def test_names_no_default_that_is_empty(self) -> None:
        assert '"default": null' not in json.dumps(SCHEMA)


class TestTheExamples:
    @pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
    def test_are_valid(self, file: Path) -> None:
        assert refused(file.read_text(encoding="utf-8")) == []

    @pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
    def test_name_the_schema_for_editors(self, file: Path) -> None:
        first = file.read_text(encoding="utf-8").splitlines()[0]
        assert first == f"# yaml-language-server: $schema={Path(json_schema.FILE).name}"


REFUSED = [
    ("unknown key", HEAD + PORT + "jurnal: {}\n", [""]),
    ("unknown key inside", HEAD + PORT + "journal: {max_byte: 1}\n", ["journal"]),
    ("server missing", PORT, [""]),
    ("url missing", HEAD + "mqtt: {hall: {devices: [{topic: a}]}}\n", ["mqtt.hall"]),
    ("text for a number", HEAD + "serial: {scale: {port: a, baudrate: fast}}\n", ["serial.scale.baudrate"]),
    ("number for text", HEAD + "serial: {scale: {port: 3}}\n", ["serial.scale.port"]),
    ("word for a mapping", HEAD + "serial: {scale: /dev/ttyUSB0}\n", ["serial.scale"]),
    ("mapping for a list", HEAD + "mqtt: {h: {url: 'mqtt://h', devices: {topic: a}}}\n", ["mqtt.h.devices"]),
    ("no devices", HEAD + "mqtt: {h: {url: 'mqtt://h', devices: []}}\n", ["mqtt.h.devices"]),
    ("a word that is none of them", HEAD + PORT + "log: {level: loud}\n", ["log.level"]),
    ("unit of a size", HEAD + PORT + "journal: {max_bytes: 2GX}\n", ["journal.max_bytes"]),
    ("unit of a duration", HEAD + PORT + "journal: {max_age: 5 apples}\n", ["journal.max_age"]),
    ("number out of range", HEAD + PORT + "batch: {parallel: 0}\n", ["batch.parallel"]),
    ("size out of range", HEAD + PORT + "batch: {max_bytes: 10}\n", ["batch.max_bytes"]),
    ("duration out of range", HEAD + PORT + "batch: {max_delay_seconds: 61}\n", ["batch.max_delay_seconds"]),
    ("stop bits", HEAD + "serial: {scale: {port: a, stopbits: 3}}\n", ["serial.scale.stopbits"]),
    ("scheme of a broker", HEAD + "mqtt: {h: {url: 'http://h', devices: [{topic: a}]}}\n", ["mqtt.h.url"]),
    ("a source's name", HEAD + "serial: {hall 1: {port: a}}\n", ["serial"]),
    ("qos 2", HEAD + "mqtt: {h: {url: 'mqtt://h', qos: 2, devices: [{topic: a}]}}\n", ["mqtt.h.qos"]),
    ("YAML 1.1 boolean", HEAD.replace("'}", "', create: yes}") + PORT, ["server.create"]),
    ("required and empty", HEAD + "serial: {scale: {usb: {vid: , pid: 1}}}\n", ["serial.scale.usb.vid"]),
    (
        "a framing that needs more than a word",
        HEAD + "serial: {s: {port: a, framing: fixed}}\n",
        ["serial.s.framing"],
    ),
    ("a word for a list", HEAD + PORT + "include: devices/*.yaml\n", ["include"]),
]


class TestWhatIsWrong:
    @pytest.mark.parametrize(("text", "keys"), [pytest.param(text, keys, id=name) for name, text, keys in REFUSED])
    def test_is_refused_where_the_loader_refuses_it(self, text: str, keys: list[str], tmp_path: Path) -> None:
        assert refused(text) == keys
        assert mistakes_in(tmp_path, text) != []


ONLY_THE_LOADER = [
    ("no source", HEAD),
    ("two sources on one port", HEAD + "serial: {a: {port: p}, b: {port: p}}\n"),
    ("a bound of a size with a unit", HEAD + PORT + "batch: {max_bytes: 1kB}\n"),
    ("a topic", HEAD + "mqtt: {h: {url: 'mqtt://h', devices: [{topic: 'a/#/b'}]}}\n"),
    ("a capture", HEAD + "mqtt: {h: {url: 'mqtt://h', devices: [{topic: a, stream: 'x/{y}'}]}}\n"),
    ("a reference that leads nowhere", HEAD + PORT + "log: {level: '${env:NOWHERE}'}\n"),
    ("a whole number as a float", HEAD + PORT + "batch: {parallel: 4.0}\n"),
    ("keys that exclude one another", HEAD.replace("'}", "', listen: '127.0.0.1:1'}") + PORT),
    ("a certificate that is not there", HEAD.replace("http:", "https:").replace("'}", "', tls: {ca: n}}") + PORT),
]


class TestWhatOnlyTheLoaderRefuses:
    """The list that docs/configuration.md gives."""

    @pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in ONLY_THE_LOADER])
    def test_passes_the_schema(self, text: str, tmp_path: Path) -> None:
        assert refused(text) == []
        assert mistakes_in(tmp_path, text) != []


ACCEPTED = [
    "journal: {max_bytes: 2GiB, retain_bytes: 1048576, max_age: 30d}\n",
    "journal:\n",
    "journal: {max_bytes: }\n",
    "journal: {max_bytes: '${env:SIZE}'}\n",
    "log: {level: '${env:LEVEL}'}\n",
    "batch: {max_delay_seconds: 50 ms, parallel: 1}\n",
    'serial: {s: {port: a, stopbits: 1.5, framing: {line: {delimiter: "\\r"}}, commands: {write: "T\\r"}}}\n',
    "serial: {s: {port: a, framing: nmea}}\n",
    "serial: {s: {port: a, framing: {cobs: , check: {crc: CRC-16/MODBUS}}}}\n",
    "serial: {s: {port: a, framing: {slip: {}, check: sum}}}\n",
    "serial: {s: {port: a, decode: {regex: '(?P<t>[0-9]+)'}, fields: {t: {clamp: [0, 100]}}}}\n",
    "serial: {s: {port: a, decode: {only: '^A', struct: {members: {t: u8, u: {type: u8, bits: [0, 3]}}}}}}\n",
    "serial: {s: {port: a, decode: csv, time: {from: [1, 2], format: '%d%m%y %H%M'}, fields: {t: {from: 3}}}}\n",
    "serial: {s: {port: a, commands: {write: {hex: '02 03'}}}}\n",
    "mqtt: {h: {url: mqtt://h, version: 5, devices: [{topic: a, commands: {topic: b, reply: response_topic}}]}}\n",
    "mqtt: {h: {url: 'mqtt://h', version: 3.1.1, username: u, password: p, devices: [{topic: a}]}}\n",
    "mqtt: {h: {url: '${env:URL}', password: '${env:LEVEL}', devices: [{topic: a, fields: {t: {scale: 2}}}]}}\n",
]


class TestWhatTheLoaderAccepts:
    @pytest.mark.parametrize("text", ACCEPTED)
    def test_passes_the_schema(self, text: str, tmp_path: Path) -> None:
        whole = HEAD + ("" if text.startswith("serial") else PORT) + text
        environ = {"SIZE": "2MiB", "LEVEL": "debug", "URL": "mqtt://h"}
        assert mistakes_in(tmp_path, whole, environ) == []
        assert refused(whole) == []

    @pytest.fixture(scope="class")
    @staticmethod
    def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("any")

    @given(data=st.data())
    def test_whatever_is_changed_in_an_example(self, folder: Path, data: st.DataObject) -> None:
        text = data.draw(st.sampled_from(EXAMPLES)).read_text(encoding="utf-8")
        lines = text.splitlines()
        at = data.draw(st.integers(0, len(lines) - 1))
        key, colon, _ = lines[at].partition(": ")
        value = data.draw(st.sampled_from(["", "1", "1.5", "5s", "2KiB", "true", "'1'", "json", "a", "[]", "{}"]))
        lines[at] = data.draw(st.sampled_from(["", lines[at].removeprefix("# "), f"{key}{colon}{value}"]))
        (folder / "stream_token").write_text("secret")
        (folder / "mqtt_password").write_text("secret")
        changed = "\n".join(lines)
        if mistakes_in(folder, changed, {"CREDENTIALS_DIRECTORY": str(folder), "HOME": "/h", "SITE": "x"}) == []:
            assert refused(changed) == []


class TestTheCommand:
    @pytest.fixture
    def command(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
        return Command(monkeypatch, capsys)

    def test_prints_it(self, command: Command) -> None:
        done = command("schema")
        assert (done.code, done.stdout) == (0, json_schema.text())

    def test_writes_it_to_a_file(self, command: Command, tmp_path: Path) -> None:
        done = command("schema", "--included", "--output", tmp_path / "part.json")
        assert (done.code, done.stdout) == (0, "")
        part = json.loads((tmp_path / "part.json").read_text())
        jsonschema.validate(values("mqtt: {hall: {url: 'mqtt://h', devices: [{topic: a}]}}\n"), part)

    def test_says_why_it_cannot(self, command: Command, tmp_path: Path) -> None:
        done = command("schema", "--output", tmp_path / "none" / "part.json")
        assert done.code == 2
        assert "cannot be written: No such file or directory" in " ".join(done.stderr.split())
