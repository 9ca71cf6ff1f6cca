from __future__ import annotations

import pytest

from ds_gateway.journal.intake import Intake
from ds_gateway.mqtt.handover import OVERRUN, Handover
from ds_gateway.mqtt.tokens import SessionStart
from ds_gateway.records import Item, Loss
from harness.mqtt_gates import delivery, names

START = Item(None, SessionStart(present=False, acked=0, generation=1))


@pytest.fixture
def intake() -> Intake:
    return Intake("broker", max_items=2, max_bytes=100_000, wake=lambda: None)


@pytest.fixture
def handover(intake: Intake) -> Handover:
    return Handover(intake, window=10, max_unacked_bytes=50_000)


def messages(first: int, last: int, *, qos: int = 1) -> list[Item]:
    return [delivery(f"m{mid}", mid, qos=qos) for mid in range(first, last + 1)]


def taken(intake: Intake) -> list[str]:
    return names(intake.take(100, 100_000))


class TestAHandover:
    def test_passes_on_what_the_intake_takes(self, handover: Handover, intake: Intake) -> None:
        handover.add(messages(1, 2))
        assert taken(intake) == ["m1", "m2"]
        assert (handover.unacked, handover.waiting) == (2, False)

    def test_keeps_the_order_when_the_intake_refuses(self, handover: Handover, intake: Intake) -> None:
        handover.add(messages(1, 2))
        handover.add(messages(3, 3))
        handover.add(messages(4, 4))
        assert handover.waiting
        assert taken(intake) == ["m1", "m2"]
        assert handover.offer()
        assert taken(intake) == ["m3", "m4"]

    def test_counts_qos_0_messages_for_which_there_is_no_room(self, handover: Handover, intake: Intake) -> None:
        handover.add(messages(1, 2))
        handover.add([*messages(3, 4, qos=0), *messages(5, 5)])
        assert handover.lost_qos0 == 2
        taken(intake)
        handover.offer()
        message, loss = intake.take(100, 100_000)
        assert names([message]) == ["m5"]
        assert isinstance(loss.payload, Loss)
        assert (loss.payload.cause, loss.payload.certain, loss.payload.count) == ("qos0", True, 2)
        handover.offer()
        assert len(intake) == 0
        assert handover.lost_qos0 == 2

    def test_keeps_the_loss_when_the_connection_ends(self, handover: Handover, intake: Intake) -> None:
        handover.add(messages(1, 2))
        handover.add(messages(3, 4, qos=0))
        handover.disconnected()
        taken(intake)
        handover.add([])
        (loss,) = intake.take(100, 100_000)
        assert isinstance(loss.payload, Loss)
        assert loss.payload.count == 2

    def test_names_what_to_acknowledge_in_the_order_received(self, handover: Handover) -> None:
        group = [*messages(1, 3), *messages(4, 4, qos=0), START]
        handover.add(group)
        assert handover.committed(group, 1) == [1, 2, 3]
        assert handover.unacked == 0

    def test_acknowledges_nothing_on_another_connection(self, handover: Handover) -> None:
        group = messages(1, 2)
        handover.add(group)
        handover.disconnected()
        assert handover.committed(group, 2) == []
        assert handover.unacked == 0

    def test_forgets_messages_with_the_connection_but_not_what_the_gate_must_know(
        self, handover: Handover, intake: Intake
    ) -> None:
        handover.add(messages(1, 2))
        handover.add([START, *messages(3, 3)])
        handover.disconnected()
        assert taken(intake) == ["m1", "m2"]
        handover.offer()
        assert intake.take(10, 10) == [START]

    def test_says_that_it_dropped_something(self, intake: Intake) -> None:
        dropped: list[int] = []
        handover = Handover(intake, window=10, max_unacked_bytes=50_000, on_dropped=lambda: dropped.append(1))
        handover.add(messages(1, 2))
        handover.disconnected()
        assert dropped == [], "all of it is on its way into the journal"
        handover.add(messages(3, 3))
        handover.disconnected()
        assert len(dropped) == 1
        handover.add(messages(4, 4, qos=0))
        assert len(dropped) == 2

    def test_is_full_when_the_broker_overruns_its_window(self, handover: Handover) -> None:
        group = [delivery("", mid) for mid in range(1, 10 * OVERRUN + 2)]
        handover.add(group[:-1])
        full = [handover.full]
        handover.add(group[-1:])
        full.append(handover.full)
        handover.committed(group[:1], 1)
        full.append(handover.full)
        assert full == [False, True, False]

    def test_is_full_when_too_many_bytes_wait_for_a_commit(self, handover: Handover) -> None:
        group = [delivery("x" * 50_001, 1)]
        handover.add(group)
        full = [handover.full]
        handover.committed(group, 1)
        full.append(handover.full)
        assert full == [True, False]

    def test_has_no_room_after_a_refusal_until_the_intake_is_empty(
        self, handover: Handover, intake: Intake
    ) -> None:
        assert handover.has_room()
        handover.add(messages(1, 2))
        handover.add(messages(3, 3))
        handover.disconnected()
        assert not handover.has_room()
        intake.take(1, 1)
        assert not handover.has_room()
        intake.take(1, 1)
        assert handover.has_room()
