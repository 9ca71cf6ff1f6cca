from __future__ import annotations

import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from ds_gateway.config.serial_port import SerialSettings
from ds_gateway.errors import DeviceError
from ds_gateway.journal.intake import Intake
from ds_gateway.mapping import SerialPipeline
from ds_gateway.records import Frame, Loss, Record, Rejected
from ds_gateway.serial_port import SerialSource, open_port
from harness.pty_device import PtyDevice
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ds_gateway.records import Item
    from ds_gateway.serial_port import Port

_NOW_NS = 1_772_366_400_000_123_456


class _Impatient:
    """A random source that asks for no wait at all, and remembers the longest wait it could have asked for."""

    def __init__(self) -> None:
        self.ceilings: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        assert a == b / 2
        self.ceilings.append(b)
        return 0.0


class _Bench:
    """A serial source with its queue; the test plays the journal's writer."""

    def __init__(self, port: Path, *, max_items: int = 10_000, **more: Any) -> None:
        self.settings = SerialSettings.model_validate(
            {"port": str(port), "framing": {"line": {"delimiter": "\r\n"}}, **more.pop("settings", {})}
        )
        self.offered = threading.Event()
        self.intake = Intake("scale", max_items=max_items, max_bytes=10_000_000, wake=self.offered.set)
        self.losses: list[Loss] = []
        """What the queue held for the ledger."""
        self.random = _Impatient()
        more.setdefault("pipeline", SerialPipeline("scale", "line-7", self.settings))
        self.source = SerialSource(
            "scale", self.settings, intake=self.intake, random=self.random, now_ns=lambda: _NOW_NS, **more
        )

    def values(self) -> list[str]:
        """What the queue holds, taken out of it."""
        items = self.intake.take(10_000, 10_000_000)
        self.losses += [item.payload for item in items if isinstance(item.payload, Loss)]
        return [_value(item) for item in items if not isinstance(item.payload, Loss)]

    def wait_open(self, reopens: int = 0) -> None:
        wait_until(
            lambda: self.source.snapshot().state == "open" and self.source.snapshot().reopens == reopens,
            what=f"the port is open, with {reopens} reopens",
        )

    def wait_received(self, size_bytes: int) -> None:
        wait_until(
            lambda: self.source.snapshot().received_bytes >= size_bytes, what=f"{size_bytes} bytes were read"
        )

    def wait_waiting(self, words: str) -> str:
        wait_until(
            lambda: self.source.snapshot().state == "waiting" and words in self.source.snapshot().reason,
            what=f"the port is waiting because {words!r}",
        )
        return self.source.snapshot().reason


def _has_received(source: SerialSource, size_bytes: int) -> bool:
    return source.snapshot().received_bytes == size_bytes


def _value(item: Item) -> str:
    assert isinstance(item.payload, Record)
    value = orjson.loads(b"{" + item.payload.tail)["data"]["value"]
    assert isinstance(value, str)
    return value


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PtyDevice]:
    with PtyDevice(tmp_path / "usb-scale") as simulated:
        yield simulated


@pytest.fixture
def start(device: PtyDevice) -> Iterator[Callable[..., _Bench]]:
    """Starts a source for the device; all are stopped when the test ends."""
    benches: list[_Bench] = []

    def start(**more: Any) -> _Bench:
        bench = _Bench(device.path, **more)
        benches.append(bench)
        bench.source.start()
        return bench

    yield start
    stuck = [bench.source for bench in benches if not bench.source.stop()]
    assert not stuck, "a source did not stop"


class TestReading:
    def test_frames_after_the_first_boundary_reach_the_queue(
        self, device: PtyDevice, start: Callable[..., _Bench]
    ) -> None:
        device.plug()
        bench = start()
        bench.wait_open()
        device.send(b"ail of a frame\r\n1.5 kg\r\n2.5 kg\r\n3.")
        bench.wait_received(34)
        assert bench.values() == ["1.5 kg", "2.5 kg"]
        device.send(b"5 kg\r\n")
        bench.wait_received(40)
        assert bench.values() == ["3.5 kg"]
        snapshot = bench.source.snapshot()
        assert (snapshot.state, snapshot.reason) == ("open", "")
        assert (snapshot.received_frames, snapshot.received_bytes) == (3, 40)
        assert snapshot.last_frame_time_ns == _NOW_NS

    def test_frames_that_are_not_reported_do_not_reach_the_queue(
        self, device: PtyDevice, start: Callable[..., _Bench]
    ) -> None:
        device.plug()
        bench = start(settings={"report": {"on_change": True}})
        bench.wait_open()
        device.send(b"\r\n1 kg\r\n1 kg\r\n2 kg\r\n2 kg\r\n")
        bench.wait_received(26)
        assert bench.values() == ["1 kg", "2 kg"]
        assert bench.source.snapshot().received_frames == 4

    def test_a_frame_is_stamped_when_its_last_byte_was_read(self, device: PtyDevice, tmp_path: Path) -> None:
        ticks = iter(range(1, 100))
        frames: list[Frame] = []

        def remember(frame: Frame) -> Rejected:
            frames.append(frame)
            return Rejected("scale", "scale", "a test", frame.data, frame.time_ns)

        device.plug()
        bench = _Bench(device.path)
        source = SerialSource(
            "scale",
            bench.settings,
            pipeline=remember,
            intake=bench.intake,
            random=bench.random,
            now_ns=lambda: next(ticks),
        )
        source.start()
        wait_until(lambda: source.snapshot().state == "open", what="the port is open")
        for received, data in ((4, b"\r\n1."), (9, b"5 kg\r"), (10, b"\n")):
            device.send(data)
            wait_until(partial(_has_received, source, received), what="the data was read")
        assert source.stop()
        assert frames == [Frame(b"1.5 kg", 3)]

    def test_what_is_not_text_is_kept_as_base64(self, device: PtyDevice, start: Callable[..., _Bench]) -> None:
        device.plug()
        bench = start()
        bench.wait_open()
        device.send(b"\r\n\xff\x11\x13\r\n")
        bench.wait_received(7)
        assert bench.values() == ["/xET"]

    def test_overlong_frames_are_counted(self, device: PtyDevice, start: Callable[..., _Bench]) -> None:
        device.plug()
        bench = start(settings={"framing": {"line": {"delimiter": "\n", "max_bytes": 10}}})
        bench.wait_open()
        device.send(b"\n" + b"U" * 3000 + b"\nok\n")
        bench.wait_received(3005)
        assert bench.values() == ["ok"]
        assert bench.source.snapshot().overlong == 1

    @pytest.mark.parametrize("parity", ["none", "even", "odd", "mark", "space"])
    @pytest.mark.parametrize("stopbits", [1, 1.5, 2])
    def test_every_line_setting_can_be_opened(
        self, device: PtyDevice, start: Callable[..., _Bench], parity: str, stopbits: float
    ) -> None:
        device.plug()
        start(settings={"parity": parity, "stopbits": stopbits, "baudrate": 115200}).wait_open()


class TestSilence:
    def test_a_silence_ends_a_frame_and_damage_is_counted(
        self, device: PtyDevice, start: Callable[..., _Bench]
    ) -> None:
        device.plug()
        framing = {"idle": {"gap_seconds": 0.05}, "check": {"crc": "CRC-16/MODBUS", "written": "hex"}}
        bench = start(settings={"framing": framing})
        bench.wait_open()
        snapshot = bench.source.snapshot
        device.send(b"abA9C9")
        wait_until(lambda: snapshot().received_frames == 1, what="the first silence")
        device.send(b"abA9C8")
        wait_until(lambda: snapshot().bad_checks == 1, what="the second silence")
        device.send(b"1234BA30")
        wait_until(lambda: snapshot().received_frames == 2, what="the third silence")
        assert bench.values() == ["ab", "1234"]
        assert snapshot().received_bytes == 20


class TestPlugging:
    def test_replugged_in_the_middle_of_a_frame_it_goes_on_with_the_next_whole_one(
        self, device: PtyDevice, start: Callable[..., _Bench]
    ) -> None:
        device.plug()
        bench = start()
        bench.wait_open()
        device.send(b"\r\nbefore\r\nha")
        bench.wait_received(12)
        device.unplug()
        bench.wait_waiting("usb-scale")
        device.plug()
        bench.wait_open(reopens=1)
        device.send(b"lf\r\nafter\r\n")
        bench.wait_received(23)
        assert bench.values() == ["before", "after"]

    def test_a_new_terminal_behind_the_same_path_is_found(
        self, device: PtyDevice, start: Callable[..., _Bench]
    ) -> None:
        device.plug()
        bench = start()
        for number in range(5):
            bench.wait_open(reopens=number)
            device.send(b"\r\n%d\r\n" % number)
            bench.wait_received(5 * (number + 1))
            device.plug()
        bench.wait_open(reopens=5)
        assert bench.values() == ["0", "1", "2", "3", "4"]

    def test_absent_at_boot_is_fine(self, device: PtyDevice, start: Callable[..., _Bench]) -> None:
        bench = start()
        assert "is not there: unplugged" in bench.wait_waiting("usb-scale")
        device.plug()
        bench.wait_open()
        device.send(b"\r\nat last\r\n")
        bench.wait_received(11)
        assert bench.values() == ["at last"]

    def test_waits_grow_to_two_seconds_and_begin_anew_after_data(
        self, device: PtyDevice, start: Callable[..., _Bench]
    ) -> None:
        bench = start()
        wait_until(lambda: len(bench.random.ceilings) > 6, what="it tried to open seven times")
        assert bench.random.ceilings[:6] == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
        device.plug()
        bench.wait_open()
        device.send(b"\r\n")
        bench.wait_received(2)
        tried = len(bench.random.ceilings)
        device.unplug()
        wait_until(lambda: len(bench.random.ceilings) > tried, what="it tried to open again")
        assert bench.random.ceilings[tried] == 0.2

    def test_a_reason_is_logged_once_however_long_it_lasts(
        self, start: Callable[..., _Bench], caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, logger="ds_gateway.serial_port"):
            bench = start()
            wait_until(lambda: len(bench.random.ceilings) > 20, what="it tried to open twenty times")
        assert [record.message for record in caplog.records] == ["serial.port.waiting"]


class TestOverflow:
    def test_readings_that_do_not_fit_are_counted_and_reading_goes_on(
        self, device: PtyDevice, start: Callable[..., _Bench], caplog: pytest.LogCaptureFixture
    ) -> None:
        device.plug()
        bench = start(max_items=2)
        bench.wait_open()
        received = 0
        for data in (b"\r\na\r\n", b"b\r\n", b"c\r\n", b"d\r\n"):
            device.send(data)
            received += len(data)
            bench.wait_received(received)
        snapshot = bench.source.snapshot()
        assert (snapshot.state, snapshot.received_frames, snapshot.overflow_lost) == ("open", 4, 2)
        assert bench.values() == ["a", "b"]
        device.send(b"e\r\n")
        bench.wait_received(received + 3)
        assert bench.values() == ["e"]
        overflows = [record for record in caplog.records if record.message == "serial.queue.overflow"]
        assert len(overflows) == 1, "it is logged at a limited rate"

    def test_what_was_lost_is_told_to_the_ledger_once_when_there_is_room(
        self, device: PtyDevice, start: Callable[..., _Bench]
    ) -> None:
        device.plug()
        bench = start(max_items=2)
        bench.wait_open()
        received = 0
        for data in (b"\r\na\r\n", b"b\r\n", b"c\r\n", b"d\r\n"):
            device.send(data)
            received += len(data)
            bench.wait_received(received)
        assert bench.values() == ["a", "b"]
        wait_until(lambda: len(bench.intake) == 1, what="the loss is queued, though nothing is read any more")
        for data in (b"e\r\n", b"f\r\n", b"g\r\n"):
            device.send(data)
            received += len(data)
            bench.wait_received(received)
        assert bench.values() == ["e"]
        assert bench.source.stop()
        assert bench.values() == [], "the last loss is told when the source ends"
        assert [(loss.cause, loss.certain, loss.count, loss.source) for loss in bench.losses] == [
            ("serial_overrun", True, 2, "scale"),
            ("serial_overrun", True, 2, "scale"),
        ]
        assert {(loss.first_ns, loss.last_ns) for loss in bench.losses} == {(_NOW_NS, _NOW_NS)}
        assert bench.source.snapshot().overflow_lost == 4


class TestRefusals:
    def test_a_second_reader_of_the_same_port_waits(self, device: PtyDevice, start: Callable[..., _Bench]) -> None:
        device.plug()
        start().wait_open()
        second = start()
        assert "is in use by another program" in second.wait_waiting("usb-scale")

    def test_a_file_is_no_port(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        with pytest.raises(DeviceError, match="is not a serial port"):
            open_port(SerialSettings(port=str(path)))

    def test_the_reason_of_a_refusal_is_shown(self, start: Callable[..., _Bench]) -> None:
        def refuse(_settings: SerialSettings) -> Port:
            raise DeviceError("permission denied: join the group dialout")

        assert start(open_port=refuse).wait_waiting("permission").endswith("join the group dialout")


class TestSupervision:
    def test_it_cannot_be_started_twice(self, start: Callable[..., _Bench]) -> None:
        bench = start()
        with pytest.raises(RuntimeError, match="started already"):
            bench.source.start()

    def test_before_the_start_it_says_so_and_can_be_stopped(self, device: PtyDevice) -> None:
        source = _Bench(device.path).source
        assert source.snapshot().reason == "not started"
        assert source.stop()

    @pytest.mark.parametrize("plugged", [True, False])
    def test_stopping_ends_the_thread_and_closes_the_port(self, device: PtyDevice, *, plugged: bool) -> None:
        bench = _Bench(device.path)
        descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only
        if plugged:
            device.plug()
            descriptors += 1
        bench.source.start()
        if plugged:
            bench.wait_open()
        assert bench.source.stop()
        assert bench.source.stop(), "stopping twice is harmless"
        assert bench.source.snapshot().reason == "stopped"
        assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208

    def test_an_idle_port_shows_progress(self, device: PtyDevice, start: Callable[..., _Bench]) -> None:
        device.plug()
        bench = start()
        bench.wait_open()
        seen = bench.source.alive_at
        wait_until(lambda: bench.source.alive_at > seen, what="the thread turned without any data")

    def test_a_mistake_in_the_pipeline_does_not_end_the_thread(
        self, device: PtyDevice, start: Callable[..., _Bench], caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail_once(frame: Frame) -> Rejected:
            if frame.data == b"poison":
                raise ZeroDivisionError
            return Rejected("scale", "scale", "a test", frame.data, frame.time_ns)

        device.plug()
        bench = start(pipeline=fail_once)
        bench.wait_open()
        device.send(b"\r\npoison\r\n")
        bench.wait_open(reopens=1)
        device.send(b"\r\ngood\r\n")
        wait_until(lambda: len(bench.intake) == 1, what="the next frame is in the queue")
        assert "serial.port.failed" in [record.message for record in caplog.records]
