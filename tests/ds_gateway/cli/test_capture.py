"""``ds-gateway capture``: a port, a port that a running gateway holds, and a broker, into a file."""

from __future__ import annotations

import _thread
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway.captures import CaptureReader, Chunk
from harness.gateway_process import GatewayProcess, source_of
from harness.meanwhile import meanwhile
from harness.modbus_line import ModbusLine, unit
from harness.mosquitto import Mosquitto
from harness.ports import free_port
from harness.processes import console_script
from harness.pty_device import PtyDevice
from harness.publisher import Publisher
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.command import Command
    from harness.processes import ChildProcess, Processes


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PtyDevice]:
    with PtyDevice(tmp_path / "scale") as simulated:
        simulated.plug()
        yield simulated


def settings(**sources: Any) -> dict[str, Any]:
    return {
        "gateway": {"id": "line-7"},
        "server": {"url": f"http://127.0.0.1:{free_port()}/v1"},
        "journal": {"min_free_bytes": 0},
        **sources,
    }


def configured(folder: Path, **sources: Any) -> Path:
    file = folder / "gateway.yaml"
    file.write_text(json.dumps({"data_dir": str(folder / "data"), **settings(**sources)}))
    return file


def start(processes: Processes, config: Path, source: str, output: Path, *more: str) -> ChildProcess:
    argv: list[str | Path] = [
        console_script("ds-gateway"),
        "capture",
        source,
        "--output",
        output,
        "--config",
        config,
        *more,
    ]
    return processes.start(argv, name="capture")


def chunks_of(file: Path) -> list[Chunk]:
    if not file.exists() or not file.read_bytes().count(b"\n"):
        return []
    with CaptureReader(file) as reader:
        return list(reader)


def raw_of(file: Path) -> bytes:
    return b"".join(chunk.raw for chunk in chunks_of(file) if not chunk.is_sent)


def wait_raw(file: Path, raw: bytes) -> None:
    wait_until(lambda: raw_of(file) == raw, what=f"{raw!r} is in the capture")


class TestAPortThatNobodyHolds:
    def test_each_byte_is_in_the_file_at_once_and_a_kill_leaves_it_readable(
        self, processes: Processes, tmp_path: Path, device: PtyDevice
    ) -> None:
        config = configured(tmp_path, serial={"scale": {"port": str(device.path)}})
        output = tmp_path / "c"
        child = start(processes, config, "scale", output)
        wait_until(output.exists, what="the port is open")
        device.send(b"12.3 kg\r\n\x00\xff")
        wait_raw(output, b"12.3 kg\r\n\x00\xff")
        child.kill()
        with CaptureReader(output) as reader:
            assert reader.header.source == "scale"
            assert reader.header.at == str(device.path)
            assert reader.header.started_ns is not None
            assert b"".join(chunk.raw for chunk in reader) == b"12.3 kg\r\n\x00\xff"
            assert not reader.is_cut
        assert stat.S_IMODE(output.stat().st_mode) == 0o600

    def test_ctrl_c_ends_it_well(self, command: Command, tmp_path: Path, device: PtyDevice) -> None:
        config, output = configured(tmp_path, serial={"scale": {"port": str(device.path)}}), tmp_path / "c"

        def act() -> None:
            try:
                wait_until(output.exists, what="the port is open")
                device.send(b"x")
                wait_raw(output, b"x")
            finally:
                _thread.interrupt_main()

        with meanwhile(act):
            done = command("capture", "scale", "--config", config, "--output", output)
        assert (done.code, done.stdout) == (0, f"1 chunk, 1 byte in {output}\n")

    def test_it_ends_by_itself_after_so_many_frames_or_seconds(
        self, command: Command, tmp_path: Path, device: PtyDevice
    ) -> None:
        config, output = configured(tmp_path, serial={"scale": {"port": str(device.path)}}), tmp_path / "c"

        def act() -> None:
            wait_until(output.exists, what="the port is open")
            device.send(b"tail\r\none\r\ntw")
            wait_raw(output, b"tail\r\none\r\ntw")
            device.send(b"o\r\n")

        with meanwhile(act):
            done = command("capture", "scale", "--config", config, "--output", output, "--frames", "2")
        assert done.code == 0
        assert raw_of(output) == b"tail\r\none\r\ntwo\r\n"
        tried = command("try", "--config", config, "--capture", output)
        assert tried.code == 0
        assert "may be a tail, and is no frame" in tried.stdout
        assert tried.stdout.endswith("2 frames: 2 records, 0 not reported, 0 refused\n")

        done = command("capture", "scale", "--config", config, "--output", tmp_path / "d", "--seconds", "0.1")
        assert done.code == 0
        assert chunks_of(tmp_path / "d") == []

    def test_devices_that_only_answer_are_asked_and_try_knows_who_answered(
        self, tmp_path: Path, command: Command
    ) -> None:
        registers = [
            {"name": "t", "address": 0, "function": "input"},
            {"name": "n", "address": 3, "function": "holding"},
        ]
        meters = [
            {
                "name": f"meter-{number}",
                "poll": {"interval_seconds": 1, "modbus": {"unit": number, "registers": registers}},
            }
            for number in (1, 2)
        ]
        with ModbusLine(
            tmp_path / "line",
            unit(1, inputs=[11], holding=[0, 0, 0, 12]),
            unit(2, inputs=[21], holding=[0, 0, 0, 22]),
        ) as line:
            config = configured(tmp_path, serial={"bus": {"port": str(line.path), "devices": meters}})
            done = command("capture", "bus", "--config", config, "--output", tmp_path / "c", "--frames", "2")
            assert (done.code, done.stderr) == (0, "")
        tried = command("try", "--config", config, "--capture", tmp_path / "c", "--json")
        frames = [frame for step in json.loads(tried.stdout)["steps"] for frame in step["frames"]]
        found = {frame["device"]: frame["record"]["data"] for frame in frames}
        assert found == {"meter-1": {"t": 11, "n": 12}, "meter-2": {"t": 21, "n": 22}}
        assert tried.code == 0

    def test_a_port_that_is_not_there_is_told_and_no_file_is_made(self, command: Command, tmp_path: Path) -> None:
        config = configured(tmp_path, serial={"scale": {"port": str(tmp_path / "no")}})
        done = command("capture", "scale", "--config", config, "--output", tmp_path / "c")
        assert (done.code, done.stdout) == (1, "")
        assert f"{tmp_path}/no is not there: unplugged, or it has another name" in done.stderr
        assert not (tmp_path / "c").exists()


class TestAPortThatAGatewayHolds:
    def test_the_gateway_lets_it_hear_and_goes_on(
        self, processes: Processes, tmp_path: Path, device: PtyDevice, command: Command
    ) -> None:
        gateway = GatewayProcess(processes, tmp_path, settings(serial={"scale": {"port": str(device.path)}}))
        gateway.start()
        gateway.wait_connected()

        def say() -> None:
            wait_until(lambda: gateway.events("serial.tap.opened"), what="check --live hears it")
            device.send(b"four\r\n")

        with meanwhile(say):
            live = command("check", "--live", "--seconds", "1", "--config", gateway.config)
        assert f"port scale ({device.path}): held by the running gateway, and heard through it; " in live.stdout
        assert "'four\\r\\n'" in live.stdout

        def act() -> None:
            wait_until((tmp_path / "c").exists, what="the tap is open")
            device.send(b"tail\r\none\r\ntwo\r\n")

        with meanwhile(act):
            done = command(
                "capture", "scale", "--config", gateway.config, "--output", tmp_path / "c", "--frames", "2"
            )
        assert done.code == 0
        assert raw_of(tmp_path / "c") == b"tail\r\none\r\ntwo\r\n"
        wait_until(lambda: gateway.events("serial.tap.closed"), what="the tap is closed")
        device.send(b"three\r\n")
        # The first frame after the opening is none: it may be a tail.
        gateway.wait_accepted(4)
        assert raw_of(tmp_path / "c") == b"tail\r\none\r\ntwo\r\n"

        new = configured(tmp_path, serial={"new": {"port": str(device.path)}})
        done = command("capture", "new", "--config", new, "--output", tmp_path / "n")
        assert done.code == 1
        assert done.stderr == "ds-gateway: the running gateway has no serial port 'new': reload it, if it is new\n"
        gateway.configure(settings(serial={"scale": {"port": str(device.path)}}))

        def kill() -> None:
            wait_until((tmp_path / "d").exists, what="the tap is open")
            device.send(b"one\r\n")
            wait_raw(tmp_path / "d", b"one\r\n")
            gateway.kill()

        with meanwhile(kill):
            done = command("capture", "scale", "--config", gateway.config, "--output", tmp_path / "d")
        assert done.code == 1
        assert "scale: no gateway is running on" in done.stderr
        assert done.stdout == f"1 chunk, 5 bytes in {tmp_path}/d\n"

    def test_that_is_unplugged_cannot_be_heard(
        self, processes: Processes, tmp_path: Path, device: PtyDevice, command: Command
    ) -> None:
        device.unplug()
        gateway = GatewayProcess(processes, tmp_path, settings(serial={"scale": {"port": str(device.path)}}))
        gateway.start()
        gone = f"{device.path} is not there: unplugged, or it has another name (see /dev/serial/by-id)"
        gateway.wait_for(lambda status: source_of(status, "scale")["reason"] == gone, what="it looks for the port")
        live = command("check", "--live", "--seconds", "0.3", "--config", gateway.config)
        assert live.code == 1
        assert f"failed: port scale ({device.path}): {gone}\n" in live.stdout

        output = tmp_path / "c"
        done = command("capture", "scale", "--config", gateway.config, "--output", output, "--seconds", "0.3")
        assert (done.code, done.stdout) == (1, f"0 chunks, 0 bytes in {output}\n")
        assert done.stderr == f"ds-gateway: {gone}\n"

        def plug() -> None:
            wait_until((tmp_path / "d").exists, what="the tap is open")
            device.plug()
            gateway.wait_connected()
            device.send(b"one\r\ntwo\r\n")
            wait_until(lambda: len(raw_of(tmp_path / "d")) == 10, what="it is heard")
            device.unplug()
            gateway.wait_for(lambda status: source_of(status, "scale")["reason"] == gone, what="it is gone")
            _thread.interrupt_main()

        with meanwhile(plug):
            done = command("capture", "scale", "--config", gateway.config, "--output", tmp_path / "d")
        assert done.code == 1, "what came is kept, and it cannot be heard any more"
        assert done.stdout.endswith(f", 10 bytes in {tmp_path}/d\n")


class TestABroker:
    @pytest.mark.parametrize("version", ["5", "3.1.1"])
    def test_messages_with_topic_and_retain_and_no_session_is_left(
        self, tmp_path: Path, version: str, command: Command
    ) -> None:
        output = tmp_path / "c"
        with Mosquitto(tmp_path / "broker") as broker:
            source = {"url": broker.url, "version": version, "devices": [{"topic": "s/{hall}"}]}
            config = configured(tmp_path, mqtt={"hall": source})
            publisher = Publisher(broker.port)
            publisher.publish([("s/kept", b'{"t": 1}'), ("other", b"x")], retain=True)

            def act() -> None:
                wait_until(lambda: len(chunks_of(output)) == 1, what="the retained message is there")
                publisher.publish([("s/live", b"\xff")])

            with meanwhile(act):
                done = command("capture", "hall", "--config", config, "--output", output, "--frames", "2")
            assert (done.code, done.stderr) == (0, "")
            publisher.close()
            found = [(each.topic, each.raw, each.retain) for each in chunks_of(output)]
            assert found == [("s/kept", b'{"t": 1}', True), ("s/live", b"\xff", False)]
            wait_until(lambda: "Received DISCONNECT from ds-look-" in broker.log, what="it said goodbye")
            (line,) = [line for line in broker.log.splitlines() if "as ds-look-" in line]
            assert "c1," in line, "a clean session"
            assert "Received UNSUBSCRIBE from ds-look-" in broker.log
        tried = command("try", "--config", config, "--capture", output)
        assert tried.code == 1
        assert '"device":"kept"' in tried.stdout
        assert "refused    not JSON" in tried.stdout

    def test_a_filter_of_its_own_and_a_broker_that_ends(self, command: Command, tmp_path: Path) -> None:
        output = tmp_path / "c"
        with Mosquitto(tmp_path / "broker") as broker:
            publisher = Publisher(broker.port)
            publisher.publish([("other", b"x")], retain=True)
            publisher.close()
            config = configured(tmp_path, mqtt={"hall": {"url": broker.url, "devices": [{"topic": "s/{hall}"}]}})

            def act() -> None:
                wait_until(lambda: chunks_of(output), what="the message is there")
                broker.kill()

            with meanwhile(act):
                done = command("capture", "hall", "--topic", "#", "--config", config, "--output", output)
            assert done.code == 1
            assert "hall: the broker closed the connection" in done.stderr
            assert [each.topic for each in chunks_of(output)] == ["other"]

    def test_refused_credentials_are_told(self, command: Command, tmp_path: Path) -> None:
        with Mosquitto(tmp_path / "broker", users={"me": "right"}) as broker:
            source = {"url": broker.url, "username": "me", "password": "wrong", "devices": [{"topic": "s"}]}
            config = configured(tmp_path, mqtt={"hall": source})
            done = command("capture", "hall", "--config", config, "--output", tmp_path / "c")
        assert done.code == 1
        assert "the broker refuses the connection: Not authorized" in done.stderr
        assert "see username and password" in done.stderr


class TestWrongCommandLines:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["scal"], "no source has the name 'scal'; there are scale"),
            (["scale", "--topic", "x"], "--topic is for brokers, and scale is a serial port"),
            (["hall", "--topic", "a/#/b"], "--topic: topic 'a/#/b'"),
            (["hall", "--topic", ""], "a topic filter has at least one character"),
            (["scale", "--seconds", "0"], "--seconds"),
        ],
    )
    def test_are_told(self, command: Command, tmp_path: Path, arguments: list[str], told: str) -> None:
        config = configured(
            tmp_path,
            serial={"scale": {"port": "/dev/ttyNONE"}},
            mqtt={"hall": {"url": "mqtt://127.0.0.1", "devices": [{"topic": "s/{hall}"}]}},
        )
        done = command("capture", *arguments, "--config", config, "--output", tmp_path / "c")
        assert done.code == 2
        assert told in " ".join(done.stderr.split())

    def test_a_file_that_is_there_stays(self, command: Command, tmp_path: Path, device: PtyDevice) -> None:
        config = configured(tmp_path, serial={"scale": {"port": str(device.path)}})
        (tmp_path / "c").write_text("mine")
        done = command("capture", "scale", "--seconds", "0.1", "--config", config, "--output", tmp_path / "c")
        assert done.code == 1
        assert "is there already: name another file, or add --force" in done.stderr
        assert (tmp_path / "c").read_text() == "mine"
        done = command(
            "capture", "scale", "--seconds", "0.1", "--config", config, "--output", tmp_path / "c", "--force"
        )
        assert done.code == 0
        assert chunks_of(tmp_path / "c") == []
