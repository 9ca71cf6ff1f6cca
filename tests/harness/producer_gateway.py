"""The gateway's side of a world of `producer_explorer`: the process and its journal, with the real code."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal.requests import Resolution
from ds_gateway.records import Record
from durable_streams import _pull
from durable_streams._wire import Failure, Reply
from harness.producer_worlds import CLAIM, FOREIGN, LARGEST, Journal, Numbers, World
from harness.row_journal import STREAM, Facts, RowsSettings, TurnWriter, Waiter, call
from harness.stream_model import Said, StreamModel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterator

    from ds_gateway.journal.stream_store import StreamStore
    from ds_gateway.journal.survey import JournalSurvey
    from durable_streams._pull import Command, Event, Policy, Pull
    from durable_streams._store import SealedBatch
    from harness.producer_worlds import Limits


_AT_ONCE: Final = (
    _pull.SaveAnchor,
    _pull.SaveEpoch,
    _pull.SaveClaim,
    _pull.BeginRepair,
    _pull.Reseal,
    _pull.SetAside,
    _pull.Resolve,
)
"""Commands of which the outcome depends on the journal alone. Nothing that happens just before one makes a
difference, but for a crash, and that is a step of its own."""

Told = (
    Said
    | Failure
    | _pull.Found
    | _pull.Surveyed
    | _pull.Unreadable
    | _pull.PathConfirmed
    | _pull.Sealed
    | _pull.Done
)


class Turned(NamedTuple):
    """What the journal made of a request."""

    journal: int
    lazy: tuple[int, str] | None
    commits: tuple[int, ...]
    """The journal after each commit; the last one is ``journal``."""
    result: Any


def parts(facts: Facts) -> tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]:
    """The records of a journal that are kept, sealed, and open."""
    return facts.kept, facts.sealed, facts.open


class Gateway:
    """What the process does, and a memory of every question that the real code was asked."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._settings = RowsSettings(keep_bytes=limits.keep * 205, segment_max_bytes=LARGEST)
        self.procs, self.journals, self.servers = Numbers(), Numbers(), Numbers()
        self.messages = Numbers()
        self.messages.of(b'{"id":"b.0.x","kind":"birth"}')
        self.messages.of(b'{"x":1}')
        self._values = {CLAIM: 0, FOREIGN: 0}
        self._manners = limits.manners
        self._surveys: dict[Hashable, JournalSurvey] = {}
        self._memo: dict[Hashable, Any] = {}
        self._waiter = Waiter()
        self.settle_commands = (_pull.Put, _pull.NextBatch, _pull.SaveEpoch, _pull.SaveClaim)

    def close(self) -> None:
        """Release the loop."""
        self._waiter.close()

    # -- what is known about the parts of a world

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = make()
        return found

    def _proc(self, world: World) -> tuple[Pull, Command]:
        proc: tuple[Pull, Command] = self.procs.values[world.proc]
        return proc

    def _server(self, world: World) -> StreamModel:
        server: StreamModel = self.servers.values[world.server]
        return server

    def _facts(self, journal: int) -> Facts:
        def make() -> Facts:
            kept: Journal = self.journals.values[journal]
            return Facts(dict(kept.rows))

        facts: Facts = self._once(("facts", journal), make)
        return facts

    def _message(self, element: bytes) -> int:
        number = self.messages.of(element)
        if number not in self._values:
            value = self._values[number] = orjson.loads(element).get("v", 0)
            if value in self.limits.heavy:
                self._manners = self._manners._replace(heavy=self._manners.heavy | {number})
            if value in self.limits.poison:
                self._manners = self._manners._replace(poison=self._manners.poison | {number})
        return number

    def _value(self, message: int) -> int:
        """A record's value; 0 for what is none."""
        value = self._values.get(message)
        return self._values[self._message(self.messages.values[message])] if value is None else value

    def _messages_of(self, batch: SealedBatch) -> tuple[int, ...]:
        def make() -> tuple[int, ...]:
            # The elements as they are: no value in these tests has a comma between braces.
            elements = batch.body[1:-1].replace(b"},{", b"}\n{").split(b"\n")
            return tuple(map(self._message, elements))

        messages: tuple[int, ...] = self._once(("messages", batch.body), make)
        return messages

    # -- the journal

    def _turn(
        self,
        world: World,
        key: Hashable,
        action: Callable[[TurnWriter], Any],
        accepted: tuple[tuple[int, int], ...] = (),
    ) -> Turned:
        """Let the journal do something."""

        def make() -> Turned:
            before: Journal = self.journals.values[world.journal]
            writer = TurnWriter(dict(before.rows), self._settings)
            if world.lazy is not None:
                writer.resolutions.append(Resolution(STREAM, *world.lazy))
            try:
                result = action(writer)
            except JournalDamagedError as error:
                result = error
            line = before.accepted + accepted
            commits = tuple(self.journals.of(Journal(frozenset(each.items()), line)) for each in writer.commits)
            pending = writer.resolutions
            lazy = (pending[0].seq, pending[0].offset) if pending else None
            return Turned(commits[-1] if commits else world.journal, lazy, commits, result)

        turned: Turned = self._once(("turn", world.journal, world.lazy, key), make)
        return turned

    def _ask_store(
        self, world: World, key: Hashable, action: Callable[[StreamStore], Coroutine[Any, Any, Any]]
    ) -> Turned:
        return self._turn(world, key, lambda writer: call(self._waiter, writer, action))

    def _accept(self, world: World) -> World:
        """The next group of records is accepted."""
        count = self.limits.groups[world.groups]
        first = sum(self.limits.groups[: world.groups]) + 1
        position = self._facts(world.journal).book.next_position
        values = range(first, first + count)
        accepted = tuple(zip(range(position, position + count), values, strict=True))
        records = [Record("s", "d", b'"v":%d}' % value) for value in values]
        turned = self._turn(world, ("accept", world.groups), lambda writer: writer.turn(records=records), accepted)
        return world._replace(journal=turned.journal, lazy=turned.lazy, groups=world.groups + 1)

    # -- the process

    def _react(self, world: World, told: Told) -> World:
        """The machine is told something; a wait is over at once, as nothing happens in it that may not later."""

        def make() -> int:
            pull, _ = self._proc(world)
            event: Event
            if isinstance(told, Said | Failure):
                answer = Reply(told.status, dict(told.headers)) if isinstance(told, Said) else told
                event = _pull.Answered(answer, 30.0 * pull.refusals)
            else:
                event = told
            return self._number_of(_pull.react(pull, event))

        return world._replace(proc=self._once(("react", world.proc, told), make))

    def _number_of(self, step: _pull.Step) -> int:
        pull, command = step
        while isinstance(command, _pull.Wait):
            pull, command = _pull.react(pull, _pull.Done())
        # How long to wait and what to show makes no difference here; the clock counts from the first refusal.
        pull = replace(pull, failures=0, trouble="", refused_since=0.0)
        if isinstance(command, _pull.Halt):
            command = replace(command, reason="")
        elif isinstance(command, _pull.BeginRepair):
            command = replace(command, why="")
        return self.procs.of((pull, command))

    def _begin(self, world: World, policy: Policy) -> Iterator[World]:
        """A process starts."""
        stored = self._ask_store(world, "load", lambda store: store.load())
        if isinstance(stored.result, JournalDamagedError):
            yield from self._begin_again(world._replace(journal=stored.journal, lazy=stored.lazy), policy)
            return
        proc = self._once(
            ("start", stored.result, policy), lambda: self._number_of(_pull.start(stored.result, policy)) + 1
        )
        yield from self._on(world._replace(proc=proc - 1, journal=stored.journal, lazy=stored.lazy))

    def _begin_again(self, world: World, policy: Policy) -> Iterator[World]:
        """The sealed batch cannot be read: as `ds_gateway.uplink` does."""
        assert policy.recover
        marked = self._ask_store(world, "mark", lambda store: store.mark_for_repair())
        yield from self._begin(world._replace(journal=marked.journal, lazy=marked.lazy), policy)

    def _crash(self, world: World) -> Iterator[World]:
        fate = world.fate
        if fate.crashes:
            dead = world._replace(lazy=None, fate=fate._replace(crashes=fate.crashes - 1))
            for policy in self.limits.policies:
                yield from self._begin(dead, policy)

    def _told(self, world: World, told: Told) -> Iterator[World]:
        yield from self._on(self._react(world, told))

    def _on(self, world: World) -> Iterator[World]:
        """Execute commands of which the outcome is certain; after each commit there may be a crash."""
        while True:
            pull, command = self._proc(world)
            self._check_settling(pull, command)
            if not isinstance(command, _AT_ONCE):
                yield world
                return
            turned = self._execute(world, command)
            for commit in turned.commits:
                yield from self._crash(world._replace(journal=commit))
            world = world._replace(journal=turned.journal, lazy=turned.lazy)
            if isinstance(turned.result, JournalDamagedError):
                yield from self._begin_again(world, self.limits.policies[0])
                return
            sealed = isinstance(command, _pull.Reseal | _pull.SetAside)
            world = self._react(world, _pull.Sealed(turned.result) if sealed else _pull.Done())

    def _check_settling(self, pull: Pull, command: Command) -> None:
        if pull.policy.settle:
            assert not isinstance(command, self.settle_commands), f"{command} begins something new"
            assert pull.stored.repairing or not isinstance(command, _pull.PostClaim), "a claim without a repair"

    def _execute(self, world: World, command: Command) -> Turned:
        def action(store: StreamStore) -> Coroutine[Any, Any, Any]:
            match command:
                case _pull.SaveAnchor(offset):
                    return store.save_anchor(offset)
                case _pull.SaveEpoch(epoch):
                    return store.save_epoch(epoch)
                case _pull.SaveClaim(epoch):
                    return store.save_claim(epoch)
                case _pull.BeginRepair(epoch):
                    return store.begin_repair(epoch)
                case _pull.SaveRepair(survey, end, adopt):
                    return store.save_repair(survey, end, adopt=adopt)
                case _pull.Reseal(max_records):
                    return store.reseal(max_records)
                case _pull.SetAside(reason):
                    return store.set_aside(reason)
                case _pull.Resolve(batch, offset):
                    assert world.lazy is None
                    return store.resolve(batch, offset)
                case _:
                    raise AssertionError(command)

        return self._ask_store(world, command, action)
