"""What may happen next in a world of `producer_explorer`, worked out with the real code."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import rows
from ds_gateway.journal.survey import JournalSurvey
from ds_gateway.journal.writer import Resolution
from ds_gateway.records import Record
from durable_streams import _pull
from durable_streams._drain import Ask, BeginSurvey, Drain
from durable_streams._producer import PROBE_SEQ
from durable_streams._pull import Stage
from durable_streams._wire import Failure, Reply
from harness.producer_worlds import CLAIM, CLONES, FOREIGN, LARGEST, SMALLEST, Journal, Numbers, World
from harness.row_journal import STREAM, URL, Facts, RowsSettings, TurnWriter, Waiter, call, new_rows
from harness.stream_model import Said, StreamModel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterator

    from ds_gateway.journal.stream_store import StreamStore
    from durable_streams._exchange import RetryPolicy
    from durable_streams._pull import Command, Event, Policy, Pull
    from durable_streams._store import SealedBatch
    from harness.producer_worlds import Limits

_LOST: Final = Failure("timed out")
_UNSENT: Final = Failure("connection refused", sent=False)
_HTML: Final = Said(502, (("content-type", "text/html"),))
_RETRY: Final[RetryPolicy] = None  # type: ignore[assignment]  # reads never wait

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

Told = Said | Failure | _pull.Found | _pull.Surveyed | _pull.PathConfirmed | _pull.Sealed | _pull.Done


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


class Steps:
    """The steps, and a memory of every question that the real code was asked."""

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

    # -- what may happen next

    def _first(self) -> Iterator[World]:
        journal = self.journals.of(Journal(frozenset(new_rows().items()), ()))
        world = World(-1, journal, None, self.servers.of(StreamModel()), (), self.limits.fate, 0)
        for _ in range(self.limits.early):
            world = self._accept(world)
        yield from self._begin(world, self.limits.policies[0])

    def _steps(self, world: World) -> Iterator[World]:
        pull, command = self._proc(world)
        for number, (epoch, seq, messages) in enumerate(world.late):
            rest = world._replace(late=world.late[:number] + world.late[number + 1 :])
            yield rest
            yield rest._replace(server=self._post(world, epoch, seq, messages)[0])
        yield from self._misfortunes(world)
        if isinstance(command, _pull.Halt):
            yield from self._operator(world)
            return
        waits = isinstance(command, _pull.NextBatch | _pull.SaveRepair) or self.limits.anytime
        if waits and world.groups < len(self.limits.groups) and not pull.policy.settle:
            yield self._accept(world)
        if world.lazy is not None:
            flushed = self._turn(world, "flush", lambda writer: writer.turn())
            yield world._replace(journal=flushed.journal, lazy=flushed.lazy)
        yield from self._commanded(world, pull, command)

    def _operator(self, world: World) -> Iterator[World]:
        fate, usual = world.fate, self.limits.policies[0]
        if fate.claims:
            decided = replace(usual, claim=True, recover=True)
            yield from self._begin(world._replace(fate=fate._replace(claims=fate.claims - 1)), decided)
        if fate.bisects:
            decided = replace(usual, bisect=True)
            yield from self._begin(world._replace(fate=fate._replace(bisects=fate.bisects - 1)), decided)

    def _commanded(self, world: World, pull: Pull, command: Command) -> Iterator[World]:
        match command:
            case _pull.PostClaim(attempt):
                yield from self._send(world, attempt.epoch, attempt.seq, (CLAIM,))
            case _pull.PostProbe(attempt):
                assert attempt.seq == PROBE_SEQ
                yield from self._send(world, attempt.epoch, attempt.seq, (CLAIM,))
            case _pull.PostBatch(attempt, batch):
                yield from self._send(world, attempt.epoch, attempt.seq, self._messages_of(batch))
            case _pull.Head():
                yield from self._told(world, self._server(world).head(self._manners))
                yield from self._no_answer(world)
            case _pull.Put():
                created = world._replace(server=self.servers.of(self._server(world)._replace(exists=True)))
                head = self._server(created).head(self._manners)
                yield from self._told(created, Said(201, head.headers))
                yield from self._no_answer(created)
            case _pull.ReadBack(tail=tail) | _pull.ReadAllBack(tail=tail):
                for until in {int(tail), len(self._server(world).log)}:
                    yield from self._read(world, pull, command, until)
                yield from self._no_answer(world)
            case _pull.NextBatch(max_bytes):
                yield from self._seal(world, max_bytes)
            case _pull.SaveRepair():
                turned = self._execute(world, command)
                saved = world._replace(
                    journal=turned.journal, lazy=turned.lazy, lost=0 if world.lost == 1 else world.lost
                )
                if world.fate.crashes:
                    yield from self._crash(saved)
                yield from self._told(saved, _pull.Done())
            case _pull.ConfirmPath():
                yield from self._told(world, _pull.PathConfirmed(confirmed=True))
                yield from self._told(world, _pull.PathConfirmed(confirmed=False))
            case _:
                raise AssertionError(command)

    def _no_answer(self, world: World) -> Iterator[World]:
        fate = world.fate
        if fate.losses:
            yield from self._told(world._replace(fate=fate._replace(losses=fate.losses - 1)), _LOST)

    def _post(self, world: World, epoch: int, seq: int, messages: tuple[int, ...]) -> tuple[int, Said]:
        def make() -> tuple[int, Said]:
            server, said = self._server(world).post(epoch, seq, messages, self._manners)
            return self.servers.of(server), said

        answered: tuple[int, Said] = self._once(("post", world.server, epoch, seq, messages), make)
        return answered

    def _send(self, world: World, epoch: int, seq: int, messages: tuple[int, ...]) -> Iterator[World]:
        after, said = self._post(world, epoch, seq, messages)
        delivered = world._replace(server=after)
        on_the_way = world._replace(late=tuple(sorted((*world.late, (epoch, seq, messages)))))
        fate = world.fate
        yield from self._told(delivered, said)
        yield from self._crash(delivered)
        yield from self._crash(on_the_way)
        if fate.losses:
            fewer = fate._replace(losses=fate.losses - 1)
            for there in (delivered, world, on_the_way):
                yield from self._told(there._replace(fate=fewer), _LOST)
            yield from self._told(world._replace(fate=fewer), _HTML)
            yield from self._told(world._replace(fate=fewer), _UNSENT)
        if fate.doubles:
            twice = on_the_way._replace(server=after, fate=fate._replace(doubles=fate.doubles - 1))
            yield from self._told(twice, said)
        if said.status == 200 and seq != PROBE_SEQ:
            before, then = self._server(world), self._server(delivered)
            # A server that keeps data and producer state apart dies in between; its connections die with it.
            if fate.torn:
                torn = world._replace(
                    server=self.servers.of(before._replace(log=then.log)),
                    fate=fate._replace(torn=fate.torn - 1),
                    late=(),
                )
                yield from self._told(torn, _LOST)
            if fate.torn_state:
                torn = world._replace(
                    server=self.servers.of(then._replace(log=before.log)),
                    fate=fate._replace(torn_state=fate.torn_state - 1),
                    late=(),
                )
                yield from self._told(torn, _LOST)

    def _seal(self, world: World, max_bytes: int | None) -> Iterator[World]:
        flushed = world
        if world.lazy is not None:
            turned = self._turn(world, "flush", lambda writer: writer.turn())
            flushed = world._replace(journal=turned.journal)
        if not self._facts(flushed.journal).book.open_records:
            return
        for size in (SMALLEST, LARGEST):
            most = min(size, max_bytes or size)
            turned = self._ask_store(world, ("seal", most), lambda store, most=most: store.next_batch(most))
            sealed = world._replace(journal=turned.journal, lazy=turned.lazy)
            yield from self._crash(sealed)
            if isinstance(turned.result, JournalDamagedError):
                yield from self._begin_again(sealed, self.limits.policies[0])
            else:
                yield from self._told(sealed, _pull.Sealed(turned.result))

    def _read(self, world: World, pull: Pull, command: Command, until: int) -> Iterator[World]:
        """The real reading, page by page: all at once, or up to ``until`` in pages of one message."""
        server = self._server(world)

        def action(writer: TurnWriter) -> Told:
            store = writer.store()
            drain = Drain(URL, store, pull.policy, LARGEST, _RETRY, lambda _state, _command: None)
            drain = replace(drain, retry=_Clock())  # type: ignore[arg-type]
            flow = drain._execute(pull, command)
            outcome = None
            try:
                while True:
                    effect = flow.send(outcome)
                    match effect:
                        case BeginSurvey():
                            outcome = call(self._waiter, writer, lambda store: store.begin_survey())
                        case Ask(request):
                            said, page = server.read(dict(request.params)["offset"], until)
                            body = b"[" + b",".join(self.messages.values[each] for each in page) + b"]"
                            outcome = Reply(said.status, dict(said.headers), body)
                        case _:
                            raise AssertionError(effect)
            except StopIteration as done:
                return self._as_told(done.value)

        turned = self._turn(world, ("read", command, world.server, until), action)
        lost = 1 if isinstance(turned.result, _pull.Surveyed) and world.lost else world.lost
        after = world._replace(journal=turned.journal, lazy=turned.lazy, lost=lost)
        yield from self._told(after, turned.result)

    def _as_told(self, event: Event) -> Told:
        match event:
            case _pull.Answered(answer):
                if isinstance(answer, Failure):
                    return answer
                return Said(answer.status, tuple(answer.headers.items()))
            case _pull.Surveyed(survey, end):
                assert isinstance(survey, JournalSurvey)
                key = repr((vars(survey) | {"found": vars(survey.found)}))
                return _pull.Surveyed(self._surveys.setdefault(key, survey), end)
            case _:
                return event

    # -- what else may happen

    def _misfortunes(self, world: World) -> Iterator[World]:
        fate, server = world.fate, self._server(world)

        def serve(changed: StreamModel, lost: int | None = None, **fewer: int) -> World:
            return world._replace(
                server=self.servers.of(changed),
                fate=fate._replace(**fewer),
                lost=world.lost if lost is None else lost,
            )

        yield from self._crash(world)
        # With a request on the way a server that forgets stores it again, whatever anybody does (section 8).
        if fate.forgets and server.known and not world.late:
            yield serve(server._replace(known=False, epoch=0, last=-1), forgets=fate.forgets - 1)
        if fate.restores and server.exists:
            if world.backup < 0:
                yield world._replace(backup=world.server)
            elif world.backup != world.server:
                older: StreamModel = self.servers.values[world.backup]
                loses = 2 if server.log != older.log else world.lost
                yield serve(older, lost=loses, restores=fate.restores - 1)._replace(backup=-1)
        if fate.foreign and server.exists and not server.closed:
            yield serve(server._replace(log=(*server.log, FOREIGN)), foreign=fate.foreign - 1)
        if fate.expiries:
            for first in {len(server.log), len(server.log) - 1}:
                if first > server.first:
                    yield serve(server._replace(first=first), expiries=fate.expiries - 1)
        if fate.closes and server.exists and not server.closed:
            yield serve(server._replace(closed=True), closes=fate.closes - 1)
        if fate.deletions and server.log:
            yield serve(StreamModel(), lost=2, deletions=fate.deletions - 1)
        if fate.renewals and server.log:
            yield serve(StreamModel(exists=True), lost=2, renewals=fate.renewals - 1)
        yield from self._misfortunes_of_the_journal(world)

    def _misfortunes_of_the_journal(self, world: World) -> Iterator[World]:
        fate = world.fate
        if fate.trims:
            turned = self._turn(world, "trim", lambda writer: writer.turn(full=True))
            if turned.commits:
                fewer = fate._replace(trims=fate.trims - 1)
                yield world._replace(journal=turned.journal, lazy=turned.lazy, fate=fewer)
        if (fate.rollbacks or fate.clones) and world.image < 0:
            yield world._replace(image=world.journal)
        if fate.rollbacks and world.image not in {-1, world.journal}:
            fewer = fate._replace(rollbacks=fate.rollbacks - 1)
            back = world._replace(journal=world.image, image=-1, lazy=None, fate=fewer)
            for policy in self.limits.policies:
                yield from self._begin(back, policy)
        if fate.clones and world.image >= 0:
            fewer = fate._replace(clones=fate.clones - 1)
            for requests in self._of_a_clone(world.image):
                late = tuple(sorted((*world.late, *requests)))
                yield world._replace(image=-1, fate=fewer, late=late)
        if fate.damages:
            fewer = fate._replace(damages=fate.damages - 1)
            journal: Journal = self.journals.values[world.journal]
            for key, row in sorted(journal.rows):
                if key.startswith(("s/", "r/")):
                    damaged = frozenset(journal.rows - {(key, row)} | {(key, b"damaged")})
                    number = self.journals.of(Journal(damaged, journal.accepted))
                    yield world._replace(journal=number, fate=fewer)

    def _of_a_clone(self, image: int) -> Iterator[tuple[tuple[int, int, tuple[int, ...]], ...]]:
        """What a copy of the journal sends that goes on alone: its own next record, also after what was open."""
        facts = self._facts(image)
        book = facts.book
        if not book.claimed or book.repairing or book.sealed is not None:
            return
        record_id = book.record_id("i" * rows.INSTALL_LETTERS, book.next_position)
        own = self._message(b'{"id":"%b","v":%d}' % (record_id.encode(), CLONES))
        opened = tuple(map(self._message, facts.open))
        seq = book.resolved_seq + 1
        yield ((book.epoch, seq, (*opened, own)),)
        if opened:
            yield (book.epoch, seq, opened), (book.epoch, seq + 1, (own,))
        yield (book.epoch + 1, 0, (CLAIM,)), (book.epoch + 1, 1, (own,))


class _Clock:
    """The part of a `RetryPolicy` that reading needs."""

    def monotonic(self) -> float:
        """No time passes; the machine is told when by `Steps._react`."""
        return 0.0
