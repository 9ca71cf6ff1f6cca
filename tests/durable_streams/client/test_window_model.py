"""The window against a model server, over a network that loses, delays, reorders and repeats, with restarts.

Whatever happens on the way: what was confirmed is in the stream, nothing is in it twice, and the order is kept.
After the network recovers, everything of the living producer is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from durable_streams._batches import Taken, WindowSettings
from durable_streams._reactions import answered
from durable_streams._window import Window
from durable_streams._wire import Answer, Failure, Reply, Request
from harness.producer_model import ModelServer
from harness.stream_client import URL, policy

if TYPE_CHECKING:
    from durable_streams._batches import Flight


@dataclass(eq=False)
class UnderWay:
    """A request of the living producer, and the answer that may be on its way back."""

    flight: Flight
    answer: Answer | None = None


class Event(Enum):
    """What may happen to a request."""

    ARRIVES = "it reaches the server, in any order, perhaps twice; its answer is on the way"
    IS_ANSWERED = "the answer is there"
    IS_LOST = "it never reaches the server"
    IS_LATE = "the producer gives it up, and it may reach the server afterwards"
    LOSES_ITS_ANSWER = "it reaches the server, the answer is lost"
    IS_TURNED_AWAY = "the server has no time"


class ProducerOverABadNetwork(RuleBasedStateMachine):
    """Rules are what can happen; each run is a story made of them."""

    auto_claim = False

    def __init__(self) -> None:
        super().__init__()
        self.server = ModelServer()
        self.window = self._new_window(0)
        self.under_way: list[UnderWay] = []
        self.ghosts: list[Request] = []
        self.now = 0.0
        self.number = 0
        self.process = 0
        self.taken: list[tuple[bytes, Taken]] = []

    @initialize(max_in_flight=st.integers(1, 5), per_batch=st.integers(1, 3))
    def choose(self, max_in_flight: int, per_batch: int) -> None:
        self.max_in_flight, self.per_batch = max_in_flight, per_batch
        self.window = self._new_window(0)

    def _new_window(self, epoch: int) -> Window:
        chosen = WindowSettings(
            url=URL,
            producer_id="p",
            content_type="text/plain",
            auto_claim=self.auto_claim,
            linger_seconds=0.0,
            max_in_flight=getattr(self, "max_in_flight", 5),
            max_batch_bytes=10 * getattr(self, "per_batch", 1),
            max_attempts=10**6,
        )
        return Window(chosen, policy(), epoch=epoch)

    # -- What can happen ---------------------------------------------------------------------------

    @rule(count=st.integers(1, 4))
    def append(self, count: int) -> None:
        for _ in range(count):
            message = f"{self.process:03d}-{self.number:05d}\n".encode()
            self.number += 1
            batch = self.window.intake.take(message)
            self.taken.append((message.strip(), Taken(batch, len(batch.messages) - 1)))

    @rule(seconds=st.sampled_from([0.0, 1.0, 60.0, 60.0]))
    def send(self, seconds: float) -> None:
        self.now += seconds
        while (flight := self.window.next_flight(self.now)) is not None:
            self.under_way.append(UnderWay(flight))

    @precondition(lambda self: len(self.taken) > 2)
    @rule()
    def restart_the_producer(self) -> None:
        self.window.restart()

    @precondition(lambda self: self.under_way)
    @rule(events=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(Event)), min_size=1, max_size=8))
    def happen(self, events: list[tuple[int, Event]]) -> None:
        for place, event in events:
            if self.under_way:
                self._happen(self.under_way[place % len(self.under_way)], event)

    def _happen(self, each: UnderWay, event: Event) -> None:
        match event:
            case Event.ARRIVES:
                answer = self.server.post(each.flight.request)
                each.answer = each.answer or answer
            case Event.IS_ANSWERED:
                self._land(each, each.answer or self.server.post(each.flight.request))
            case Event.IS_LOST:
                self._land(each, Failure("timeout"))
            case Event.IS_LATE:
                self.ghosts.append(each.flight.request)
                self._land(each, Failure("timeout"))
            case Event.LOSES_ITS_ANSWER:
                self.server.post(each.flight.request)
                self._land(each, Reply(502, {}))
            case Event.IS_TURNED_AWAY if each.answer is None:
                self._land(each, Reply(503, {"retry-after": "1"}))
            case _:
                pass

    @precondition(lambda self: self.ghosts)
    @rule(place=st.integers(0, 9))
    def arrive_late(self, place: int) -> None:
        self.server.post(self.ghosts[place % len(self.ghosts)])

    def _land(self, each: UnderWay, answer: Answer) -> None:
        self.under_way.remove(each)
        answered(self.window, each.flight, answer, self.now)

    # -- What must always hold ---------------------------------------------------------------------

    @invariant()
    def nothing_is_stored_twice_or_out_of_order(self) -> None:
        log = self.server.log
        assert log == sorted(set(log)), "messages carry rising numbers"

    @invariant()
    def what_is_confirmed_is_stored(self) -> None:
        stored = set(self.server.log)
        assert all(message in stored for message, taken in self.taken if taken.settled)

    @invariant()
    def nothing_fails(self) -> None:
        assert self.window.error is None

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.window.in_flight_count == len(self.under_way)
        waiting = sum(not taken.settled for _, taken in self.taken)
        assert self.window.pending_count == waiting

    def teardown(self) -> None:
        """The network recovers: everything of the living producer arrives."""
        self._finish()
        assert self.window.idle
        expected = [message for message, taken in self.taken if taken.outcome()]
        known = set(expected)
        assert [message for message in self.server.log if message in known] == expected

    def _finish(self) -> None:
        while self.under_way:
            self._happen(self.under_way[0], Event.IS_ANSWERED)
        self.window.intake.flush()
        for _ in range(10_000):
            self.now += 60.0
            flight = self.window.next_flight(self.now)
            if flight is None:
                return
            answered(self.window, flight, self.server.post(flight.request), self.now)
        raise AssertionError("the producer never comes to rest")


class RestartingProducer(ProducerOverABadNetwork):
    """The process dies and another one begins, in the next epoch; what the dead one sent may still arrive."""

    @precondition(lambda self: len(self.taken) > 4)
    @rule()
    def restart_the_process(self) -> None:
        epoch = self.window.epoch + 1
        self._die()
        self.window = self._new_window(epoch)

    def _die(self) -> None:
        self.ghosts += [each.flight.request for each in self.under_way]
        self.under_way.clear()
        # A dead process's messages are nobody's duty any more; that they come in order and once still holds.
        self.taken.clear()
        self.process += 1


class ClaimingProducer(RestartingProducer):
    """As before, but the new process knows nothing: it begins at epoch 0 and claims what is free.

    What the dead process sent has arrived or is lost for good by then: no server can tell a late first request of
    a dead process from the first one of the living.
    """

    auto_claim = True

    @precondition(lambda self: len(self.taken) > 4)
    @rule()
    def restart_the_process(self) -> None:
        self._die()
        self.ghosts.clear()
        self.window = self._new_window(0)


def stories(machine: type[RuleBasedStateMachine], count: int) -> None:
    chosen = settings(
        max_examples=count, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=chosen)


MACHINES = pytest.mark.parametrize("machine", [ProducerOverABadNetwork, RestartingProducer, ClaimingProducer])


@MACHINES
def test_what_is_confirmed_is_stored_once_and_in_order(machine: type[RuleBasedStateMachine]) -> None:
    stories(machine, 60)


@MACHINES
@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_so_it_is_in_very_many_stories(machine: type[RuleBasedStateMachine]) -> None:
    stories(machine, 1500)


def test_a_copy_of_a_request_that_was_turned_back_is_not_sent_again_in_the_next_epoch() -> None:
    # Found by the stories above: the second of two requests overtakes the first and is refused for the gap, then
    # what is on the way delivers it again.
    story = ProducerOverABadNetwork()
    story.choose(max_in_flight=2, per_batch=1)
    story.append(1)
    story.send(0.0)
    story.happen([(0, Event.IS_ANSWERED)])
    story.append(2)
    story.send(0.0)
    story.restart_the_producer()
    story.happen([(1, Event.ARRIVES), (0, Event.IS_ANSWERED), (0, Event.ARRIVES), (0, Event.IS_ANSWERED)])
    story.send(0.0)
    story.teardown()
    story.nothing_is_stored_twice_or_out_of_order()
    story.nothing_fails()
    assert story.window.epoch == 1
