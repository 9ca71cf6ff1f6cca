"""Long random walks through the worlds of `producer_explorer`: many records, and misfortunes one after the other.

The explorer visits all worlds that a few misfortunes can lead to; here are those that only many of them do.
After each step the journal's counters are what its rows say, what is in memory is what an opening reads, and each
accepted record is in exactly one place: in the stream, in the journal, or told as lost. At the end nothing more
happens, and everything that is left gets there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from durable_streams import _pull
from durable_streams._pull import Policy, Stop
from harness.producer_explorer import Explorer
from harness.producer_worlds import Fate, Limits
from harness.stream_model import Manners

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.producer_worlds import World

MANY: Final = 40
GROUPS: Final = (1, 3, 1, 2, 4, 1, 1, 2, 3, 1, 2, 2)
FAULTS: Final = Fate(crashes=MANY, losses=MANY, doubles=5, forgets=5, restores=4, torn=3, torn_state=3, foreign=5)
FAMILIES: Final = {
    "faults of the server and the network": Limits(FAULTS, groups=GROUPS, keep=6),
    "nothing is kept": Limits(FAULTS._replace(trims=5), groups=GROUPS, keep=0),
    "damaged rows": Limits(
        Fate(crashes=MANY, losses=MANY, forgets=4, torn=2, damages=4, trims=2),
        groups=GROUPS,
        keep=6,
        repeatedly=True,
    ),
    "a small server": Limits(FAULTS, groups=GROUPS, keep=6, manners=Manners(max_messages=2), heavy=(4, 9)),
    "a record that is refused": Limits(
        Fate(crashes=MANY, losses=MANY, forgets=3, bisects=MANY),
        groups=GROUPS,
        keep=6,
        poison=(3, 11),
        stops=frozenset({Stop.REFUSED}),
    ),
    "a rolled back journal": Limits(
        Fate(crashes=MANY, losses=MANY, doubles=3, rollbacks=1, claims=MANY),
        groups=GROUPS,
        keep=6,
        stops=frozenset({Stop.SERVER_AHEAD, Stop.FOREIGN, Stop.FENCED}),
    ),
    "fenced at each start": Limits(
        FAULTS, groups=GROUPS, keep=6, policies=(Policy(recover=True, fence_on_start=True),)
    ),
}


class RepairMachine(RuleBasedStateMachine):
    """One walk."""

    explorer: Explorer
    world: World

    @initialize(family=st.sampled_from(sorted(FAMILIES)), early=st.integers(0, 4))
    def begin(self, family: str, early: int) -> None:
        limits = FAMILIES[family]
        self.explorer = Explorer(limits)
        self.world = next(iter(self.explorer._first()))
        for _ in range(early):
            self.world = self.explorer._accept(self.world)

    @property
    def command(self) -> _pull.Command:
        return self.explorer._proc(self.world)[1]

    def go(self, ways: Sequence[World], which: int) -> None:
        if ways:
            self.world = ways[which % len(ways)]

    @rule(steps=st.integers(1, 12), which=st.integers(0, 1))
    def nothing_happens(self, steps: int, which: int) -> None:
        """The process goes on; an uplink that waits is given records."""
        for _ in range(steps):
            ways = self.undisturbed()
            self.go(ways, which)

    def undisturbed(self) -> list[World]:
        """What the server's answer leads to, and nothing else; for a seal, the smallest and the largest."""
        pull, command = self.explorer._proc(self.world)
        if isinstance(command, _pull.Halt):
            return list(self.explorer._operator(self.world))
        calm = self.world._replace(fate=Fate())
        ways = list(self.explorer._commanded(calm, pull, command))
        if not ways and self.world.groups < len(GROUPS):
            return [self.explorer._accept(self.world)]
        return [way._replace(fate=self.world.fate) for way in ways]

    @rule(which=st.integers(0, 1000))
    def something_happens(self, which: int) -> None:
        self.go(list(self.explorer._steps(self.world)), which)

    @rule(which=st.integers(0, 1000))
    def a_misfortune(self, which: int) -> None:
        self.go(list(self.explorer._misfortunes(self.world)), which)

    @precondition(lambda self: self.world.groups < len(GROUPS))
    @rule()
    def records_come(self) -> None:
        self.world = self.explorer._accept(self.world)

    @invariant()
    def everything_is_in_one_place(self) -> None:
        if hasattr(self, "world"):
            self.explorer._check(self.world)
            self.explorer._is_end(self.world)

    def teardown(self) -> None:
        """Nothing more happens: everything gets into the stream."""
        if not hasattr(self, "world"):
            return
        try:
            self.world = self.world._replace(late=(), fate=self.world.fate._replace(crashes=1))
            self.go(list(self.explorer._crash(self.world)), 0)
            self.world = self.world._replace(fate=self.explorer.limits.fate._replace(claims=5, bisects=5))
            for _ in range(600):
                ways = self.undisturbed()
                if not ways:
                    break
                self.go(ways, 1)
                self.everything_is_in_one_place()
            facts = self.explorer._facts(self.world.journal)
            assert isinstance(self.command, _pull.NextBatch), f"it got no further than {self.command}"
            assert not facts.open
            assert not self.explorer._untold(self.world)
        except AssertionError:
            print(self.explorer.describe(self.world))
            raise
        finally:
            self.explorer.close()


TestRepairs = RepairMachine.TestCase
TestRepairs.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    report_multiple_bugs=False,
)
