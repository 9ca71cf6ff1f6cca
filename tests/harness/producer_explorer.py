"""Every interleaving of what can happen to one stream, explored with the real code on the gateway's side.

Real: the producer's machine (`durable_streams._pull`), what executes its reads (`_drain`), and the journal (state,
book, plan, repair, survey, the store of an uplink) over rows in memory. Played: the server (`stream_model`), the
network, the writer's thread, and fate. All real functions are pure here, so each is asked once for each question,
and a world is a few small numbers.

A step of a world is whatever may happen next:

- the process is killed: at any point, also between the server's effect and its answer, and after each commit;
- a request is lost, or its answer, or it arrives later (its sender dead or gone on), or twice;
- the server forgets the producer, is restored from a backup, dies between two commits of its own, closes or
  deletes the stream, expires its beginning, has it made anew, takes somebody else's messages;
- the journal is rolled back, or copied and the copy sends; a row of it is damaged; what it keeps has to give way;
- an operator claims, or lets a refused batch be halved.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import TYPE_CHECKING

from durable_streams import _pull
from durable_streams._pull import Stage, Stop
from harness.producer_gateway import parts
from harness.producer_steps import Steps
from harness.producer_worlds import CLAIM, CLONES, FOREIGN
from harness.row_journal import is_lost_by_server, loss_of, position_of

if TYPE_CHECKING:
    from harness.producer_worlds import Limits, World
    from harness.stream_model import StreamModel


class Violation(AssertionError):  # noqa: N818 - it is what a test fails with
    """Something that must hold does not; the steps that lead there are in the message."""


class Explorer(Steps):
    """Visits every world that can be reached, and checks what must hold in each."""

    def __init__(self, limits: Limits, *, cap: int = 3_000_000) -> None:
        super().__init__(limits)
        self.cap = cap
        self.stops: dict[Stop, int] = {}
        self.completed = 0
        self.visited = 0

    # -- the search

    def run(self) -> None:
        """Visit all. Raises `Violation`."""
        try:
            self._run()
        finally:
            self.close()

    def _run(self) -> None:
        seen: dict[World, int] = {}
        worlds: list[World] = []
        parents = array("l")
        queue: deque[int] = deque()
        sources, targets, ends = array("l"), array("l"), bytearray()

        def visit(world: World, parent: int) -> int:
            place = seen.setdefault(world, len(worlds))
            if place == len(worlds):
                worlds.append(world)
                parents.append(parent)
                ends.append(0)
                queue.append(place)
            return place

        for world in self._first():
            visit(world, -1)
        while queue:
            number = queue.popleft()
            world = worlds[number]
            try:
                self._check(world)
                ends[number] = self._is_end(world)
                for following in self._steps(world):
                    sources.append(number)
                    targets.append(visit(following, number))
            except AssertionError as error:
                path = [number]
                while parents[path[-1]] >= 0:
                    path.append(parents[path[-1]])
                steps = "\n".join(self.describe(worlds[each]) for each in reversed(path))
                raise Violation(f"{error}\nafter these steps:\n{steps}") from error
            assert len(worlds) < self.cap, f"more than {self.cap} worlds"
        self.visited = len(worlds)
        self._check_that_an_end_can_be_reached(worlds, parents, sources, targets, ends)

    def _check_that_an_end_can_be_reached(
        self, worlds: list[World], parents: array[int], sources: array[int], targets: array[int], ends: bytearray
    ) -> None:
        changed = True
        while changed:
            changed = False
            for source, target in zip(reversed(sources), reversed(targets), strict=True):
                if ends[target] and not ends[source]:
                    ends[source] = changed = True
        stuck = ends.find(0)
        if stuck >= 0:
            path = [stuck]
            while parents[path[-1]] >= 0:
                path.append(parents[path[-1]])
            steps = "\n".join(self.describe(worlds[each]) for each in reversed(path))
            raise Violation(f"{ends.count(0)} of {len(worlds)} worlds lead nowhere, as\n{steps}")

    def describe(self, world: World) -> str:
        """One line, and one for what is on the disk."""
        pull, command = self._proc(world)
        server: StreamModel = self.servers.values[world.server]
        log = " ".join(self._name(each) for each in server.log)
        facts = self._facts(world.journal)
        book = facts.book
        names = [" ".join(self._name(self.messages.of(each)) for each in part) for part in parts(facts)]
        rest = f"{' lazy ' + str(world.lazy) if world.lazy else ''} late {world.late} lost {world.lost}"
        return (
            f"  {pull.stage.name:8} {str(command)[:90]}\n"
            f"      server epoch {server.epoch if server.known else '-'} last {server.last} first {server.first} "
            f"{'' if server.exists else 'GONE '}{'CLOSED ' if server.closed else ''}[{log}]"
            f" | epoch {book.epoch}{'' if book.claimed else ' unclaimed'}{' repairing' if book.repairing else ''}"
            f" seq {book.resolved_seq} anchor {book.anchor} oldest {book.kept_anchor} high {book.high_water}"
            f" kept [{names[0]}] sealed [{names[1]}] open [{names[2]}]{rest}"
        )

    def _name(self, message: int) -> str:
        if message in {CLAIM, FOREIGN}:
            return "CF"[message]
        element = self.messages.values[message]
        lost = loss_of(element)
        name = f"lost{lost[0]}-{lost[1]}" if lost else f"v{self._value(message)}"
        return f"{position_of(element)}:{name}"

    # -- what must hold

    def _is_strange(self, world: World) -> bool:
        """Whether another line of the journal has written, too."""
        before, now = self.limits.fate, world.fate
        return before.rollbacks != now.rollbacks or before.clones != now.clones

    def _check(self, world: World) -> None:
        strange = self._is_strange(world)
        blind = self.limits.fate.claims != world.fate.claims and self.limits.fate.expiries != world.fate.expiries
        key = ("checked", world.journal, world.server, world.lost > 0, strange, blind)
        if key in self._memo:
            return
        self._check_stream(world.server, blind=blind)
        self._check_journal(world, strange=strange, blind=blind)
        self._memo[key] = True

    def _check_stream(self, number: int, *, blind: bool) -> None:
        server: StreamModel = self.servers.values[number]
        values = [value for value in map(self._value, server.log) if value]
        # An operator may claim where nobody can know whether a batch arrived: it is sent again.
        assert blind or len(values) == len(set(values)), f"stored twice: {values}"
        own = [value for value in dict.fromkeys(values) if value < CLONES]
        assert own == sorted(own), f"out of order: {values}"

    def _check_journal(self, world: World, *, strange: bool, blind: bool) -> None:
        facts = self._facts(world.journal)
        if facts.readable:  # until it is replaced, a damaged row does not tell what it held
            exact = not self.limits.repeatedly or world.fate.damages == self.limits.fate.damages
            self._once(("sums", world.journal, exact), lambda: facts.check(exact=exact))
        there = set(map(self._value, self._server(world).log))
        if not strange and not blind and self._takes_next(world):
            twice = there.intersection(self._value(self._message(each)) for each in facts.open) - {0}
            assert not twice, f"records {twice} would be sent, and are in the stream"
        if not strange and not blind and facts.book.kept_segment == 1:
            told = list(filter(is_lost_by_server, (*facts.kept, *facts.sealed, *facts.open)))
            assert not told, f"everything is kept, and {told} is told as lost"
        untold = self._untold(world)
        assert world.lost or facts.damaged or not untold, (
            f"records {untold} are neither in the stream nor in the journal, and nothing tells that"
        )

    def _untold(self, world: World) -> set[int]:
        """Values of records that are nowhere, without a word."""

        def make() -> set[int]:
            server, facts = self._server(world), self._facts(world.journal)
            there = set(map(self._value, server.log))
            waits = {self._value(self._message(each)) for each in (*facts.sealed, *facts.open)}
            elements = [self.messages.values[message] for message in server.log if message > FOREIGN]
            ranges = [lost for each in (*elements, *facts.sealed, *facts.open) if (lost := loss_of(each))]
            # A copy's record under the same id, with the same number, is taken for ours: nobody compares contents.
            copies = {position_of(each) for each in elements if self._value(self._message(each)) >= CLONES}
            return {
                value
                for position, value in self.journals.values[world.journal].accepted
                if value not in there | waits
                and position not in copies
                and not any(first <= position <= last for first, last in ranges)
            }

        untold: set[int] = self._once(("untold", world.journal, world.server), make)
        return untold

    def _is_end(self, world: World) -> bool:
        pull, command = self._proc(world)
        if isinstance(command, _pull.Halt):
            assert command.stop in self.limits.stops, f"nothing here may stop it: {command.stop}"
            self.stops[command.stop] = self.stops.get(command.stop, 0) + 1
            if command.stop is Stop.SETTLED:
                self._check_settled(world)
            return True
        book = self._facts(world.journal).book
        sealed = book.sealed is not None and world.lazy is None
        done = pull.stage is Stage.IDLE and world.groups == len(self.limits.groups)
        if not done or sealed or book.open_records:
            return False
        self.completed += 1
        if world.lost and self._untold(world):
            assert not self._takes_next(world), "the server lost records, and nothing will ever show it"
        return True

    def _takes_next(self, world: World) -> bool:
        """Whether the server would take the next batch; if not, its answer tells that something is wrong."""
        book, server = self._facts(world.journal).book, self._server(world)
        last = book.resolved_seq if world.lazy is None else world.lazy[0]
        return not book.repairing and server.known and (server.epoch, server.last) == (book.epoch, last)

    def _check_settled(self, world: World) -> None:
        """Nothing that is sent to the next server is in this one's stream, now or later."""
        book = self._facts(world.journal).book
        assert book.sealed is None or world.lazy is not None, "a batch is unresolved still"
        server: StreamModel = self.servers.values[world.server]
        for epoch, seq, messages in world.late:
            server = server.post(epoch, seq, messages, self._manners)[0]
        there = {self._value(message) for message in server.log}
        both = {self._value(self.messages.of(each)) for each in self._facts(world.journal).open} & there
        assert not both, f"settled, but {both} would be sent to both servers"
