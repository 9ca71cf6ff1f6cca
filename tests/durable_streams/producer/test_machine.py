"""The machine itself, explored: every interleaving of answers, losses, late requests and crashes in a small world.

The world has one stream, a server that follows PROTOCOL section 5.2.1, a disk that keeps what the store promises
to keep, and a network that may lose a request, lose an answer, or deliver a request long after its sender died.
The functions under test are the real ones; nothing of them is copied here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from durable_streams import _pull
from durable_streams._producer import PROBE_SEQ, Attempt
from durable_streams._pull import Pull, Stage
from durable_streams._store import Presence, ProducerState, SealedBatch
from durable_streams._wire import Answer, Failure, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

CLAIM = -1
"""What a claim leaves in the log; every other entry is a record."""


@dataclass(frozen=True)
class Server:
    """A stream and its producer's state."""

    exists: bool = False
    known: bool = False
    epoch: int = 0
    last: int = -1
    log: tuple[int, ...] = ()

    @property
    def tail(self) -> str:
        return f"{len(self.log):04d}"

    def post(self, attempt: Attempt, ids: tuple[int, ...]) -> tuple[Server, Reply]:
        known_seq = self.last if self.known else -1
        if not self.known and attempt.seq != 0:
            return self, self._gap(0, attempt)
        if self.known and attempt.epoch < self.epoch:
            return self, Reply(403, {"producer-epoch": str(self.epoch)})
        if self.known and attempt.epoch > self.epoch:
            if attempt.seq != 0:
                return self, Reply(400, {"producer-epoch": str(self.epoch)})
            known_seq = -1
        if attempt.seq <= known_seq:
            echo = {"producer-epoch": str(attempt.epoch), "producer-seq": str(known_seq)}
            return self, Reply(204, echo)
        if attempt.seq > known_seq + 1:
            return self, self._gap(known_seq + 1, attempt)
        after = replace(self, known=True, epoch=attempt.epoch, last=attempt.seq, log=self.log + ids)
        echo = {"producer-epoch": str(attempt.epoch), "producer-seq": str(attempt.seq)}
        return after, Reply(200, {**echo, "stream-next-offset": after.tail})

    @staticmethod
    def _gap(expected: int, attempt: Attempt) -> Reply:
        return Reply(409, {"producer-expected-seq": str(expected), "producer-received-seq": str(attempt.seq)})

    def head(self) -> Reply:
        if not self.exists:
            return Reply(404, {})
        return Reply(200, {"stream-next-offset": self.tail, "content-type": "application/json"})


FRESH_DISK = ProducerState("p", epoch=0, claimed=False, anchor=None, resolved_seq=0, batch=None)


@dataclass(frozen=True)
class World:
    """Everything there is between two steps."""

    pull: Pull | None
    """None: the process is dead."""
    command: _pull.Command | None = field(hash=False, compare=False)
    kind: str
    disk: ProducerState
    sealed_to: int
    """Records 0 to here are sealed on the disk."""
    lazy: tuple[int, str] | None
    """A resolution that is not committed yet."""
    server: Server
    late: tuple[tuple[Attempt, tuple[int, ...]], ...]
    """Requests that the network may still deliver; nobody waits for their answers."""
    crashes: int
    losses: int
    forgets: int
    torn: int


@dataclass(frozen=True)
class Limits:
    records: int = 3
    crashes: int = 1
    losses: int = 1
    forgets: int = 0
    torn: int = 0


def ids_of(batch: SealedBatch) -> tuple[int, ...]:
    return tuple(batch.body)


class Explorer:
    """Visits every world that can be reached, and checks what must hold in each."""

    def __init__(self, limits: Limits, *, read_back: bool = True, settling: bool = False) -> None:
        self.limits = limits
        self.policy = _pull.Policy(read_back=read_back)
        self.settle = _pull.Policy(read_back=read_back, settle=True) if settling else None
        """What every process but the first may be started with instead."""
        self.settled: set[int] = set()
        """How much was sealed when it was settled."""
        self.stops: set[_pull.Stop] = set()
        self.completed = 0
        self.visited = 0

    def run(self) -> None:
        limits = self.limits
        first = World(
            None,
            None,
            "",
            FRESH_DISK,
            0,
            None,
            Server(),
            (),
            limits.crashes,
            limits.losses,
            limits.forgets,
            limits.torn,
        )
        # A world is large, and its hash is most of the work: it is taken once for each step, to find its number.
        seen = {first: 0}
        queue = deque([(0, first)])
        parents: list[list[int]] = [[]]
        ends: list[int] = []
        while queue:
            number, world = queue.popleft()
            self.check(world)
            if self.is_end(world):
                ends.append(number)
            for following in self.steps(world):
                place = seen.setdefault(following, len(parents))
                if place == len(parents):
                    parents.append([])
                    queue.append((place, following))
                parents[place].append(number)
        self.visited = len(seen)
        self.check_that_an_end_can_be_reached(seen, parents, ends)

    def check_that_an_end_can_be_reached(
        self, seen: dict[World, int], parents: list[list[int]], ends: list[int]
    ) -> None:
        good = set(ends)
        queue = list(ends)
        while queue:
            for parent in parents[queue.pop()]:
                if parent not in good:
                    good.add(parent)
                    queue.append(parent)
        stuck = [world for world, number in seen.items() if number not in good]
        assert not stuck, f"{len(stuck)} of {len(seen)} worlds lead nowhere, as {stuck[0]}"

    def is_end(self, world: World) -> bool:
        if world.pull is None:
            return False
        if world.pull.stage is Stage.STOPPED:
            assert world.pull.stop is not None
            self.stops.add(world.pull.stop)
            if world.pull.stop is _pull.Stop.SETTLED:
                self.check_settled(world)
            return True
        done = world.pull.stage is Stage.IDLE and world.sealed_to == self.limits.records
        if done:
            self.completed += 1
            records = [entry for entry in world.server.log if entry != CLAIM]
            assert records == list(range(self.limits.records)), f"complete, but the stream has {records}"
        return done

    def check_settled(self, world: World) -> None:
        """All that was ever sealed is in the stream, so that nothing of it may be sent to another server."""
        records = [entry for entry in world.server.log if entry != CLAIM]
        assert records == list(range(world.sealed_to)), f"settled, but the stream has {records}"
        assert world.disk.batch is None or world.lazy is not None, "a batch is unresolved still"
        self.settled.add(world.sealed_to)

    def check(self, world: World) -> None:
        records = [entry for entry in world.server.log if entry != CLAIM]
        assert len(records) == len(set(records)), f"stored twice: {records} in {world}"
        assert records == sorted(records), f"out of order: {records}"
        unresolved = ids_of(world.disk.batch) if world.disk.batch else ()
        resolved = set(range(world.sealed_to)) - set(unresolved)
        assert resolved <= set(records), f"resolved and not there: {resolved - set(records)} in {world}"

    # -- what can happen next

    def steps(self, world: World) -> Iterator[World]:
        for number, (attempt, ids) in enumerate(world.late):
            rest = world.late[:number] + world.late[number + 1 :]
            yield replace(world, late=rest)
            after, _ = world.server.post(attempt, ids)
            yield replace(world, late=rest, server=after)
        if world.forgets and world.server.known and not world.late:
            forgetful = replace(world.server, known=False, epoch=0, last=-1)
            yield replace(world, server=forgetful, forgets=world.forgets - 1)
        if world.pull is None:
            yield self.after(world, _pull.start(world.disk, self.policy))
            if self.settle is not None:
                yield self.after(world, _pull.start(world.disk, self.settle))
            return
        if world.pull.stage is Stage.STOPPED:
            return
        if world.crashes:
            yield self.crash(world)
        assert world.command is not None
        yield from self.execute(world, world.pull, world.command)

    def crash(self, world: World) -> World:
        return replace(world, pull=None, command=None, kind="", lazy=None, crashes=world.crashes - 1)

    def after(self, world: World, step: _pull.Step) -> World:
        state, command = step
        calm = replace(state, failures=0, trouble="")  # only decide how long to wait and what to show
        return replace(world, pull=calm, command=command, kind=type(command).__name__)

    def told(self, world: World, pull: Pull, event: _pull.Event) -> World:
        return self.after(world, _pull.react(pull, event))

    def answered(self, world: World, pull: Pull, answer: Answer) -> World:
        return self.told(world, pull, _pull.Answered(answer))

    def execute(self, world: World, pull: Pull, command: _pull.Command) -> Iterator[World]:
        if pull.policy.settle:
            begun = _pull.PostClaim | _pull.Put | _pull.NextBatch | _pull.SaveEpoch | _pull.SaveClaim
            assert not isinstance(command, begun), f"{command} begins something new"
        match command:
            case _pull.PostClaim(attempt):
                yield from self.post(world, pull, attempt, (CLAIM,))
            case _pull.PostProbe(attempt):
                assert attempt.seq == PROBE_SEQ
                yield from self.post(world, pull, attempt, (-2,))
            case _pull.PostBatch(attempt, batch):
                yield from self.post(world, pull, attempt, ids_of(batch))
            case _pull.Head():
                yield from self.ask(world, pull, world.server.head())
            case _pull.Put():
                yield from self.put(world, pull)
            case _pull.ReadBack(batch, anchor, _):
                yield from self.read_back(world, pull, batch, anchor)
            case _pull.Wait():
                yield self.told(world, pull, _pull.Done())
            case _pull.Resolve(batch, offset):
                assert world.lazy is None
                yield self.told(replace(world, lazy=(batch.seq, offset)), pull, _pull.Done())
            case _pull.NextBatch():
                yield from self.seal(world, pull)
            case _pull.SaveAnchor() | _pull.SaveEpoch() | _pull.SaveClaim():
                disk = self.saved(world.disk, command)
                if world.crashes:
                    yield self.crash(replace(world, disk=disk))
                yield self.told(replace(world, disk=disk), pull, _pull.Done())

    def saved(
        self, disk: ProducerState, command: _pull.SaveAnchor | _pull.SaveEpoch | _pull.SaveClaim
    ) -> ProducerState:
        match command:
            case _pull.SaveAnchor(offset):
                return replace(disk, anchor=offset)
            case _pull.SaveEpoch(epoch):
                assert epoch > disk.epoch
                return replace(disk, epoch=epoch, claimed=False, resolved_seq=0)
            case _pull.SaveClaim(epoch):
                assert epoch == disk.epoch
                return replace(disk, claimed=True, resolved_seq=0)

    def post(self, world: World, pull: Pull, attempt: Attempt, ids: tuple[int, ...]) -> Iterator[World]:
        after, reply = world.server.post(attempt, ids)
        delivered = replace(world, server=after)
        yield self.answered(delivered, pull, reply)
        if world.crashes:
            yield self.crash(delivered)
            yield self.crash(replace(world, late=(*world.late, (attempt, ids))))
        if world.losses:
            lossy = replace(world, losses=world.losses - 1)
            lost = Failure("timed out")
            yield self.answered(replace(lossy, server=after), pull, lost)
            yield self.answered(lossy, pull, lost)
            yield self.answered(replace(lossy, late=(*world.late, (attempt, ids))), pull, lost)
            yield self.answered(lossy, pull, Reply(502, {"content-type": "text/html"}))
            yield self.answered(lossy, pull, Failure("connection refused", sent=False))
        if world.torn and reply.status == 200 and attempt.seq != PROBE_SEQ:
            # A server that keeps data and producer state apart dies in between; its connections die with it.
            torn = replace(world.server, log=after.log)
            yield self.answered(
                replace(world, server=torn, torn=world.torn - 1, late=()), pull, Failure("connection reset")
            )

    def ask(self, world: World, pull: Pull, reply: Reply) -> Iterator[World]:
        yield self.answered(world, pull, reply)
        if world.losses:
            yield self.answered(replace(world, losses=world.losses - 1), pull, Failure("timed out"))

    def put(self, world: World, pull: Pull) -> Iterator[World]:
        created = replace(world, server=replace(world.server, exists=True))
        yield self.answered(created, pull, Reply(201, {**created.server.head().headers}))
        if world.losses:
            yield self.answered(replace(created, losses=world.losses - 1), pull, Failure("timed out"))

    def read_back(self, world: World, pull: Pull, batch: SealedBatch, anchor: str) -> Iterator[World]:
        there = [entry for entry in world.server.log[int(anchor) :] if entry >= 0]
        found = [entry for entry in ids_of(batch) if entry in there]
        presence = Presence.ABSENT
        if any(entry >= world.sealed_to for entry in there):
            presence = Presence.FOREIGN
        elif found:
            presence = Presence.PRESENT if len(found) == batch.count else Presence.PARTIAL
        yield self.told(world, pull, _pull.Found(presence, world.server.tail))
        if world.losses:
            yield self.answered(replace(world, losses=world.losses - 1), pull, Failure("timed out"))

    def seal(self, world: World, pull: Pull) -> Iterator[World]:
        """One transaction: the lazy resolution and the next batch, of one or two records."""
        disk = world.disk
        if world.lazy is not None:
            seq, offset = world.lazy
            assert disk.batch is not None
            assert disk.batch.seq == seq
            disk = replace(disk, resolved_seq=seq, anchor=offset, batch=None)
        settled = replace(world, disk=disk, lazy=None)
        for size in (1, 2):
            if world.sealed_to + size > self.limits.records:
                continue
            body = bytes(range(world.sealed_to, world.sealed_to + size))
            batch = SealedBatch(disk.epoch, disk.resolved_seq + 1, body, size)
            sealed = replace(settled, disk=replace(disk, batch=batch), sealed_to=world.sealed_to + size)
            if world.crashes:
                yield self.crash(sealed)
            yield self.told(sealed, pull, _pull.Sealed(batch))


@pytest.mark.parametrize(
    "limits",
    [
        Limits(crashes=1, losses=2),
        Limits(crashes=2, losses=1),
        Limits(crashes=3, losses=0, records=2),
        Limits(crashes=0, losses=4),
    ],
    ids=str,
)
def test_crashes_losses_and_late_requests_never_lose_repeat_reorder_or_stop(limits: Limits) -> None:
    explorer = Explorer(limits)
    explorer.run()
    print(f"{limits}: {explorer.visited} worlds, {explorer.completed} complete")
    assert explorer.completed > 10
    assert explorer.stops == set(), "an ordinary fault must not need an operator"


def test_a_server_that_forgets_stops_the_stream_without_a_duplicate() -> None:
    explorer = Explorer(Limits(crashes=1, losses=1, forgets=1))
    explorer.run()
    assert explorer.completed > 10
    assert explorer.stops <= {_pull.Stop.FORGOTTEN}
    assert explorer.stops


def test_a_server_that_tears_data_and_state_apart_stores_nothing_twice() -> None:
    explorer = Explorer(Limits(crashes=1, losses=1, torn=1))
    explorer.run()
    assert explorer.completed > 10
    assert explorer.stops <= {_pull.Stop.FORGOTTEN, _pull.Stop.FOREIGN, _pull.Stop.SERVER_BEHIND}


def test_without_the_read_back_such_a_server_stores_twice() -> None:
    explorer = Explorer(Limits(crashes=0, losses=1, torn=1), read_back=False)
    with pytest.raises(AssertionError, match="stored twice"):
        explorer.run()


class TestSettling:
    """A server is to be left: what became of the unresolved batch is found out there, and nothing begun."""

    @pytest.mark.parametrize(
        "limits",
        [Limits(crashes=1, losses=2), Limits(crashes=2, losses=1), Limits(crashes=3, losses=0, records=2)],
        ids=str,
    )
    def test_what_is_settled_is_in_the_stream_once_whatever_happens(self, limits: Limits) -> None:
        explorer = Explorer(limits, settling=True)
        explorer.run()
        print(f"{limits}: {explorer.visited} worlds, settled {sorted(explorer.settled)}")
        assert explorer.stops == {_pull.Stop.SETTLED}
        assert explorer.settled == set(range(limits.records + 1))

    def test_a_server_that_tears_data_and_state_apart_is_settled_without_a_duplicate(self) -> None:
        explorer = Explorer(Limits(crashes=1, losses=1, torn=1), settling=True)
        explorer.run()
        assert _pull.Stop.SETTLED in explorer.stops
        assert explorer.stops <= {
            _pull.Stop.SETTLED,
            _pull.Stop.FORGOTTEN,
            _pull.Stop.FOREIGN,
            _pull.Stop.SERVER_BEHIND,
        }

    @pytest.mark.parametrize("claimed", [False, True])
    def test_without_a_batch_nothing_is_asked(self, *, claimed: bool) -> None:
        disk = replace(FRESH_DISK, claimed=claimed, anchor="0000")
        state, command = _pull.start(disk, _pull.Policy(settle=True))
        assert command == _pull.Halt(_pull.Stop.SETTLED, "nothing is unresolved")
        assert (state.stage, state.stop) == (Stage.STOPPED, _pull.Stop.SETTLED)
        assert not _pull.Stop.SETTLED.parked

    def test_a_closed_stream_without_the_batch_is_not_settled(self) -> None:
        batch = SealedBatch(0, 1, b"[1]", 1)
        disk = replace(FRESH_DISK, claimed=True, anchor="0001", batch=batch)
        state, _ = _pull.start(disk, _pull.Policy(settle=True))
        state, _ = _pull.react(state, _pull.Answered(Reply(409, {"stream-closed": "true"})))
        tail = Reply(200, {"stream-next-offset": "0001", "content-type": "application/json"})
        _, command = _pull.react(state, _pull.Answered(tail))
        assert isinstance(command, _pull.Halt)
        assert command.stop is _pull.Stop.CLOSED


class TestIllegalEvents:
    def test_an_event_that_cannot_happen_is_refused(self) -> None:
        state, _ = _pull.start(FRESH_DISK, _pull.Policy())
        with pytest.raises(_pull.IllegalEventError):
            _pull.react(state, _pull.Found(Presence.ABSENT, "0"))

    def test_a_stopped_producer_does_nothing_more(self) -> None:
        state, _ = _pull.start(replace(FRESH_DISK, claimed=True, anchor="0"), _pull.Policy())
        state, command = _pull.react(state, _pull.Answered(Reply(403, {"producer-epoch": "9"})))
        assert command == _pull.Halt(_pull.Stop.FENCED, state.trouble)
        with pytest.raises(_pull.IllegalEventError):
            _pull.react(state, _pull.Done())


class TestWithoutPermissionToRead:
    """HEAD or GET is refused: the server's own deduplication has to do (exactly-once without a read-back)."""

    ECHO = Reply(204, {"producer-epoch": "0", "producer-seq": "1"})

    def sent_twice(self, policy: _pull.Policy) -> Pull:
        """A producer whose batch was answered 204 after its first answer was lost."""
        batch = SealedBatch(0, 1, b"[1]", 1)
        disk = replace(FRESH_DISK, claimed=True, anchor="0001", batch=batch)
        state, _ = _pull.start(disk, policy)
        state = replace(state, stage=Stage.SEND, repeated=True)
        return _pull.react(state, _pull.Answered(self.ECHO))[0]

    @pytest.mark.parametrize("status", [403, 405, 501])
    def test_a_confirmed_repetition_is_resolved_when_head_is_refused(self, status: int) -> None:
        state = self.sent_twice(_pull.Policy())
        state, command = _pull.react(state, _pull.Answered(Reply(status, {})))
        assert isinstance(command, _pull.Resolve)
        assert command.offset == "0001", "the anchor stays: a lagging one is safe"

    def test_a_confirmed_repetition_is_resolved_when_the_read_is_refused(self) -> None:
        state = self.sent_twice(_pull.Policy())
        tail = Reply(200, {"stream-next-offset": "0009", "content-type": "application/json"})
        state, command = _pull.react(state, _pull.Answered(tail))
        assert isinstance(command, _pull.ReadBack)
        assert isinstance(_pull.react(state, _pull.Answered(Reply(403, {})))[1], _pull.Resolve)

    def test_a_confirmed_repetition_is_resolved_when_reading_back_is_switched_off(self) -> None:
        state = self.sent_twice(_pull.Policy(read_back=False))
        tail = Reply(200, {"stream-next-offset": "0009", "content-type": "application/json"})
        assert isinstance(_pull.react(state, _pull.Answered(tail))[1], _pull.Resolve)


def test_a_server_that_calls_every_claim_a_duplicate_is_not_asked_for_ever() -> None:
    state, command = _pull.start(replace(FRESH_DISK, anchor="0000"), _pull.Policy())
    look = Reply(200, {"stream-next-offset": "0000", "content-type": "application/json"})
    state, command = _pull.react(state, _pull.Answered(look))
    claims = 0
    while not isinstance(command, _pull.Halt):
        assert isinstance(command, _pull.PostClaim)
        claims += 1
        assert claims < 100
        echo = {"producer-epoch": str(command.attempt.epoch), "producer-seq": "0"}
        state, command = _pull.react(state, _pull.Answered(Reply(204, echo)))
        if isinstance(command, _pull.SaveEpoch):
            state, command = _pull.react(state, _pull.Done())
    assert command.stop is _pull.Stop.NOT_A_PRODUCER_SERVER


def test_a_path_that_is_not_the_servers_is_asked_less_and_less_often() -> None:
    state, command = _pull.start(FRESH_DISK, _pull.Policy())
    waits: list[int] = []
    while len(waits) < 5:
        if isinstance(command, _pull.Wait):
            waits.append(command.failures)
            state, command = _pull.react(state, _pull.Done())
        else:
            state, command = _pull.react(state, _pull.Answered(Reply(404, {})))
    assert waits == sorted(set(waits))
