"""Commands over a real pseudo-terminal: the test is the device at its other end, and the journal's writer."""

from __future__ import annotations

import re
import select
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest

from ds_gateway.commands import MqttMessage, Order, Progress, SerialMessage, SerialReply
from ds_gateway.config.serial_port import SerialSettings
from ds_gateway.errors import DeviceError
from ds_gateway.journal.intake import Intake
from ds_gateway.mapping import SerialPipeline
from ds_gateway.records import Record, Rejected
from ds_gateway.serial_port import SerialSource, open_port
from harness.pty_device import PtyDevice
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ds_gateway.commands import Delivery
    from ds_gateway.records import Frame
    from ds_gateway.serial_port import Port

_LONG_SECONDS: Final = 3600.0
_REPLY: Final = SerialReply(re.compile("^OK"), re.compile("^ERR"), timeout_seconds=_LONG_SECONDS)
_PTY_BUFFER_BYTES: Final = 64 * 1024
"""More than a pseudo-terminal takes while nobody reads from its other side."""


class _NoWait:
    def uniform(self, _a: float, _b: float) -> float:
        return 0.0


class _LongWait:
    def uniform(self, _a: float, _b: float) -> float:
        return _LONG_SECONDS


class _SlowPort:
    """A port whose driver says that it still holds bytes, as one whose line is slow or held does; else real."""

    def __init__(self, settings: SerialSettings) -> None:
        self._port = open_port(settings)
        self.held = threading.Event()
        self.held.set()
        self.discarded = threading.Event()

    def fileno(self) -> int:
        return self._port.fileno()

    @property
    def out_waiting(self) -> int:
        return 1 if self.held.is_set() else self._port.out_waiting

    def reset_output_buffer(self) -> None:
        self.discarded.set()
        self._port.reset_output_buffer()

    def close(self) -> None:
        self._port.close()


class _Clock:
    """The monotonic clock, which the test can put forward, and stop."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0
        self._stopped_at: float | None = None

    def stop(self) -> None:
        """From now on it goes only as far as it is put forward."""
        self._stopped_at = time.monotonic()

    def __call__(self) -> float:
        now = time.monotonic() if self._stopped_at is None else self._stopped_at
        return now + self.ahead_seconds


class _Bench:
    def __init__(self, device: PtyDevice, **more: Any) -> None:
        self.device = device
        self.clock = _Clock()
        self.told: dict[str, list[Progress]] = {}
        self.tellers: set[int] = set()
        """Threads that progress was told in."""
        self.intake = Intake("scale", max_items=100_000, max_bytes=100_000_000, wake=lambda: None)
        self.settings = SerialSettings.model_validate(
            {"port": str(device.path), "framing": {"line": {"delimiter": "\r\n"}}}
        )
        self.source = SerialSource(
            "scale",
            self.settings,
            pipeline=more.pop("pipeline", SerialPipeline("scale", "line-7", self.settings)),
            intake=self.intake,
            random=more.pop("random", _NoWait()),
            monotonic=self.clock,
            **more,
        )

    def start(self) -> None:
        self.source.start()

    def wait_open(self, reopens: int = 0) -> None:
        wait_until(
            lambda: self.source.snapshot().state == "open" and self.source.snapshot().reopens == reopens,
            what=f"the port is open, with {reopens} reopens",
        )

    def begin(self) -> None:
        """Plug in, start, and bring the line to a boundary."""
        self.device.plug()
        self.start()
        self.wait_open()
        self.say(b"\r\n")

    def order(
        self,
        name: str,
        data: bytes = b"T\r\n",
        *,
        reply: SerialReply | None = None,
        delivery: Delivery = "at_least_once",
        lifetime_seconds: float = _LONG_SECONDS,
        turnaround_seconds: float = 0.0,
    ) -> None:
        message = SerialMessage(data, reply, turnaround_seconds)
        order = Order(name, "scale", message, delivery, self.clock() + lifetime_seconds)
        told = self.told[name] = []

        def remember(progress: Progress) -> None:
            self.tellers.add(threading.get_ident())
            told.append(progress)

        self.source.send(order, remember)

    def statuses(self, name: str) -> list[str]:
        return [progress.status for progress in self.told[name]]

    def wait_told(self, name: str, *statuses: str) -> Progress:
        wait_until(lambda: len(self.told[name]) >= len(statuses), what=f"{name} is {statuses[-1]}")
        assert self.statuses(name) == list(statuses)
        return self.told[name][-1]

    def say(self, data: bytes) -> None:
        """Send as the device, and wait until the source has read it."""
        before = self.source.snapshot().received_bytes
        self.device.send(data)
        wait_until(lambda: self.source.snapshot().received_bytes >= before + len(data), what=f"{data!r} was read")

    def values(self) -> list[str]:
        """The readings that came, taken out of the queue."""
        found = []
        for item in self.intake.take(1_000_000, 1_000_000_000):
            assert isinstance(item.payload, Record)
            found.append(orjson.loads(b"{" + item.payload.tail)["data"]["value"])
        return found


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PtyDevice]:
    with PtyDevice(tmp_path / "usb-scale") as simulated:
        yield simulated


@pytest.fixture
def bench(device: PtyDevice) -> Iterator[_Bench]:
    bench = _Bench(device)
    yield bench
    assert bench.source.stop(), "the source did not stop"
    for name in bench.told:
        finals = [progress for progress in bench.told[name] if progress.is_final]
        assert len(finals) == 1, f"{name} ended {len(finals)} times"


@pytest.fixture
def slow(device: PtyDevice) -> Iterator[tuple[_Bench, list[_SlowPort]]]:
    ports: list[_SlowPort] = []

    def open_slow(settings: SerialSettings) -> Port:
        ports.append(_SlowPort(settings))
        return ports[-1]

    bench = _Bench(device, open_port=open_slow)
    yield bench, ports
    assert bench.source.stop(), "the source did not stop"


class TestWriting:
    def test_what_is_ordered_reaches_the_device_and_is_published(self, bench: _Bench) -> None:
        bench.begin()
        bench.order("a", b"T\r\n")
        assert bench.device.receive(3) == b"T\r\n"
        assert bench.wait_told("a", "published") == Progress("published", is_final=True)
        assert bench.tellers == {bench.source._thread.ident}  # type: ignore[union-attr]

    def test_orders_from_before_the_start_and_the_plug_are_written_in_their_order(self, bench: _Bench) -> None:
        bench.order("a", b"1\r\n")
        bench.start()
        bench.order("b", b"2\r\n")
        bench.device.plug()
        wait_until(lambda: bench.source.snapshot().state == "open", what="the port is open")
        assert bench.device.receive(6) == b"1\r\n2\r\n"
        bench.wait_told("a", "published")
        bench.wait_told("b", "published")

    def test_what_does_not_fit_into_the_buffer_is_written_in_parts_while_reading_goes_on(
        self, bench: _Bench
    ) -> None:
        bench.begin()
        data = bytes(range(256)) * (_PTY_BUFFER_BYTES // 256)
        bench.order("a", data)
        bench.say(b"1 kg\r\n")
        bench.say(b"2 kg\r\n")
        assert bench.statuses("a") == [], "it cannot be written yet"
        assert bench.device.receive(len(data)) == data
        bench.wait_told("a", "published")
        assert bench.values() == ["1 kg", "2 kg"]

    def test_published_is_when_the_driver_has_sent_the_last_byte(
        self, slow: tuple[_Bench, list[_SlowPort]]
    ) -> None:
        bench, ports = slow
        bench.begin()
        bench.order("a", reply=_REPLY)
        assert bench.device.receive(3) == b"T\r\n"
        bench.say(b"OK: an answer to nothing yet\r\n")
        assert bench.statuses("a") == []
        bench.say(b"OK: begun before, ")
        ports[0].held.clear()
        bench.wait_told("a", "published")
        bench.say(b"done after\r\n")
        assert bench.statuses("a") == ["published"]
        bench.say(b"OK 1\r\n")
        bench.wait_told("a", "published", "acknowledged")
        assert bench.values() == ["OK: an answer to nothing yet", "OK: begun before, done after"]

    def test_ten_thousand_at_once(self, bench: _Bench) -> None:
        bench.begin()
        expected = b"".join(b"%d\r\n" % number for number in range(10_000))
        for number in range(10_000):
            bench.order(str(number), b"%d\r\n" % number)
        assert bench.device.receive(len(expected)) == expected
        wait_until(
            lambda: all(told for told in bench.told.values()), timeout_seconds=60.0, what="all orders are told of"
        )
        assert {bench.statuses(name)[0] for name in bench.told} == {"published"}

    def test_the_snapshot_counts_what_waits_and_what_is_not_acknowledged(self, bench: _Bench) -> None:
        def counts() -> tuple[int, int]:
            snapshot = bench.source.snapshot()
            return snapshot.orders_waiting, snapshot.orders_unacknowledged

        bench.begin()
        bench.order("a", reply=_REPLY)
        bench.order("b", reply=_REPLY)
        bench.wait_told("a", "published")
        assert counts() == (1, 1)
        bench.device.send(b"OK\r\n")
        bench.wait_told("b", "published")
        assert counts() == (0, 1)
        bench.device.send(b"OK\r\n")
        bench.wait_told("b", "published", "acknowledged")
        assert counts() == (0, 0)

    def test_what_is_not_for_a_serial_port_is_refused(self, bench: _Bench) -> None:
        order = Order("x", "lamp", MqttMessage("set", b"1"), "at_least_once", 1.0)
        with pytest.raises(TypeError, match="the command x for lamp is not for the port scale"):
            bench.source.send(order, print)


class TestAnswers:
    def test_the_answer_is_no_reading_and_telemetry_goes_on(self, bench: _Bench) -> None:
        bench.begin()
        bench.say(b"1 kg\r\nOK unasked\r\n")
        bench.order("a", reply=_REPLY)
        bench.device.receive(3)
        bench.wait_told("a", "published")
        for number in range(200):
            bench.device.send(b"%d kg\r\n" % number)
        bench.say(b"OK tared\r\nlast kg\r\n")
        assert bench.wait_told("a", "published", "acknowledged").reply == "OK tared"
        assert bench.values() == ["1 kg", "OK unasked", *(f"{number} kg" for number in range(200)), "last kg"]
        assert (bench.source.snapshot().answers, bench.source.snapshot().received_frames) == (1, 204)

    def test_an_answer_in_pieces_among_noise(self, bench: _Bench) -> None:
        bench.begin()
        bench.order("a", reply=_REPLY)
        bench.device.receive(3)
        bench.wait_told("a", "published")
        for piece in (b"\xff\x00\x81\r\n", b"O", b"K", b" 1\r", b"\n", b"\xfe\r\n"):
            bench.say(piece)
        assert bench.wait_told("a", "published", "acknowledged").reply == "OK 1"
        assert len(bench.values()) == 2

    def test_a_refusal_fails_it_with_the_devices_words(self, bench: _Bench) -> None:
        bench.begin()
        bench.order("a", reply=_REPLY)
        bench.device.receive(3)
        bench.say(b"ERR overload\r\n")
        assert bench.wait_told("a", "published", "failed").reply == "ERR overload"

    def test_an_answer_that_comes_twice_is_a_reading_the_second_time(self, bench: _Bench) -> None:
        bench.begin()
        bench.order("a", reply=_REPLY)
        bench.device.receive(3)
        bench.say(b"OK\r\nOK again\r\n")
        bench.wait_told("a", "published", "acknowledged")
        assert bench.values() == ["OK again"]

    def test_a_device_that_never_answers_is_asked_again_and_given_up(self, bench: _Bench) -> None:
        bench.begin()
        reply = SerialReply(re.compile("OK"), timeout_seconds=100.0, retries=1)
        bench.order("a", reply=reply)
        bench.device.receive(3)
        bench.wait_told("a", "published")
        bench.clock.ahead_seconds += 100.0
        bench.say(b"1 kg\r\n")
        assert bench.device.receive(3) == b"T\r\n"
        bench.clock.ahead_seconds += 100.0
        progress = bench.wait_told("a", "published", "unknown")
        assert progress.reason == "no answer within 100 s"

    def test_an_answer_that_is_later_than_that_is_a_reading(self, bench: _Bench) -> None:
        bench.begin()
        bench.order("a", reply=SerialReply(re.compile("OK"), timeout_seconds=100.0))
        bench.device.receive(3)
        bench.wait_told("a", "published")
        bench.clock.ahead_seconds += 100.0
        bench.wait_told("a", "published", "unknown")
        bench.say(b"OK\r\n")
        assert bench.values() == ["OK"]

    def test_the_echo_of_a_line_is_a_reading_unless_the_pattern_matches_it(self, bench: _Bench) -> None:
        bench.begin()
        bench.order("a", b"SET OK\r\n", reply=_REPLY)
        bench.say(bench.device.receive(8))
        assert bench.statuses("a") == ["published"]
        bench.say(b"OK\r\n")
        bench.wait_told("a", "published", "acknowledged")
        assert bench.values() == ["SET OK"]

    def test_what_lay_unread_when_it_was_written_is_no_answer(self, device: PtyDevice) -> None:
        """The thread is held up between its reading and its writing, while what looks like an answer comes."""
        entered, release = threading.Event(), threading.Event()

        def hold_up(frame: Frame) -> Rejected:
            if frame.data == b"hold":
                entered.set()
                assert release.wait(20)
            return Rejected("scale", "scale", "a test", frame.data, frame.time_ns)

        bench = _Bench(device, pipeline=hold_up)
        bench.begin()
        device.send(b"hold\r\n")
        assert entered.wait(20)
        bench.order("a", reply=_REPLY)
        device.send(b"OK early\r\n")
        with device.path.open("rb", buffering=0) as line:
            assert select.select([line], [], [], 20)[0], "it is there to be read"
        release.set()
        assert device.receive(3) == b"T\r\n"
        bench.say(b"OK\r\n")
        assert bench.wait_told("a", "published", "acknowledged").reply == "OK"
        assert bench.source.stop()


class TestAfterTheOpening:
    """Who opens a port may hear the tail of a frame first, and a device that speaks when asked has none."""

    def test_the_first_answer_of_a_silent_device_is_heard(self, bench: _Bench) -> None:
        bench.order("a", reply=_REPLY)
        bench.device.plug()
        bench.start()
        bench.wait_open()
        assert bench.device.receive(3) == b"T\r\n"
        bench.say(b"OK tared\r\n")
        assert bench.wait_told("a", "published", "acknowledged").reply == "OK tared"
        assert bench.source.snapshot().received_frames == 1

    def test_and_again_after_it_was_replugged(self, bench: _Bench) -> None:
        bench.begin()
        bench.device.plug()
        bench.wait_open(reopens=1)
        bench.order("a")
        assert bench.device.receive(3) == b"T\r\n"
        bench.wait_told("a", "published")
        bench.say(b"1 kg\r\n")
        assert bench.values() == ["1 kg"], "without a reply the line is at a boundary, too"

    def test_a_tail_that_came_before_the_write_is_no_frame(self, bench: _Bench) -> None:
        bench.device.plug()
        bench.start()
        bench.wait_open()
        bench.say(b"OK: the tail of ")
        bench.order("a", reply=_REPLY)
        assert bench.device.receive(3) == b"T\r\n"
        bench.wait_told("a", "published")
        bench.say(b"a frame that is OK\r\n1 kg\r\nOK\r\n")
        assert bench.wait_told("a", "published", "acknowledged").reply == "OK"
        assert bench.values() == ["1 kg"]

    def test_nor_is_one_that_came_before_the_last_byte_left(self, slow: tuple[_Bench, list[_SlowPort]]) -> None:
        bench, ports = slow
        bench.device.plug()
        bench.start()
        bench.order("a", reply=_REPLY)
        bench.wait_open()
        assert bench.device.receive(3) == b"T\r\n"
        bench.say(b"5 ")
        ports[0].held.clear()
        bench.wait_told("a", "published")
        bench.say(b"kg OK\r\nOK\r\n")
        assert bench.wait_told("a", "published", "acknowledged").reply == "OK"
        assert bench.values() == []

    def test_nothing_is_written_before_a_frame_that_was_under_way_can_show_itself(self, bench: _Bench) -> None:
        bench.clock.stop()
        bench.device.plug()
        bench.start()
        bench.wait_open()
        bench.order("a", reply=_REPLY)
        bench.say(b"5 ")
        assert not bench.device.is_readable()
        bench.clock.ahead_seconds += 1.0
        bench.say(b"kg\r\n")
        assert bench.device.receive(3) == b"T\r\n"
        bench.say(b"OK\r\n")
        bench.wait_told("a", "published", "acknowledged")
        assert bench.values() == []


class TestSilentLine:
    def test_a_device_that_babbles_holds_it_up_to_its_deadline_only(self, bench: _Bench) -> None:
        bench.begin()
        bench.order("a", turnaround_seconds=50.0, lifetime_seconds=100.0)
        for number in range(1, 12):
            bench.clock.ahead_seconds += 10.0
            bench.say(b"%d kg\r\n" % number)
        assert "not silent for long enough" in bench.wait_told("a", "expired").reason
        assert not bench.device.is_readable()
        assert len(bench.values()) == 11

    def test_it_is_written_when_the_line_was_silent(self, bench: _Bench) -> None:
        bench.begin()
        bench.order("a", turnaround_seconds=50.0)
        bench.say(b"1 kg\r\n")
        assert not bench.device.is_readable()
        bench.clock.ahead_seconds += 60.0
        bench.wait_told("a", "published")
        assert bench.device.receive(3) == b"T\r\n"


class TestUnplugging:
    @pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
    def test_before_the_first_byte_it_waits_for_the_port(self, bench: _Bench, delivery: Delivery) -> None:
        bench.begin()
        bench.order("a", turnaround_seconds=1000.0, delivery=delivery)
        bench.say(b"1 kg\r\n")
        bench.device.plug()
        bench.wait_open(reopens=1)
        bench.clock.ahead_seconds += 1000.0
        assert bench.device.receive(3) == b"T\r\n"
        bench.wait_told("a", "published")

    def test_it_expires_while_the_port_is_gone(self, bench: _Bench) -> None:
        bench.start()
        bench.order("a", lifetime_seconds=0.05)
        bench.order("b", lifetime_seconds=0.05)
        for name in ("a", "b"):
            assert "the port is not open" in bench.wait_told(name, "expired").reason

    @pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
    def test_in_the_middle_of_the_bytes(self, bench: _Bench, delivery: Delivery) -> None:
        bench.begin()
        data = b"x" * _PTY_BUFFER_BYTES
        bench.order("a", data, delivery=delivery)
        assert bench.device.receive(1) == b"x"
        bench.device.plug()
        bench.wait_open(reopens=1)
        if delivery == "at_least_once":
            assert bench.device.receive(len(data)) == data, "from its first byte again"
            bench.wait_told("a", "published")
        else:
            assert "vanished" in bench.wait_told("a", "unknown").reason
            bench.say(b"\r\n1 kg\r\n")
            assert not bench.device.is_readable()

    @pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
    def test_while_the_driver_still_sends(self, slow: tuple[_Bench, list[_SlowPort]], delivery: Delivery) -> None:
        bench, ports = slow
        bench.begin()
        bench.order("a", delivery=delivery)
        assert bench.device.receive(3) == b"T\r\n"
        bench.device.plug()
        bench.wait_open(reopens=1)
        ports[-1].held.clear()
        if delivery == "at_least_once":
            assert bench.device.receive(3) == b"T\r\n"
            bench.wait_told("a", "published")
        else:
            bench.wait_told("a", "unknown")

    @pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
    def test_after_the_write_before_the_answer(self, bench: _Bench, delivery: Delivery) -> None:
        bench.begin()
        bench.order("a", reply=_REPLY, delivery=delivery)
        assert bench.device.receive(3) == b"T\r\n"
        bench.wait_told("a", "published")
        bench.device.plug()
        bench.wait_open(reopens=1)
        if delivery == "at_least_once":
            assert bench.device.receive(3) == b"T\r\n"
            bench.say(b"\r\nOK\r\n")
            bench.wait_told("a", "published", "acknowledged")
        else:
            bench.wait_told("a", "published", "unknown")
            bench.say(b"\r\nOK\r\n")
            assert bench.values() == ["OK"]

    def test_after_all_is_done_nothing_is_written_again(self, bench: _Bench) -> None:
        bench.begin()
        bench.order("a")
        bench.device.receive(3)
        bench.wait_told("a", "published")
        bench.device.plug()
        bench.wait_open(reopens=1)
        bench.order("b", b"next\r\n")
        assert bench.device.receive(6) == b"next\r\n"
        bench.wait_told("b", "published")

    def test_many_orders_do_not_hurry_the_opening(self, device: PtyDevice) -> None:
        opened: list[SerialSettings] = []

        def refuse(settings: SerialSettings) -> Port:
            opened.append(settings)
            raise DeviceError("not there")

        bench = _Bench(device, open_port=refuse, random=_LongWait())
        bench.start()
        wait_until(lambda: bench.source.snapshot().reason == "not there", what="it was tried once")
        for number in range(1000):
            bench.order(str(number), lifetime_seconds=0.2)
        wait_until(lambda: all(bench.told.values()), what="all have expired")
        assert len(opened) == 1
        assert bench.source.stop()


class TestFlowControl:
    def test_a_line_that_is_held_takes_nothing_and_reading_goes_on(self, bench: _Bench) -> None:
        bench.begin()
        with bench.device.held():
            bench.order("a")
            bench.say(b"1 kg\r\n")
            alive_at = bench.source.alive_at
            wait_until(lambda: bench.source.alive_at > alive_at + 1.0, what="the thread turns")
            assert bench.statuses("a") == []
            bench.clock.ahead_seconds += 6.0
            progress = bench.wait_told("a", "failed")
            assert "took 0 of 3 bytes" in progress.reason
            bench.order("b", lifetime_seconds=3.0)
            bench.say(b"2 kg\r\n")
            wait_until(lambda: bench.source._orders.is_writing, what="the port was given it")
            bench.clock.ahead_seconds += 3.0
            assert "takes no byte" in bench.wait_told("b", "expired").reason
        bench.order("c", b"next\r\n")
        assert bench.device.receive(6) == b"next\r\n"
        bench.wait_told("c", "published")
        assert bench.values() == ["1 kg", "2 kg"]

    def test_half_of_it_taken_is_unknown_and_the_rest_never_leaves(self, bench: _Bench) -> None:
        bench.begin()
        bench.order("a", b"x" * _PTY_BUFFER_BYTES)
        assert bench.device.receive(1) == b"x"
        bench.clock.ahead_seconds += 1000.0
        assert "of 65536 bytes" in bench.wait_told("a", "unknown").reason
        bench.order("b", b"next\r\n")
        bench.wait_told("b", "published")
        found = bench.device.receive_to(b"next\r\n")
        assert len(found) < _PTY_BUFFER_BYTES
        bench.say(b"1 kg\r\n")
        assert not bench.device.is_readable()

    def test_a_driver_that_never_drains(self, slow: tuple[_Bench, list[_SlowPort]]) -> None:
        bench, ports = slow
        bench.begin()
        bench.order("a")
        bench.say(b"1 kg\r\n")
        assert bench.device.receive(3) == b"T\r\n"
        bench.clock.ahead_seconds += 10.0
        assert "took 3 of 3 bytes" in bench.wait_told("a", "unknown").reason
        assert ports[0].discarded.is_set(), "what the driver holds must not leave later"
        assert bench.values() == ["1 kg"]


class TestStopping:
    def test_open_orders_end_as_far_as_they_got(self, bench: _Bench) -> None:
        bench.begin()
        bench.order("a", reply=_REPLY)
        bench.order("b")
        bench.wait_told("a", "published")
        assert bench.source.stop()
        assert bench.statuses("a") == ["published", "unknown"]
        assert bench.told["b"] == [Progress("expired", is_final=True, reason="the gateway stops")]
        bench.order("c")
        assert bench.statuses("c") == ["expired"], "also what comes afterwards"

    def test_also_where_it_was_never_started(self, bench: _Bench) -> None:
        bench.order("a")
        assert bench.source.stop()
        assert bench.statuses("a") == ["expired"]

    def test_what_the_driver_holds_does_not_leave_afterwards(self, slow: tuple[_Bench, list[_SlowPort]]) -> None:
        bench, ports = slow
        bench.begin()
        bench.order("a")
        assert bench.device.receive(3) == b"T\r\n"
        assert bench.source.stop()
        assert bench.statuses("a") == ["unknown"]
        assert ports[0].discarded.is_set()

    def test_with_orders_coming_from_many_threads_each_ends_once(self, bench: _Bench) -> None:
        bench.begin()
        go = threading.Event()

        def give(first: int) -> None:
            for number in range(first, first + 500):
                bench.order(str(number), b"%d\r\n" % number)
                if number == first + 100:
                    go.set()

        threads = [threading.Thread(target=give, args=(first,)) for first in (0, 1000, 2000)]
        for thread in threads:
            thread.start()
        assert go.wait(20)
        assert bench.source.stop()
        for thread in threads:
            thread.join()
        assert len(bench.told) == 1500
