"""The orders of a port, driven by every sequence of events that hypothesis can think of, and by some by hand."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ds_gateway.commands import MqttMessage, Order, Progress, SerialMessage, SerialReply
from ds_gateway.serial_port.orders import CONFIRM_SECONDS, Orders

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.commands import Delivery

_REPLY: Final = SerialReply(re.compile("OK"), re.compile("ERR"), timeout_seconds=2.0, retries=1)


def _order(
    name: str,
    *,
    deadline: float = 1000.0,
    delivery: Delivery = "at_least_once",
    reply: SerialReply | None = None,
    turnaround_seconds: float = 0.0,
) -> Order:
    message = SerialMessage(name.encode(), reply, turnaround_seconds)
    return Order(name, "scale", message, delivery, deadline)


class _Desk:
    """Orders with a clock; the test plays the port."""

    def __init__(self) -> None:
        self.now = 100.0
        self.orders = Orders(9600)
        self.told: dict[str, list[Progress]] = {}

    def add(self, order: Order) -> None:
        self.told[order.command_id] = []
        self.orders.add(order, self.told[order.command_id].append)
        self.look()

    def look(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.orders.advance(self.now)
        self.tell()

    def tell(self) -> None:
        for on_progress, progress in self.orders.take_told():
            on_progress(progress)

    def opened(self) -> None:
        self.orders.opened(self.now)
        self.look()

    def closed(self) -> None:
        self.orders.closed()
        self.look()

    def write(self, count: int | None = None) -> bytes:
        """Begin, and let the driver take so many bytes, or all, and send them."""
        assert self.orders.wants_to_begin(self.now)
        self.orders.begin(self.now)
        data = self.orders.unwritten
        self.orders.wrote(len(data) if count is None else count, self.now)
        if count is None:
            self.orders.drained(self.now, 0)
            self.look()
        return data

    def hear(self, *frames: bytes) -> list[bytes]:
        self.orders.received(self.now)
        others = self.orders.heard(frames, 0)
        self.look()
        return others

    def statuses(self, name: str) -> list[str]:
        return [progress.status for progress in self.told[name]]

    def reason(self, name: str) -> str:
        return self.told[name][-1].reason


@pytest.fixture
def desk() -> _Desk:
    return _Desk()


class TestTurns:
    def test_one_at_a_time_as_they_came(self, desk: _Desk) -> None:
        desk.opened()
        for name in ("a", "b", "c"):
            desk.add(_order(name, reply=_REPLY if name == "a" else None))
        assert desk.write() == b"a"
        assert not desk.orders.wants_to_begin(desk.now)
        assert desk.hear(b"1 kg", b"OK", b"OK") == [b"1 kg", b"OK"]
        assert [desk.write(), desk.write()] == [b"b", b"c"]
        assert desk.statuses("a") == ["published", "acknowledged"]
        assert desk.told["a"][-1].reply == "OK"
        assert (desk.statuses("b"), desk.statuses("c")) == (["published"], ["published"])
        assert not desk.orders.wants_to_begin(desk.now)

    def test_a_refusal_is_a_failure_with_the_devices_words(self, desk: _Desk) -> None:
        desk.opened()
        desk.add(_order("a", reply=_REPLY))
        desk.write()
        assert desk.hear(b"ERR 5") == []
        assert desk.told["a"][-1] == Progress("failed", True, "the device refused it", "ERR 5")
        assert desk.orders.answers == 1

    def test_the_line_is_silent_before_and_after(self, desk: _Desk) -> None:
        desk.opened()
        desk.add(_order("a", turnaround_seconds=0.5))
        assert desk.orders.due() == desk.now + 0.5
        desk.look(0.4)
        desk.hear(b"1 kg")
        desk.look(0.4)
        assert not desk.orders.wants_to_begin(desk.now)
        desk.look(0.2)
        desk.write()
        desk.add(_order("b"))
        assert not desk.orders.wants_to_begin(desk.now), "b needs no silence, but a needs it after itself"
        desk.look(0.6)
        desk.write()
        desk.add(_order("c"))
        assert desk.write() == b"c"

    def test_what_is_no_order_for_a_port_is_refused(self, desk: _Desk) -> None:
        order = Order("x", "lamp", MqttMessage("set", b"1"), "at_least_once", 1000.0)
        with pytest.raises(TypeError, match="the order x for lamp is not for a serial port"):
            desk.orders.add(order, print)


class TestDeadlines:
    def test_behind_a_closed_port(self, desk: _Desk) -> None:
        desk.add(_order("a", deadline=110.0))
        desk.add(_order("b", deadline=105.0))
        assert desk.orders.due() == 105.0
        desk.look(5.0)
        assert (desk.statuses("a"), desk.statuses("b")) == ([], ["expired"])
        desk.look(5.0)
        assert "the port is not open" in desk.reason("a")
        assert "the port is not open" in desk.reason("b")

    def test_behind_a_device_that_babbles(self, desk: _Desk) -> None:
        desk.opened()
        desk.add(_order("a", deadline=110.0, turnaround_seconds=0.5))
        for _ in range(40):
            assert not desk.orders.wants_to_begin(desk.now)
            desk.hear(b"blah")
            desk.look(0.25)
        assert desk.statuses("a") == ["expired"]
        assert "not silent" in desk.reason("a")

    def test_behind_another_order(self, desk: _Desk) -> None:
        desk.opened()
        desk.add(_order("a", reply=_REPLY))
        desk.write()
        desk.add(_order("b", deadline=101.0))
        desk.look(1.0)
        assert desk.statuses("b") == ["expired"]
        assert "others were before it" in desk.reason("b")

    def test_a_port_that_takes_nothing_until_the_deadline(self, desk: _Desk) -> None:
        desk.opened()
        desk.add(_order("abc", deadline=102.0))
        desk.write(0)
        desk.look(2.0)
        assert desk.statuses("abc") == ["expired"]
        assert desk.orders.take_discard()

    def test_once_begun_it_does_not_matter(self, desk: _Desk) -> None:
        desk.opened()
        desk.add(_order("abc", deadline=102.0))
        desk.write(1)
        desk.look(2.0)
        assert (desk.statuses("abc"), desk.orders.unwritten) == ([], b"bc")

    def test_the_memory_of_deadlines_is_bounded(self, desk: _Desk) -> None:
        desk.opened()
        for number in range(1000):
            desk.add(_order(str(number), deadline=1e9))
            desk.write()
        assert len(desk.orders._deadlines) <= 65


class TestStuck:
    @pytest.mark.parametrize(("taken", "status"), [(0, "failed"), (1, "unknown"), (3, "unknown")])
    def test_what_the_port_does_not_send_is_given_up(self, desk: _Desk, taken: int, status: str) -> None:
        desk.opened()
        desk.add(_order("abc"))
        desk.write(taken)
        assert 105.0 < desk.orders.due() < 105.1
        desk.look(5.1)
        assert desk.statuses("abc") == [status]
        assert f"took {taken} of 3 bytes" in desk.reason("abc")
        assert (desk.orders.take_discard(), desk.orders.take_discard()) == (True, False)


class TestVanishing:
    @pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
    def test_before_its_first_byte_it_waits(self, desk: _Desk, delivery: Delivery) -> None:
        desk.opened()
        desk.add(_order("abc", delivery=delivery))
        desk.write(0)
        desk.closed()
        assert not desk.orders.wants_to_begin(desk.now)
        desk.opened()
        assert desk.write() == b"abc"
        assert desk.statuses("abc") == ["published"]

    @pytest.mark.parametrize("count", [1, 3, None])
    def test_after_it_once_is_once(self, desk: _Desk, count: int | None) -> None:
        desk.opened()
        desk.add(_order("abc", delivery="at_most_once", reply=_REPLY))
        desk.write(count)
        desk.closed()
        assert desk.statuses("abc")[-1] == "unknown"
        assert "vanished" in desk.reason("abc")
        desk.opened()
        assert not desk.orders.wants_to_begin(desk.now)

    @pytest.mark.parametrize("count", [1, 3, None])
    def test_and_at_least_once_is_again(self, desk: _Desk, count: int | None) -> None:
        desk.opened()
        desk.add(_order("abc", deadline=101.0, reply=_REPLY))
        desk.write(count)
        desk.closed()
        desk.look(CONFIRM_SECONDS - 1)
        desk.opened()
        assert desk.write() == b"abc"
        desk.hear(b"OK")
        assert desk.statuses("abc") == ["published", "acknowledged"], "published is told once"

    def test_but_not_for_ever(self, desk: _Desk) -> None:
        desk.opened()
        desk.add(_order("abc", deadline=101.0))
        desk.write(1)
        desk.closed()
        desk.look(CONFIRM_SECONDS - 1)
        assert desk.statuses("abc") == []
        desk.look(1.0)
        assert desk.statuses("abc") == ["unknown"]
        assert "the port is not open" in desk.reason("abc")


class TestSilence:
    def test_again_while_retries_are_left(self, desk: _Desk) -> None:
        desk.opened()
        desk.add(_order("a", reply=_REPLY))
        desk.write()
        desk.look(2.0)
        desk.write()
        desk.look(2.0)
        assert desk.statuses("a") == ["published", "unknown"]
        assert desk.reason("a") == "no answer within 2 s"

    def test_at_most_once_is_never_written_again_whatever_is_asked_for(self, desk: _Desk) -> None:
        desk.opened()
        desk.add(_order("a", reply=_REPLY, delivery="at_most_once"))
        desk.write()
        desk.look(2.0)
        assert desk.statuses("a") == ["published", "unknown"]


class TestStop:
    def test_each_order_ends_as_far_as_it_got(self, desk: _Desk) -> None:
        desk.opened()
        desk.add(_order("a", reply=_REPLY))
        desk.add(_order("b"))
        desk.write()
        desk.orders.stop()
        desk.tell()
        assert (desk.statuses("a"), desk.statuses("b")) == (["published", "unknown"], ["expired"])


class OrdersMachine(RuleBasedStateMachine):
    """Whatever happens, in whatever order: the promises of `Orders`."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = _Desk()
        self.given: dict[str, Order] = {}
        self.begun: list[str] = []
        """Whose first byte was offered to the driver, each time."""
        self.left: dict[str, int] = {}
        """How many attempts the driver took a byte of."""
        self.current = ""
        self.took_in_attempt = False
        self.is_open = False

    @property
    def orders(self) -> Orders:
        return self.desk.orders

    @rule(
        delivery=st.sampled_from(["at_least_once", "at_most_once"]),
        lifetime=st.sampled_from([0.0, 1.0, 30.0, 300.0]),
        reply=st.sampled_from([None, _REPLY]),
        turnaround=st.sampled_from([0.0, 0.5]),
    )
    def add(self, delivery: Delivery, lifetime: float, reply: SerialReply | None, turnaround: float) -> None:
        name = f"c{len(self.given)}"
        deadline = self.desk.now + lifetime
        order = _order(name, deadline=deadline, delivery=delivery, reply=reply, turnaround_seconds=turnaround)
        self.given[name] = order
        self.desk.add(order)

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 6.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.desk.look(seconds)

    @rule()
    def wait_until_due(self) -> None:
        due = self.orders.due()
        if self.desk.now < due < math.inf:
            self.desk.look(due - self.desk.now)

    @precondition(lambda self: not self.is_open)
    @rule()
    def plug(self) -> None:
        self.is_open = True
        self.desk.opened()

    @precondition(lambda self: self.is_open)
    @rule()
    def unplug(self) -> None:
        self.is_open = False
        self.desk.closed()

    @precondition(lambda self: self.orders.wants_to_begin(self.desk.now))
    @rule()
    def begin(self) -> None:
        assert self.is_open
        self.orders.begin(self.desk.now)
        self.current = self.orders.unwritten.decode()
        self.took_in_attempt = False
        self.begun.append(self.current)
        order = self.given[self.current]
        if self.current not in self.left:
            assert self.desk.now < order.deadline, "its first byte is offered before its deadline only"
        elif order.delivery == "at_most_once":
            raise AssertionError("at most once is once")

    @precondition(lambda self: self.orders.unwritten)
    @rule(count=st.sampled_from([0, 1, 2, 99]))
    def write(self, count: int) -> None:
        count = min(count, len(self.orders.unwritten))
        if count and not self.took_in_attempt:
            self.took_in_attempt = True
            self.left[self.current] = self.left.get(self.current, 0) + 1
        self.orders.wrote(count, self.desk.now)

    @precondition(lambda self: self.orders.is_draining)
    @rule(begun_bytes=st.sampled_from([0, 3]))
    def drain(self, begun_bytes: int) -> None:
        self.orders.drained(self.desk.now, begun_bytes)
        self.desk.look()

    @rule(frames=st.lists(st.sampled_from([b"OK", b"ERR", b"1 kg"]), max_size=3))
    def hear(self, frames: list[bytes]) -> None:
        before = self.orders.answers
        others = self.desk.hear(*frames)
        taken = self.orders.answers - before
        assert taken <= 1, "one frame is the answer"
        assert len(others) == len(frames) - taken, "and all others are readings"
        assert others.count(b"1 kg") == frames.count(b"1 kg")
        if taken:
            assert self.current in self.left, "an answer to what was never written"

    @invariant()
    def one_end_each(self) -> None:
        for name, told in self.desk.told.items():
            assert sum(progress.is_final for progress in told) <= 1
            assert all(not progress.is_final for progress in told[:-1])
            if told and told[-1].status == "expired":
                assert name not in self.left, "not a byte of what expired may have left"
            if told and told[-1].status == "unknown":
                assert name in self.left

    @invariant()
    def nothing_outlives_its_time(self) -> None:
        """What was never written ends with its deadline; everything else some time after it."""
        for name, told in self.desk.told.items():
            order = self.given[name]
            if told and told[-1].is_final:
                continue
            if name not in self.left:
                assert self.desk.now < order.deadline
            else:
                assert self.orders.due() < math.inf, "an open order is always looked at again"

    def teardown(self) -> None:
        self.orders.stop()
        self.desk.tell()
        for name, told in self.desk.told.items():
            assert [progress.is_final for progress in told].count(True) == 1, name
        by_first_begin: Callable[[str], int] = self.begun.index
        assert sorted(set(self.begun), key=by_first_begin) == [
            name for name in self.given if name in self.begun
        ], "they are begun as they came"


TestOrdersMachine = OrdersMachine.TestCase
TestOrdersMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
