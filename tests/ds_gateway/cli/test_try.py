"""``ds-gateway try``: each step from bytes to a record, or why there is none; wrong questions are told."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from ds_gateway.captures import CaptureWriter, Chunk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.command import Command, Ended

    Try = Callable[..., Ended]

CONFIG: Final = r"""
gateway: {id: line-7}
server: {url: "http://127.0.0.1:1/v1"}
mqtt:
  hall:
    url: mqtt://127.0.0.1:1
    devices:
      - topic: sensors/{hall}/{sensor}
        stream: halls/{hall}
        fields: {temperature: {from: t, scale: 0.1, unit: Cel}}
        report: {on_change: true, heartbeat_seconds: 60}
      - {topic: fix/a, name: fixed, time: ts}
  single:
    url: mqtt://127.0.0.1:2
    devices: [{topic: one/two}]
serial:
  scale: {port: /dev/ttyNO0, decode: {regex: '(?P<weight>[\d.]+)\s*kg'}}
  rows: {port: /dev/ttyNO1, decode: {csv: {columns: [a, b]}}}
  pms:
    port: /dev/ttyNO2
    framing: {sync: {word: "42 4d", length: {offset: 2, bytes: 2}, max_bytes: 32}, check: {sum: {bytes: 2}}}
    decode: {struct: {order: big, longer: true, members: {n: {type: u16, offset: 4}}}}
  gaps: {port: /dev/ttyNO3, framing: {idle: {gap_seconds: 0.05, max_bytes: 64}}, decode: text}
  scpi:
    port: /dev/ttyNO4
    decode: number
    poll:
      interval_seconds: 1
      requests:
        - {write: "VOLT?\r\n", name: volt}
        - {write: "CURR?\r\n", name: curr}
"""
GOOD = bytes.fromhex("42 4d 00 04 01 02 00 96")
BAD = bytes.fromhex("42 4d 00 04 01 02 00 97")


@pytest.fixture
def try_(command: Command, tmp_path: Path) -> Try:
    (tmp_path / "gateway.yaml").write_text(f"data_dir: {tmp_path}/data\n{CONFIG}")
    return lambda *arguments: command("try", "--config", tmp_path / "gateway.yaml", *arguments)


def capture(path: Path, source: str, *chunks: Chunk) -> Path:
    kind: Any = "mqtt" if any(each.topic for each in chunks) else "serial"
    with CaptureWriter(path, source=source, kind=kind, at="x", started="2026-03-01T10:00:00Z") as writer:
        for chunk in chunks:
            writer.add(chunk)
    return path


def frames(done: Ended) -> list[dict[str, Any]]:
    return [frame for step in json.loads(done.stdout)["steps"] for frame in step["frames"]]


def data(done: Ended) -> list[Any]:
    return [frame["record"] and frame["record"]["data"] for frame in frames(done)]


class TestOnePayload:
    def test_of_a_topic_is_shown_step_by_step(self, try_: Try, tmp_path: Path) -> None:
        done = try_("--topic", "sensors/h \u00e4/p", "--payload", '{"t": 214}')
        assert (done.code, done.stderr) == (0, "")
        raw, device, decoded, field, record, stream, tally = done.stdout.splitlines()
        assert raw == "     0.000 s  message on sensors/h \u00e4/p  '{\"t\": 214}'"
        assert device == "    device     h \u00e4/p"
        assert decoded == '    decoded    {"t": 214}'
        assert field == "    field      temperature = 21.4 Cel   (from t, scale 0.1)"
        assert record.startswith('    record     {"id":"ID","gateway":"line-7","device":"h \u00e4/p","time":"2')
        assert record.endswith('"data":{"temperature":21.4}}')
        assert stream == "    stream     halls/h%20%C3%A4"
        assert tally == "1 frame: 1 record, 0 not reported, 0 refused"
        assert not (tmp_path / "data").exists()

    def test_of_a_line_gets_the_delimiter_that_nobody_types(self, try_: Try) -> None:
        done = try_("--device", "scale", "--payload", "S S 12.30 kg", "--json")
        assert data(done) == [{"weight": 12.3}]
        assert frames(done)[0]["path"] == "telemetry/line-7"

    def test_that_is_refused_has_the_reason_of_the_quarantine(self, try_: Try) -> None:
        done = try_("--device", "scale", "--payload", "S S -- kg", "--json")
        assert done.code == 1
        assert frames(done)[0]["refused"] == 'the pattern matches nothing in "S S -- kg"'
        done = try_("--topic", "sensors/../p", "--payload", "{}", "--json")
        assert done.code == 1
        assert "halls/.." in frames(done)[0]["refused"]

    def test_whose_time_cannot_be_read_is_a_record_and_says_so(self, try_: Try) -> None:
        done = try_("--device", "fixed", "--payload", '{"ts": "soon"}')
        assert done.code == 0
        assert "    time       that of reception: " in done.stdout

    def test_in_hex_digits_with_noise_and_damage_around_it(self, try_: Try) -> None:
        done = try_("--device", "pms", "--hex", (b"\x00\x42" + GOOD + BAD + GOOD).hex(" "), "--json")
        steps = json.loads(done.stdout)["steps"]
        assert [
            (step["discarded"], len(step["frames"])) for step in steps if step["discarded"] or step["frames"]
        ] == [
            ([], 1),
            (["1 frame damaged: the check or the encoding does not hold"], 0),
            ([], 1),
        ]
        assert data(done) == [{"n": 258}, {"n": 258}]
        assert done.code == 1, "something was discarded"

    def test_in_a_file_and_without_an_end(self, try_: Try, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"1 kg\r\n2 k")
        done = try_("--device", "scale", "--file", tmp_path / "f")
        assert done.code == 0
        assert "3 bytes are no whole frame: its end has not come" in done.stdout
        (tmp_path / "f").write_bytes(b"2 k")
        done = try_("--device", "scale", "--file", tmp_path / "f")
        assert done.code == 1
        assert "no frame in 3 bytes: framing or baud rate do not fit" in done.stderr

    def test_that_names_columns_is_no_reading(self, try_: Try) -> None:
        done = try_("--device", "rows", "--payload", "a,b")
        assert (done.code, "no record  it is no reading (the names of the columns)" in done.stdout) == (0, True)

    def test_of_a_device_that_is_asked_is_its_answer(self, try_: Try) -> None:
        done = try_("--device", "scpi/curr", "--payload", "0.25", "--json")
        assert [(each["device"], each["record"]["data"]) for each in frames(done)] == [
            ("scpi/curr", {"value": 0.25})
        ]


class TestACapture:
    def test_of_a_broker_has_the_times_of_then(self, try_: Try, tmp_path: Path) -> None:
        messages = [
            Chunk(0.0, b'{"t": 1}', "sensors/h/p"),
            Chunk(1.0, b'{"t": 1}', "sensors/h/p"),
            Chunk(61.0, b'{"t": 1}', "sensors/h/p", retain=True),
            Chunk(61.5, b"x", "other"),
        ]
        done = try_("--capture", capture(tmp_path / "c", "hall", *messages), "--json")
        assert done.code == 1
        first, same, heartbeat, other = frames(done)
        assert first["record"]["time"] == "2026-03-01T10:00:00.000000Z"
        assert (same["record"], same["unreported"]) == (None, "report: nothing changed enough, or it is too soon")
        assert heartbeat["record"]["time"] == "2026-03-01T10:01:01.000000Z"
        assert other["refused"] == "topic other: no device of the configuration has this topic"
        only = try_("--capture", tmp_path / "c", "--topic", "sensors/+/p")
        assert only.stdout.endswith("3 frames: 2 records, 1 not reported, 0 refused\n")

    def test_of_a_port_begins_anywhere_as_after_an_opening(self, try_: Try, tmp_path: Path) -> None:
        chunks = [Chunk(0.0, b"9 kg\r"), Chunk(0.1, b"\n1"), Chunk(0.2, b" kg\r\n")]
        done = try_("--capture", capture(tmp_path / "c", "scale", *chunks), "--json")
        assert data(done) == [{"weight": 1}]
        assert any("may be a tail" in note for step in json.loads(done.stdout)["steps"] for note in step["notes"])

    def test_silences_are_as_they_were(self, try_: Try, tmp_path: Path) -> None:
        chunks = [Chunk(1.0, b"ab"), Chunk(1.01, b"c"), Chunk(2.0, b"de")]
        done = try_("--capture", capture(tmp_path / "c", "gaps", *chunks), "--json")
        assert data(done) == [{"value": "abc"}, {"value": "de"}]

    def test_behind_what_is_missing_reading_begins_anew(self, try_: Try, tmp_path: Path) -> None:
        chunks = [Chunk(0.0, b"\n1 kg\r\n2"), Chunk(0.1, b"", lost_bytes=7), Chunk(0.2, b"3 kg\r\n4 kg\r\n")]
        done = try_("--capture", capture(tmp_path / "c", "scale", *chunks), "--json")
        assert data(done) == [{"weight": 1}, {"weight": 4}]
        assert "7 bytes are missing in the capture here" in done.stdout

    def test_what_was_sent_says_who_answers(self, try_: Try, tmp_path: Path) -> None:
        chunks = [
            Chunk(0.0, b"CURR", is_sent=True),
            Chunk(0.0, b"?\r\n", is_sent=True),
            Chunk(0.1, b"0.5\r\n"),
            Chunk(1.0, b"VOLT?\r\n", is_sent=True),
            Chunk(1.1, b"230\r\n"),
            Chunk(1.5, b"OUTP ON\r\n", is_sent=True),
            Chunk(1.6, b"7\r\n"),
        ]
        done = try_("--capture", capture(tmp_path / "c", "scpi", *chunks), "--json")
        assert [(each["device"], each["record"]["data"]["value"]) for each in frames(done)] == [
            ("scpi/curr", 0.5),
            ("scpi/volt", 230),
        ]
        assert "answers nothing that is asked here, and is dropped" in done.stdout

    def test_of_plain_bytes_begins_with_a_frame_and_needs_a_device(self, try_: Try, tmp_path: Path) -> None:
        (tmp_path / "c").write_bytes(b"1 kg\r\n2 kg\r\n")
        assert data(try_("--device", "scale", "--capture", tmp_path / "c", "--json")) == [
            {"weight": 1},
            {"weight": 2},
        ]
        done = try_("--capture", tmp_path / "c")
        assert done.code == 2
        assert "is no capture but plain bytes: say whose they are, with --device" in told(done)

    def test_that_is_cut_or_damaged_is_told(self, try_: Try, tmp_path: Path) -> None:
        path = capture(tmp_path / "c", "rows", Chunk(0.0, b"\n1,2\n"), Chunk(0.1, b"3,4\n"))
        path.write_bytes(path.read_bytes()[:-4])
        done = try_("--capture", path, "--json")
        assert data(done) == [{"a": 1, "b": 2}]
        assert done.stderr == f"ds-gateway: {path}: its last line was not written to its end, and does not count\n"
        path.write_bytes(path.read_bytes() + b"\nx\n")
        done = try_("--capture", path)
        assert (done.code, f"{path}:3: is no JSON object" in done.stderr) == (1, True)

    def test_with_nothing_in_it_is_a_failure(self, try_: Try, tmp_path: Path) -> None:
        done = try_("--capture", capture(tmp_path / "c", "scale"), "--json")
        assert json.loads(done.stdout) == {
            "steps": [],
            "frames": 0,
            "records": 0,
            "unreported": 0,
            "refused": 0,
            "discarded": 0,
        }
        assert (done.code, done.stderr) == (1, "ds-gateway: there is nothing in it: no byte and no message\n")


def told(done: Ended) -> str:
    return " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --payload, --hex, --file and --capture"),
        (["--payload", "x", "--hex", "00"], "give one of"),
        (["--payload", "x"], "say whose payload it is, with --device: hall, single, scale"),
        (["--device", "scal", "--payload", "x"], "no device or source has the name 'scal'; there are scale"),
        (["--device", "hall", "--payload", "x"], "hall has 2 entries: say the topic of the message, with --topic"),
        (
            ["--device", "sensors/{hall}/{sensor}", "--payload", "x"],
            "stands for many topics: say which one it was, with --topic, as sensors/x/x",
        ),
        (["--topic", "no/where", "--payload", "x"], "no device has the topic no/where; there are sensors/{hall}"),
        (
            ["--device", "fixed", "--topic", "sensors/a/b", "--payload", "x"],
            "is of the device 'a/b', not of 'fixed'",
        ),
        (["--device", "scale", "--hex", "0g"], "--hex '0g' is no row of bytes"),
        (["--device", "scale", "--file", "/nowhere"], "--file /nowhere cannot be read"),
    ],
)
def test_wrong_questions_are_told_with_the_way_out(try_: Try, arguments: list[str], message: str) -> None:
    done = try_(*arguments)
    assert done.code == 2
    assert message in told(done)


def test_a_source_of_one_topic_and_a_device_of_a_family_need_no_more(try_: Try) -> None:
    assert try_("--device", "single", "--payload", "{}").code == 0
    assert try_("--device", "a/b", "--topic", "sensors/a/b", "--payload", '{"t": 1}').code == 0


def test_any_bytes_are_shown_without_a_traceback_and_without_a_word_to_the_terminal(try_: Try) -> None:
    for device in ("scale", "pms", "gaps", "rows"):
        done = try_("--device", device, "--hex", (bytes(range(256)) + b"\x1b[2J\r\n").hex())
        assert done.code in {0, 1}
        assert "\x1b" not in done.stdout
        assert "Traceback" not in done.stderr
    assert base64.b64encode(GOOD).decode() in try_("--device", "pms", "--hex", GOOD.hex(), "--json").stdout
