from __future__ import annotations

import os
import socket
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from ds_gateway.notify import Feeding, Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Manager:
    """The service manager's end: a bound datagram socket."""

    def __init__(self, address: str) -> None:
        self.environ = {"NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(10)

    def received(self) -> str:
        return self._socket.recv(4096).decode()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@ds-gateway-{uuid.uuid4()}"
    manager = Manager(address)
    yield manager
    manager.close()


class TestNotifications:
    def test_ready_comes_with_what_the_gateway_does(self, manager: Manager) -> None:
        Notifier.from_environ(manager.environ).ready("2 sources, server away")
        assert manager.received() == "READY=1\nSTATUS=2 sources, server away"

    def test_ready_alone(self, manager: Manager) -> None:
        Notifier.from_environ(manager.environ).ready()
        assert manager.received() == "READY=1"

    def test_the_watchdog_is_fed(self, manager: Manager) -> None:
        notifier = Notifier.from_environ(manager.environ)
        notifier.watchdog()
        notifier.watchdog()
        assert [manager.received(), manager.received()] == ["WATCHDOG=1"] * 2

    def test_reloading_carries_the_instant_by_which_the_manager_tells_old_from_new(self, manager: Manager) -> None:
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        Notifier.from_environ(manager.environ).reloading("taking it up")
        state, instant, status = manager.received().split("\n")
        assert (state, status) == ("RELOADING=1", "STATUS=taking it up")
        name, _, value = instant.partition("=")
        assert name == "MONOTONIC_USEC"
        assert before <= int(value) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    def test_stopping_says_why(self, manager: Manager) -> None:
        Notifier.from_environ(manager.environ).stopping("draining")
        assert manager.received() == "STOPPING=1\nSTATUS=draining"

    def test_a_status_cannot_smuggle_in_another_assignment(self, manager: Manager) -> None:
        Notifier.from_environ(manager.environ).status("device said:\nREADY=1\r\n  caf\u00e9 \ud800")
        assert manager.received() == "STATUS=device said: READY=1 caf\u00e9 ?"


class TestNobodyListens:
    def test_without_a_service_manager_nothing_happens(self) -> None:
        Notifier.from_environ({}).ready("fine")

    def test_a_manager_that_is_gone_does_not_stop_the_work(self, tmp_path: Path) -> None:
        Notifier.from_environ({"NOTIFY_SOCKET": str(tmp_path / "gone")}).watchdog()

    @pytest.mark.parametrize("address", ["", "@", "/", "vsock:2:1234", "relative"])
    def test_an_unusable_address_counts_as_none(self, address: str) -> None:
        Notifier.from_environ({"NOTIFY_SOCKET": address}).watchdog()

    def test_an_address_too_long_for_a_socket_does_not_stop_the_work(self) -> None:
        Notifier.from_environ({"NOTIFY_SOCKET": "/" + "x" * 500}).watchdog()

    def test_a_full_queue_loses_the_notification_and_does_not_wait(self, manager: Manager) -> None:
        notifier = Notifier.from_environ(manager.environ)
        for _ in range(2000):  # beyond any net.unix.max_dgram_qlen in use
            notifier.watchdog()
        assert manager.received() == "WATCHDOG=1"


class TestTheWatchdogsLimit:
    def test_it_is_given_in_seconds(self) -> None:
        assert Notifier.from_environ({"WATCHDOG_USEC": "60500000"}).watchdog_seconds == 60.5

    def test_it_is_ours_when_it_names_this_process(self) -> None:
        environ = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
        assert Notifier.from_environ(environ).watchdog_seconds == 1.0

    def test_it_is_not_ours_when_it_names_another_process(self) -> None:
        environ = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid() + 1)}
        assert Notifier.from_environ(environ).watchdog_seconds is None

    @pytest.mark.parametrize("value", ["", "0", "-1", "soon", "1.5", "\u00b2"])
    def test_a_value_that_is_no_time_counts_as_absent(self, value: str) -> None:
        assert Notifier.from_environ({"WATCHDOG_USEC": value}).watchdog_seconds is None


class TestFeedingAtTheEnd:
    def test_goes_on_while_something_lives(self) -> None:
        feeding = Feeding(ends_at=160.0, stalled_seconds=45.0)
        assert feeding.is_due(alive_at=100.0, now=100.0)
        assert feeding.is_due(alive_at=100.0, now=144.0)
        assert not feeding.is_due(alive_at=100.0, now=145.0)
        assert feeding.is_due(alive_at=150.0, now=150.0)

    def test_has_a_bound(self) -> None:
        feeding = Feeding(ends_at=160.0, stalled_seconds=45.0)
        assert feeding.is_due(alive_at=159.0, now=159.9)
        assert not feeding.is_due(alive_at=160.0, now=160.0)
