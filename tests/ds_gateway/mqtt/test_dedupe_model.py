"""The real gate behind a model of broker, link and gateway, under every mix of cuts, kills and failed commits.

After a settling phase: nothing is lost, ever; nothing is duplicated behind a broker that numbers sequentially;
behind any other only what may have been acknowledged.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_gateway.mqtt.dedupe import DedupeGate
from ds_gateway.mqtt.numbering import IDS, REACH
from ds_gateway.mqtt.tokens import Delivery, Opening, SessionStart
from ds_gateway.records import Item, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ds_gateway.mqtt.numbering import Policy

WINDOW = 4


@dataclass(frozen=True)
class Sequential:
    """Allocates as mosquitto does."""

    first: int

    def __call__(self, last: int | None, _used: set[int]) -> int:
        return self.first if last is None else last % IDS + 1


class LowestFree:
    """Allocates as HiveMQ does."""

    def __call__(self, _last: int | None, used: set[int]) -> int:
        return next(mid for mid in range(1, WINDOW + 2) if mid not in used)


class OfTheConnection:
    """Counts, and begins again with each connection. MQTT wants only that an id is not in use."""

    def __init__(self) -> None:
        self._last = 0

    def reconnected(self) -> None:
        self._last = 0

    def __call__(self, _last: int | None, used: set[int]) -> int:
        self._last += 1
        while self._last in used:
            self._last += 1
        return self._last


class OfTheProcess:
    """Counts, and begins again when the broker is restarted: it keeps its sessions, and not where it was."""

    def __init__(self) -> None:
        self._last = 0

    def restarted(self) -> None:
        self._last = 0

    def __call__(self, _last: int | None, used: set[int]) -> int:
        self._last += 1
        while self._last in used:
            self._last += 1
        return self._last


Allocator = Sequential | LowestFree | OfTheConnection | OfTheProcess


class Broker:
    """One session: messages queued, messages in flight by packet id, in order."""

    def __init__(self, allocate: Allocator, window: int = WINDOW) -> None:
        self._allocate = allocate
        self._window = window
        self._last: int | None = None
        self.queued: deque[int] = deque()
        self.in_flight: dict[int, int] = {}

    def next_copy(self) -> tuple[int, int, bool] | None:
        if not self.queued or len(self.in_flight) >= self._window:
            return None
        self._last = self._allocate(self._last, set(self.in_flight))
        message = self.queued.popleft()
        self.in_flight[self._last] = message
        return self._last, message, False

    def copies(self) -> list[tuple[int, int, bool]]:
        """What comes again on a new connection."""
        if isinstance(self._allocate, OfTheConnection):
            self._allocate.reconnected()
        return [(mid, message, True) for mid, message in self.in_flight.items()]


class World:
    """Everything; each method named in `STEPS` is something that can happen."""

    def __init__(
        self, allocate: Allocator, policy: Policy, *, identical: bool, broker_window: int = WINDOW
    ) -> None:
        self._allocate = allocate
        self._broker_window = broker_window
        self._policy: Policy = policy
        self._identical = identical
        self.broker = Broker(allocate, broker_window)
        self.to_gateway: deque[tuple[int, int, bool]] = deque()
        self.to_broker: deque[int] = deque()
        self.published = 0
        self.lost_at_the_broker: set[int] = set()
        # On the gateway's disk.
        self.rows: dict[str, bytes] = {}
        self.commits = 0
        self.journal: list[int] = []
        # In its memory.
        self.queue: list[Item] = []
        self.to_acknowledge: list[tuple[int, list[int]]] = []
        self.generation = 0
        # Of each message: the commits it took part in; it may be duplicated once one of them was acknowledged.
        self.taken_in: dict[int, set[int]] = {}
        self.acknowledged: set[int] = set()
        self.session_starts_in: set[int] = set()
        self.mark = 0
        self.settled_in = 0
        self.gate = self._new_gate()
        self._open(acked=None)
        self._connect(present=False)

    # -- steps

    def publish(self) -> None:
        self.broker.queued.append(self.published)
        self.published += 1

    def deliver(self) -> None:
        copy = self.broker.next_copy()
        if copy is not None:
            self.to_gateway.append(copy)

    def receive(self) -> None:
        if self.to_gateway:
            mid, message, dup = self.to_gateway.popleft()
            digest = bytes(8) if self._identical else message.to_bytes(8, "big")
            token = Delivery(mid, dup, 1, False, b"topic   ", digest, self.mark, self.generation)
            self.queue.append(Item(Record("stream", "device", b"%d" % message), token))

    def commit(self) -> None:
        self._commit(len(self.queue))

    def commit_half(self) -> None:
        self._commit((len(self.queue) + 1) // 2)

    def deliver_all(self) -> None:
        for _ in range(self._broker_window):
            self.deliver()

    def receive_all(self) -> None:
        while self.to_gateway:
            self.receive()

    def acknowledge_all(self) -> None:
        while self.to_acknowledge:
            self.acknowledge()

    def all_pubacks_arrive(self) -> None:
        while self.to_broker:
            self.puback_arrives()

    def go_round(self) -> None:
        """A message comes in and everything about it is done."""
        self.publish()
        for step in (
            self.deliver_all,
            self.receive_all,
            self.commit,
            self.acknowledge_all,
            self.all_pubacks_arrive,
        ):
            step()

    def fail_to_commit(self) -> None:
        self.gate.admit(self.queue, self.commits + 1)
        self.gate.changes()
        self.gate.restore(dict(self.rows))

    def acknowledge(self) -> None:
        if self.to_acknowledge:
            self.mark, mids = self.to_acknowledge.pop(0)
            self.to_broker.extend(mids)
            self.acknowledged.add(self.mark)

    def puback_arrives(self) -> None:
        if self.to_broker:
            self.broker.in_flight.pop(self.to_broker.popleft(), None)

    def cut(self) -> None:
        self._disconnect()
        self._connect(present=True)

    def cut_in_the_middle(self) -> None:
        """Something of what is under way still arrives."""
        for _ in range(len(self.to_gateway) // 2):
            self.receive()
        for _ in range(len(self.to_broker) // 2):
            self.puback_arrives()
        self.cut()

    def cut_unseen(self) -> None:
        """Of the next connection nothing arrives, not even its CONNACK, but the broker has sent what it could."""
        self._disconnect()
        self.broker.copies()
        while self.broker.next_copy() is not None:
            pass
        self._connect(present=True, doubtful=True)

    def kill(self) -> None:
        self._restart(acked=self.mark)

    def power_cut(self) -> None:
        self.acknowledged.update(range(self.commits + 1))
        self._restart(acked=None)

    def lose_the_session(self) -> None:
        self._disconnect()
        known = {*self.broker.queued, *self.broker.in_flight.values()}
        self.lost_at_the_broker |= known
        self.broker = Broker(self._allocate, self._broker_window)
        self._connect(present=False)

    def restart_broker(self) -> None:
        """It keeps the session."""
        self._disconnect()
        if isinstance(self._allocate, OfTheProcess):
            self._allocate.restarted()
        self._connect(present=True)

    def publish_many(self) -> None:
        for _ in range(2 * self._broker_window // 3):
            self.publish()

    def settle(self) -> None:
        for _ in range(4 * self.published + 10):
            for step in (self.deliver, self.receive, self.commit, self.acknowledge, self.puback_arrives):
                step()

    # -- how

    def _new_gate(self) -> DedupeGate:
        gate = DedupeGate(packet_ids=self._policy, learn_after=WINDOW)
        gate.restore(dict(self.rows))
        return gate

    def _open(self, acked: int | None) -> None:
        session = self.gate.view().session
        opening = Opening(acked, session)
        self.queue.append(Item(None, opening))
        self._commit(1)
        self.mark = opening.acked_through(session, self.commits)

    def _disconnect(self) -> None:
        self.to_gateway.clear()
        self.to_broker.clear()
        self.to_acknowledge.clear()

    def _connect(self, *, present: bool, doubtful: bool = False) -> None:
        self.generation += 1
        token = SessionStart(present, self.mark, self.generation, doubtful=doubtful)
        self.queue.append(Item(None, token))
        if not present:
            # The source subscribes only after this commit.
            self.commit()
        self.to_gateway.extend(self.broker.copies())

    def _restart(self, acked: int | None) -> None:
        before = self.generation
        self._disconnect()
        self.queue.clear()
        self.gate = self._new_gate()
        self._open(acked)
        # The CONNACK that at most the killed process knew of may have told of another one.
        self._connect(present=True, doubtful=self.settled_in != before)

    def _commit(self, count: int) -> None:
        items, self.queue = self.queue[:count], self.queue[count:]
        if not items:
            return
        self.commits += 1
        admitted = self.gate.admit(items, self.commits)
        for name, row in self.gate.changes().items():
            if row is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = row
        self.journal += [_message(item) for item in admitted]
        for item in items:
            if isinstance(item.token, Delivery):
                self.taken_in.setdefault(_message(item), set()).add(self.commits)
            else:
                self.session_starts_in.add(self.commits)
            if isinstance(item.token, SessionStart):
                self.settled_in = item.token.generation
        mids = [
            item.token.mid
            for item in items
            if isinstance(item.token, Delivery) and item.token.generation == self.generation
        ]
        if mids:
            self.to_acknowledge.append((self.commits, mids))


def _message(item: Item) -> int:
    assert isinstance(item.payload, Record)
    return int(item.payload.tail)


WORK = (
    *("publish", "deliver", "receive", "commit_half", "acknowledge", "puback_arrives"),
    *("publish", "deliver_all", "receive_all", "commit", "acknowledge_all", "all_pubacks_arrive"),
    "go_round",
)
FAULTS = ("cut", "cut_in_the_middle", "kill", "fail_to_commit")
UNSEEN = ("cut_unseen",)


def histories(*steps: str) -> st.SearchStrategy[list[str]]:
    return st.integers(20, 120).flatmap(
        lambda size: st.lists(st.sampled_from(steps), min_size=size, max_size=size)
    )


def run(world: World, history: Sequence[str]) -> World:
    for name in history:
        step: Callable[[], None] = getattr(world, name)
        step()
    world.settle()
    assert not world.broker.in_flight
    return world


def missing(world: World) -> set[int]:
    return set(range(world.published)) - set(world.journal) - world.lost_at_the_broker


def duplicated(world: World) -> set[int]:
    return {message for message in world.journal if world.journal.count(message) > 1}


def first_copies(world: World) -> list[int]:
    return list(dict.fromkeys(world.journal))


ALLOCATORS = pytest.mark.parametrize(
    "allocate",
    [Sequential(1), Sequential(IDS - 20), LowestFree(), OfTheConnection()],
    ids=["sequential", "wrapping", "lowest free", "of the connection"],
)
PAYLOADS = pytest.mark.parametrize("payloads", ["distinct", "identical"])


@ALLOCATORS
@PAYLOADS
@settings(max_examples=70, deadline=None)
@given(history=histories(*WORK, *FAULTS, *UNSEEN, "power_cut"))
def test_nothing_is_lost_whatever_the_broker_numbers(
    allocate: Allocator, payloads: str, history: list[str]
) -> None:
    world = run(World(allocate, "auto", identical=payloads == "identical"), history)
    assert missing(world) == set()
    assert first_copies(world) == sorted(first_copies(world))


@ALLOCATORS
@PAYLOADS
@settings(max_examples=40, deadline=None)
@given(history=histories(*WORK, *FAULTS, *UNSEEN, "power_cut", "lose_the_session"))
def test_nothing_is_lost_that_the_broker_did_not_lose(
    allocate: Allocator, payloads: str, history: list[str]
) -> None:
    assert missing(run(World(allocate, "auto", identical=payloads == "identical"), history)) == set()


@pytest.mark.parametrize("allocate", [Sequential(1), Sequential(IDS - 20)], ids=["from 1", "over the wrap"])
@PAYLOADS
@settings(max_examples=70, deadline=None)
@given(history=histories(*WORK, *FAULTS, "power_cut"))
def test_nothing_is_duplicated_behind_a_sequential_broker(
    allocate: Allocator, payloads: str, history: list[str]
) -> None:
    world = run(World(allocate, "sequential", identical=payloads == "identical"), history)
    assert missing(world) == set()
    assert world.journal == list(range(world.published))


@ALLOCATORS
@PAYLOADS
@settings(max_examples=70, deadline=None)
@given(history=histories(*WORK, *FAULTS))
def test_only_what_may_have_been_acknowledged_is_duplicated_behind_any_other(
    allocate: Allocator, payloads: str, history: list[str]
) -> None:
    world = run(World(allocate, "unknown", identical=payloads == "identical"), history)
    assert missing(world) == set()
    # A commit in which a connection began counts as a whole for that connection.
    allowed = world.acknowledged | world.session_starts_in
    assert all(world.taken_in[message] & allowed for message in duplicated(world))


@settings(max_examples=40, deadline=None)
@given(history=histories(*WORK, *FAULTS, "power_cut"))
def test_the_lowest_free_id_is_never_taken_for_a_sequence(history: list[str]) -> None:
    world = run(World(LowestFree(), "auto", identical=True), history)
    assert world.gate.view().verdict == "unknown"


def test_a_sequence_is_learnt_and_then_nothing_is_duplicated() -> None:
    world = World(Sequential(1), "auto", identical=True)
    work = ["publish", "deliver", "receive", "commit", "acknowledge", "puback_arrives"] * (REACH * WINDOW + 1)
    # Acknowledged, but the PUBACK never arrives: the case that R1 alone cannot know.
    faults = ["publish", "deliver", "receive", "commit", "acknowledge", "cut"] * 5
    run(world, work + faults)
    assert world.gate.view().verdict == "sequential"
    assert world.journal == list(range(world.published))


def test_a_sequence_of_few_ids_is_learnt_from_the_next_connection() -> None:
    world = World(Sequential(1), "auto", identical=True)
    faults = ["publish", "deliver", "receive", "commit", "acknowledge", "cut"] * 5
    run(world, ["go_round"] * (WINDOW + 2) + ["cut", "go_round"] + faults)
    assert world.gate.view().verdict == "sequential"
    assert world.journal == list(range(world.published))


@PAYLOADS
@settings(max_examples=40, deadline=None)
@given(history=histories(*WORK, *FAULTS, *UNSEEN, "power_cut", "publish_many", "restart_broker"))
def test_nothing_is_duplicated_behind_one_that_has_many_windows_in_flight(
    payloads: str, history: list[str]
) -> None:
    """As mosquitto 2.0.11 after a restart: every connection brings all of it again, and breaks soon."""
    world = World(Sequential(1), "auto", identical=payloads == "identical", broker_window=10 * WINDOW)
    run(world, ["go_round"] * (WINDOW + 2) + ["cut", "go_round", *history])
    assert world.journal == list(range(world.published))


@PAYLOADS
@settings(max_examples=60, deadline=None)
@given(history=histories(*WORK, *FAULTS, *UNSEEN, "power_cut", "restart_broker"))
def test_nothing_is_lost_when_a_counter_that_is_believed_begins_again(payloads: str, history: list[str]) -> None:
    world = World(OfTheProcess(), "auto", identical=payloads == "identical")
    run(world, ["go_round"] * (REACH * WINDOW) + ["cut", "go_round", *history])
    assert missing(world) == set()


NEW_ONES = ["publish"] * WINDOW + ["deliver_all"]


@pytest.mark.parametrize(
    "history",
    [
        # New ids of the second connection are lost on the way, and come again on the third.
        ["go_round"] * 20 + ["cut", *NEW_ONES, "cut"],
        ["go_round"] * (WINDOW + 3) + ["cut", *NEW_ONES, "cut"],
        # That there was a second connection was in the memory of the process that was killed.
        ["publish"] * 15 + ["go_round", "go_round", "cut", "deliver", "kill"],
        ["go_round"] * 20 + ["cut", *NEW_ONES, "kill"],
        ["go_round"] * 20 + ["cut", *NEW_ONES, "power_cut"],
        # Nobody but the broker knows of it.
        ["go_round"] * (WINDOW + 3) + ["publish"] * WINDOW + ["cut_unseen"],
        # New ids go round those that are in use: 1 to 3, and then, when these are acknowledged, 4 to 7.
        [
            *("go_round" for _ in range(2 * WINDOW + 1)),
            *("cut", "publish", "publish", "publish", "deliver_all", "cut", "receive_all", "commit"),
            *("publish", "deliver", "acknowledge_all", "all_pubacks_arrive"),
            *("publish", "publish", "publish", "deliver_all", "cut"),
        ],
    ],
    ids=["cut", "cut early", "found", "kill", "power cut", "connack", "ids in use"],
)
def test_what_a_counter_numbered_that_began_again_unseen_is_not_taken_for_a_copy(history: list[str]) -> None:
    world = run(World(OfTheConnection(), "auto", identical=True), history)
    assert missing(world) == set()


@pytest.mark.parametrize("rule", ["dup alone", "id and digest without dup"])
def test_the_model_finds_what_weaker_rules_lose(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def drops(gate: DedupeGate, delivery: Delivery, commit: int) -> bool:
        entry = gate._ring.find(delivery.mid)
        gate._ring.record(delivery.mid, delivery.digest, commit)
        return delivery.dup if rule == "dup alone" else entry is not None and entry.digest == delivery.digest

    monkeypatch.setattr(DedupeGate, "_is_repeated_by_id", drops)
    one_message = ["publish", "deliver", "receive", "commit", "acknowledge", "puback_arrives"]
    history = ["publish", "deliver", "cut"] if rule == "dup alone" else one_message * 2
    world = run(World(LowestFree(), "auto", identical=True), history)
    assert missing(world)
