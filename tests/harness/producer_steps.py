"""What may happen next in a world of `producer_explorer`, worked out with the real code."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import rows
from ds_gateway.journal.stream_store import StreamStore
from ds_gateway.journal.survey import JournalSurvey
from durable_streams import _pull
from durable_streams._drain import Ask, BeginSurvey, Drain
from durable_streams._exchange import RetryPolicy
from durable_streams._producer import PROBE_SEQ
from durable_streams._wire import Failure, Reply
from harness.producer_gateway import Gateway, Told
from harness.producer_worlds import CLAIM, CLONES, FOREIGN, LARGEST, SMALLEST, Journal, World
from harness.row_journal import URL, TurnWriter, call, new_rows
from harness.stream_model import Said, StreamModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_streams._pull import Command, Event, Pull

_LOST: Final = Failure("timed out")
_UNSENT: Final = Failure("connection refused", sent=False)
_HTML: Final = Said(502, (("content-type", "text/html"),))
_PORTAL: Final = (Said(405, (("content-type", "text/html"),)), Said(410, (("content-type", "text/html"),)))
"""What somebody on the way says to a look at the stream, or a read."""
_READS: Final = frozenset({_pull.Stage.READ, _pull.Stage.SURVEY})
_RETRY: Final = RetryPolicy(random=Random(0), utc_now=lambda: datetime.now(UTC), monotonic=lambda: 0.0)
"""No time passes while something is read; the machine is told when by `Gateway._react`."""


class Steps(Gateway):
    """The steps."""

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
                # No stream here is gone: whoever says so is on the way, and says it of any other stream, too.
                if pull.refusal != 410 or pull.stage in _READS:
                    yield from self._told(world, _pull.PathConfirmed(confirmed=True))
                yield from self._told(world, _pull.PathConfirmed(confirmed=False))
            case _:
                raise AssertionError(command)

    def _no_answer(self, world: World) -> Iterator[World]:
        fate = world.fate
        if fate.losses:
            for answer in (_LOST, *_PORTAL):
                yield from self._told(world._replace(fate=fate._replace(losses=fate.losses - 1)), answer)

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
            turned = self._ask_store(world, ("seal", most), partial(StreamStore.next_batch, max_bytes=most))
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
            flow = drain._execute(pull, command)
            outcome: Any = None
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
                key = repr(vars(survey))
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
        # With a claim on the way a server that forgets takes it again, and what comes behind it (section 8).
        claiming = any(CLAIM in messages for _, _, messages in world.late)
        if fate.forgets and server.known and not claiming:
            yield serve(server._replace(known=False, epoch=0, last=-1), forgets=fate.forgets - 1)
        if fate.restores and server.exists:
            if len(world.backups) < fate.restores and world.server not in world.backups:
                yield world._replace(backups=(*world.backups, world.server))
            for number, backup in enumerate(world.backups):
                older: StreamModel = self.servers.values[backup]
                # A server that went back is one that forgot what came since.
                if backup != world.server and not claiming:
                    loses = 2 if server.log != older.log else world.lost
                    restored = serve(older, lost=loses, restores=fate.restores - 1)
                    yield restored._replace(backups=world.backups[:number])
        if fate.foreign and server.exists and not server.closed:
            yield serve(server._replace(log=(*server.log, FOREIGN)), foreign=fate.foreign - 1)
        if fate.expiries:
            for first in {len(server.log), len(server.log) - 1}:
                if first > server.first:
                    yield serve(server._replace(first=first), expiries=fate.expiries - 1)
        if fate.changes:
            yield serve(server._replace(narrow=not server.narrow), changes=fate.changes - 1)
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
