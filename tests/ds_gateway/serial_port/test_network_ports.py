"""Ports of another machine: real connections to a server in front of a real terminal."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import pytest

from ds_gateway.config.serial_port import SerialSettings
from ds_gateway.errors import DeviceError
from ds_gateway.serial_port import open_port
from harness.ports import free_port
from harness.pty_device import PtyDevice
from harness.rfc2217_server import PortServer
from harness.serial_bench import SerialBench
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SCHEMES: Final = ("socket", "rfc2217")

# pyserial 3.5 speaks to threads as in Python 2.
pytestmark = pytest.mark.filterwarnings("ignore:set(Daemon|Name)\\(\\) is deprecated:DeprecationWarning")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PtyDevice]:
    with PtyDevice(tmp_path / "far") as simulated:
        simulated.plug()
        yield simulated


@pytest.fixture(params=_SCHEMES)
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(device: PtyDevice, scheme: str) -> Iterator[PortServer]:
    with PortServer(device.path, is_rfc2217=scheme == "rfc2217") as started:
        yield started


class TestReading:
    def test_every_byte_comes_and_goes_and_a_lost_connection_is_made_anew(
        self, device: PtyDevice, server: PortServer, scheme: str
    ) -> None:
        poll = {"write": "MEAS?\n", "interval_seconds": 0.02, "timeout_seconds": 30}
        with SerialBench(f"{scheme}://{server.address}", {"poll": poll}) as bench:
            for value in (b"1.5", b"\xff\xfe\x11\x13"):
                device.receive_to(b"\n")
                device.send(value + b"\n")
            assert bench.wait_readings(2)[:2] == [
                ("line", {"value": "1.5"}),
                ("line", {"value": "//4REw==", "encoding": "base64"}),
            ]
            device.receive_to(b"\n")
            server.cut()
            bench.wait_open(reopens=1)
            device.receive_to(b"\n")
            device.send(b"3.5\n")
            assert bench.wait_readings(3)[2] == ("line", {"value": "3.5"})

    def test_rfc2217_sets_up_the_line(self, device: PtyDevice) -> None:
        settings = {"baudrate": 4800, "stopbits": 2}
        with PortServer(device.path, is_rfc2217=True) as server:
            with SerialBench(f"rfc2217://{server.address}", settings) as bench:
                bench.wait_open()
                line = server.line
                assert (line.baudrate, line.stopbits) == (4800, 2)

    def test_much_at_once_is_read_whole(self, device: PtyDevice, server: PortServer, scheme: str) -> None:
        with SerialBench(f"{scheme}://{server.address}", {}) as bench:
            bench.wait_open()
            device.send(b"\n" + b"".join(b"%04d\n" % number for number in range(2000)))
            wait_until(lambda: bench.snapshot().received_bytes == 10_001, what="all bytes are there")
            assert [data["value"] for _, data in bench.take()] == [f"{number:04}" for number in range(2000)]


class TestNobodyThere:
    def test_a_refused_connection_is_told_in_words(self, scheme: str) -> None:
        url = f"{scheme}://127.0.0.1:{free_port()}"
        with pytest.raises(DeviceError, match=r"cannot be reached: .*[Cc]onnection refused"):
            open_port(SerialSettings(port=url))

    def test_a_server_that_does_not_speak_rfc2217_is_told(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"rfc2217://127.0.0.1:{listener.getsockname()[1]}"
            with pytest.raises(DeviceError, match="does not seem to support RFC2217"):
                open_port(SerialSettings(port=url))
