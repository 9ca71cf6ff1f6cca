"""The examples in config/ run as they stand: their captures are played, and what is in the streams is compared.

Only where things are is changed, by the environment. What is expected is in examples/NAME.json: the streams
without ids and times of reception, the quarantine, and what the gateway counts.
"""

from __future__ import annotations

import json
import re
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from ds_gateway import control
from ds_gateway.captures import CaptureReader
from harness.audit import StreamReader
from harness.command import Command
from harness.gateway_process import GatewayProcess, source_of, total
from harness.modbus_line import ModbusLine, unit
from harness.mosquitto import Mosquitto
from harness.peers import REPOSITORY
from harness.processes import Processes
from harness.pty_device import PtyDevice
from harness.publisher import Publisher
from harness.stream_server import StreamServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ds_gateway.captures import Header
    from harness.gateway_process import Status
    from harness.zygote import Zygote

CONFIG: Final = REPOSITORY / "config"
EXPECTED: Final = Path(__file__).with_name("examples")
NAMES: Final = sorted(file.stem for file in (CONFIG / "captures").glob("*.jsonl"))
_COUNTERS: Final = ("bad_checks", "overlong", "resyncs", "unasked")
_DEVICE_COUNTERS: Final = ("rejected", "suppressed", "untimed")


class Site:
    """A stream server and a broker for all examples. Each has streams of its own below its name."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.processes = processes
        self.server = StreamServer(processes, folder / "streams")
        self.broker = Mosquitto(folder / "mosquitto")

    def environ(self, name: str, header: Header, port: Path) -> dict[str, str]:
        """What is changed of an example."""
        source = header.source.upper()
        where = (
            {f"DS_GATEWAY__SERIAL__{source}__PORT": str(port), f"DS_GATEWAY__SERIAL__{source}__USB": "null"}
            if header.kind == "serial"
            else {f"DS_GATEWAY__MQTT__{source}__URL": self.broker.url}
        )
        return {
            **where,
            "DS_GATEWAY__SERVER__URL": f"{self.server.base_url}/{name}",
            "DS_GATEWAY__SERVER__TOKEN": "example",
            # Of the machine that the test runs on, not of the example.
            "DS_GATEWAY__GATEWAY__CLOCK": "trusted",
            "DS_GATEWAY__JOURNAL__MIN_FREE_BYTES": "0",
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("examples")
    with Processes(folder, zygote) as processes:
        site = Site(processes, folder)
        site.server.start()
        with site.broker:
            yield site


@pytest.fixture
def port(tmp_path: Path) -> Path:
    return tmp_path / "port"


class Run:
    """A gateway with an example of `CONFIG`."""

    def __init__(self, site: Site, name: str, port: Path) -> None:
        self.name = name
        with CaptureReader(CONFIG / "captures" / f"{name}.jsonl") as capture:
            self.header = capture.header
            self.chunks = list(capture)
        self.expected = json.loads((EXPECTED / f"{name}.json").read_text(encoding="utf-8"))
        self._site = site
        self._data_dir = port.parent / "data"
        environ = {
            **site.environ(name, self.header, port),
            "DS_GATEWAY__DATA_DIR": str(self._data_dir),
            "DS_GATEWAY__STATUS__LISTEN": "off",
            "DS_GATEWAY__HEALTH__ENABLED": "false",
        }
        self.gateway = GatewayProcess(site.processes, port.parent, {}, environ=environ)
        self.gateway.config = CONFIG / f"{name}.yaml"

    @property
    def answers(self) -> list[bytes]:
        """What came, without what was sent."""
        return [chunk.raw for chunk in self.chunks if not chunk.is_sent]

    def start(self) -> None:
        self.gateway.start()
        self.gateway.wait_connected()

    def wait_received(self, key: str, count: int) -> None:
        """Wait until the source has received so much, and everything of it that is expected is kept."""
        records = sum(map(len, self.expected["streams"].values()))
        refused = len(self.expected["quarantined"])

        def is_done(status: Status) -> bool:
            return (
                source_of(status, self.header.source)[key] >= count
                and total(status, "accepted") >= records
                and total(status, "in_journal") == 0
                and status["journal"]["quarantined"] >= refused
            )

        self.gateway.wait_for(is_done, what=f"{key} is {count}, and {records} records are in the streams")

    def finish(self) -> dict[str, Any]:
        """End the gateway; what came of the capture."""
        status = self.gateway.status()
        assert status is not None
        request = {"numbers": [], "source": "", "device": "", "reason": ""}
        quarantine = control.call(
            self._data_dir / "control.sock", "quarantine", 20.0, action="ls", limit=100, **request
        )
        # What waits is sent before it ends: a record too many would be there, too.
        assert self.gateway.terminate() == 0
        base = f"{self._site.server.base_url}/{self.name}"
        source = source_of(status, self.header.source)
        return {
            "streams": {
                each["name"]: [
                    _comparable(record)
                    for record in StreamReader(f"{base}/{each['name']}").read()
                    if record.get("kind") != "birth"
                ]
                for each in status["streams"]
            },
            "quarantined": [f"{each['device']}: {each['reason']}" for each in reversed(quarantine["payloads"])],
            "counted": {
                **{key: source[key] for key in _COUNTERS if source.get(key)},
                **{
                    key: count
                    for key in _DEVICE_COUNTERS
                    if (count := sum(each[key] for each in status["devices"]))
                },
            },
        }


def _comparable(record: dict[str, Any]) -> dict[str, Any]:
    """Without what is different in each run: the id, and the gateway's times."""
    own = "received" in record
    return {
        key: value for key, value in record.items() if key not in {"id", "received"} and (key != "time" or own)
    }


@pytest.fixture
def run(site: Site, port: Path) -> Iterator[Callable[[str], Run]]:
    runs: list[Run] = []

    def run(name: str) -> Run:
        runs.append(Run(site, name, port))
        return runs[-1]

    yield run
    for each in runs:
        each.gateway.kill()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "modbus-meter"])
def test_the_capture_becomes_these_records(run: Callable[[str], Run], name: str, site: Site, port: Path) -> None:
    example = run(name)
    with ExitStack() as stack:
        if example.header.kind == "mqtt":
            publisher = stack.enter_context(Publisher(site.broker.port))
            earlier = site.broker.log.count("Sending SUBACK")
            example.start()
            example.gateway.wait_for(
                lambda _: site.broker.log.count("Sending SUBACK") > earlier, what="it has subscribed"
            )
            for chunk in example.chunks:
                publisher.publish([(chunk.topic or "", chunk.raw)])
            example.wait_received("received", example.expected["received"])
        else:
            device = stack.enter_context(PtyDevice(port))
            device.plug()
            example.start()
            for chunk in example.chunks:
                if chunk.is_sent:
                    assert device.receive(len(chunk.raw)) == chunk.raw
                else:
                    device.send(chunk.raw)
            example.wait_received("received_bytes", len(b"".join(example.answers)))
        found = example.finish()
    assert found == {key: value for key, value in example.expected.items() if key != "received"}


def test_two_modbus_units_answer_on_one_line(run: Callable[[str], Run], port: Path) -> None:
    """The units are those of pymodbus' own server; the first answer is damaged on its way, and asked for again."""
    example = run("modbus-meter")
    inputs = [0] * 74
    for address, value in ((0, 230.4), (6, 1.37), (12, 309.6), (72, 1402.71)):
        inputs[address : address + 2] = struct.unpack(">2H", struct.pack(">f", value))
    meter = unit(1, inputs=inputs)
    pump = unit(2, holding=[14_873, 21_345, 1], coils=[True])
    answers: list[bytes] = []

    def damage_the_first(answer: bytes) -> bytes:
        answers.append(answer if answers else answer[:4] + bytes([answer[4] ^ 0x40]) + answer[5:])
        return answers[-1]

    with ModbusLine(port, meter, pump) as line:
        line.change = damage_the_first
        example.start()
        example.wait_received("received_bytes", len(b"".join(example.answers)))
        found = example.finish()
    assert found == example.expected
    # On a machine that is too busy to answer in time one is asked for twice.
    assert set(answers) == set(example.answers)
    assert set(line.requests) == {chunk.raw for chunk in example.chunks if chunk.is_sent}


@pytest.mark.parametrize("name", NAMES)
def test_try_makes_the_same_of_the_capture(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(monkeypatch, capsys)
    files = ["--config", CONFIG / f"{name}.yaml", "--capture", CONFIG / "captures" / f"{name}.jsonl"]
    ended = command("try", *files, "--json", environ={"DS_GATEWAY__SERVER__TOKEN": "example"})
    frames = [frame for step in json.loads(ended.stdout)["steps"] for frame in step["frames"]]
    expected = json.loads((EXPECTED / f"{name}.json").read_text(encoding="utf-8"))
    if name == "gps":
        passed_over = {frame["unreported"] for frame in frames if frame["record"] is None}
        assert passed_over == {"it is no reading (decode.only finds nothing in it)"}
    found: dict[str, list[Any]] = {}
    for frame in frames:
        if frame["record"] is not None:
            found.setdefault(frame["path"], []).append(frame["record"])
    assert {stream: [_shown(record) for record in records] for stream, records in found.items()} == {
        stream: [_shown(record) for record in records if "data" in record]
        for stream, records in expected["streams"].items()
    }


def _shown(record: dict[str, Any]) -> tuple[str, Any]:
    return record["device"], record["data"]


def test_every_example_of_a_device_has_a_capture_and_its_line_in_the_page() -> None:
    page = (REPOSITORY / "docs/examples.md").read_text(encoding="utf-8")
    listed = re.findall(r"\(\.\./config/([\w-]+)\.yaml\)", page)
    assert set(NAMES) <= set(listed)
    assert sorted(file.stem for file in EXPECTED.glob("*.json")) == NAMES
    assert {file.stem for file in CONFIG.glob("*.yaml")} == set(listed)
    assert len(NAMES) >= 8
