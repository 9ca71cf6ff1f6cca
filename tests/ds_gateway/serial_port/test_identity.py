"""Which device a port is: USB adapters, links that change, RS-485, what a driver counts."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import pytest

from ds_gateway.config.serial_port import SerialSettings, UsbSettings
from ds_gateway.errors import DeviceError
from ds_gateway.serial_port import open_port
from ds_gateway.serial_port.uart import UartCounters, read_counters
from ds_gateway.serial_port.usb import all_ports, find, names_by_path
from harness.pty_device import PtyDevice
from harness.serial_bench import SerialBench
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class _Adapter:
    device: str
    vid: int | None = 0x0403
    pid: int | None = 0x6001
    serial_number: str | None = "A1"


_FTDI: Final = _Adapter("/dev/ttyUSB0")
_OTHER: Final = _Adapter("/dev/ttyUSB1", serial_number="B2")
_UART: Final = _Adapter("/dev/ttyS0", None, None, None)
_BY_PATH: Final = {
    "/dev/ttyUSB0": "/dev/serial/by-path/pci-usb-0:1.1",
    "/dev/ttyUSB1": "/dev/serial/by-path/pci-usb-0:1.2",
}


def _usb(**values: str) -> UsbSettings:
    return UsbSettings.model_validate({"vid": "0403", "pid": "6001", **values})


def _find(usb: UsbSettings, *there: _Adapter) -> str:
    return find(usb, ports=lambda: there, by_path=lambda: _BY_PATH)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PtyDevice]:
    with PtyDevice(tmp_path / "usb-scale") as simulated:
        simulated.plug()
        yield simulated


class TestUsb:
    def test_it_is_found_by_its_numbers(self) -> None:
        assert _find(_usb(), _UART, _FTDI) == "/dev/ttyUSB0"
        assert _find(_usb(serial="B2"), _FTDI, _OTHER) == "/dev/ttyUSB1"

    def test_another_one_is_not_taken_for_it_and_told(self) -> None:
        with pytest.raises(DeviceError) as caught:
            _find(_usb(serial="C3"), _UART, _FTDI)
        assert str(caught.value) == (
            "usb 0403:6001 C3 is not there: unplugged, or another adapter (there is 0403:6001 A1 at /dev/ttyUSB0)"
        )
        with pytest.raises(DeviceError, match="there is none"):
            _find(_usb(), _UART)

    def test_of_two_the_serial_number_must_be_given(self) -> None:
        with pytest.raises(DeviceError) as caught:
            _find(_usb(), _FTDI, _OTHER)
        assert str(caught.value) == (
            "usb 0403:6001 is there 2 times: /dev/serial/by-path/pci-usb-0:1.1 and "
            "/dev/serial/by-path/pci-usb-0:1.2; add usb.serial, one of A1, B2"
        )

    @pytest.mark.parametrize("number", ["A1", None])
    def test_of_two_equal_ones_the_names_by_path_are_told(self, number: str | None) -> None:
        twins = [replace(each, serial_number=number) for each in (_FTDI, _OTHER)]
        with pytest.raises(DeviceError) as caught:
            _find(_usb(), *twins)
        assert str(caught.value) == (
            "usb 0403:6001 is there 2 times, and nothing tells them apart but their sockets: "
            "/dev/serial/by-path/pci-usb-0:1.1 and /dev/serial/by-path/pci-usb-0:1.2; give one of these as port"
        )

    def test_names_by_path_are_those_of_udev(self, tmp_path: Path) -> None:
        terminal = tmp_path / "ttyUSB0"
        terminal.touch()
        (tmp_path / "by-path").mkdir()
        (tmp_path / "by-path" / "pci").symlink_to(terminal)
        assert names_by_path(tmp_path / "by-path") == {str(terminal): str(tmp_path / "by-path" / "pci")}
        assert names_by_path(tmp_path / "nowhere") == {}

    def test_this_machine_can_be_asked(self) -> None:
        for port in all_ports():
            assert os.path.exists(port.device)  # noqa: PTH110 - as pyserial says it

    def test_a_port_is_opened_and_its_adapter_looked_at_once_more(self, device: PtyDevice) -> None:
        settings = SerialSettings(usb=_usb())
        open_port(settings, find_usb=lambda _usb: str(device.path)).close()
        answers = iter([str(device.path), "/dev/ttyUSB7"])
        with pytest.raises(DeviceError, match=r"usb 0403:6001 moved away from .* while it was opened"):
            open_port(settings, find_usb=lambda _usb: next(answers))


class TestALink:
    def test_that_leads_elsewhere_by_the_time_it_is_open_is_noticed(
        self, device: PtyDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The link changes between the opening and the check, as when a hub resets."""
        import serial  # noqa: PLC0415 - only to get between

        with PtyDevice(tmp_path / "another") as another:
            another.plug()

            class Slow(serial.Serial):  # type: ignore[misc]
                def open(self) -> None:
                    super().open()
                    another.path.replace(device.path)

            monkeypatch.setattr("ds_gateway.serial_port.port.serial.Serial", Slow)
            with pytest.raises(DeviceError, match="became another device while it was opened"):
                open_port(SerialSettings(port=str(device.path)))

    def test_that_is_gone_by_then_is_noticed(self, device: PtyDevice, monkeypatch: pytest.MonkeyPatch) -> None:
        import serial  # noqa: PLC0415

        class Slow(serial.Serial):  # type: ignore[misc]
            def open(self) -> None:
                super().open()
                device.path.unlink()

        monkeypatch.setattr("ds_gateway.serial_port.port.serial.Serial", Slow)
        with pytest.raises(DeviceError, match="vanished while it was opened"):
            open_port(SerialSettings(port=str(device.path)))


class TestRs485:
    def test_a_driver_that_cannot_says_so_and_what_to_do(self, device: PtyDevice) -> None:
        settings = SerialSettings.model_validate({"port": str(device.path), "rs485": {}})
        with pytest.raises(DeviceError) as caught:
            open_port(settings)
        assert "its driver cannot switch an RS-485 line by RTS" in str(caught.value)
        assert "remove rs485 if the adapter switches by itself" in str(caught.value)


class TestTheDriversCounters:
    def test_a_terminal_without_a_chip_has_none(self, device: PtyDevice) -> None:
        port = open_port(SerialSettings(port=str(device.path)))
        assert read_counters(port.fileno()) is None
        port.close()

    def test_what_it_counts_while_the_port_is_open_is_shown_and_what_it_dropped_goes_to_the_ledger(
        self, device: PtyDevice
    ) -> None:
        counted = [UartCounters(framing=7, overrun=3)]
        with SerialBench(device.path, {}, read_counters=lambda _descriptor: counted[-1]) as bench:
            bench.wait_open()
            counted.append(UartCounters(framing=8, parity=1, breaks=2, overrun=5, buffer_overrun=10))
            bench.forward(1.5)
            expected = UartCounters(framing=1, parity=1, breaks=2, overrun=2, buffer_overrun=10)
            wait_until(lambda: bench.snapshot().uart == expected, what="the counters are shown")
            wait_until(lambda: bench.take() or bench.losses, what="the loss is queued")
            counted.append(UartCounters(overrun=1))
            bench.forward(11)
            wait_until(
                lambda: (uart := bench.snapshot().uart) is not None and uart.overrun == 3,
                what="a driver that began to count anew is understood",
            )
            wait_until(lambda: bench.take() or len(bench.losses) == 2, what="the second loss is queued")
        assert [(loss.cause, loss.certain, loss.count, loss.source) for loss in bench.losses] == [
            ("serial_overrun", False, 12, "line"),
            ("serial_overrun", False, 1, "line"),
        ]
        assert bench.snapshot().overflow_lost == 0
