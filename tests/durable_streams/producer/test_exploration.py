"""Every interleaving of faults in small worlds, with the real machine and the real journal (`producer_explorer`).

In every world: no record is twice in the stream; records stand in it in the order in which they were accepted
(also after a server lost some: what is sent again comes behind what is left, and nothing stands behind what it
lost); what the journal takes for resolved is in the stream, or is told as lost, or the server lost it and its next
answer shows that; the journal's counters are what its rows say. From every world an end can be reached: everything
is in the stream, or the uplink has stopped for a reason that the algorithm's table gives for these faults.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from durable_streams._pull import Policy, Stop
from harness.producer_explorer import Explorer, Violation
from harness.producer_worlds import Fate, Limits
from harness.stream_model import Manners

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

BY_ITSELF = Policy(recover=True)
BY_AN_OPERATOR = Policy(halt_if_used=True)
FENCING = Policy(recover=True, fence_on_start=True)
SETTLING = Policy(recover=True, settle=True, create=False)
SETTLING_ONLY = Policy(settle=True, create=False)
SMALL = (1, 1)


def explore(limits: Limits) -> Explorer:
    explorer = Explorer(limits)
    explorer.run()
    stops = {stop.name.lower(): count for stop, count in explorer.stops.items()}
    print(f"{limits}: {explorer.visited} worlds, {explorer.completed} complete, stopped {stops or 'nowhere'}")
    assert explorer.completed > 10
    assert set(explorer.stops) == limits.stops, "what may stop it does, and nothing else"
    return explorer


def long(limits: Limits) -> ParameterSet:
    """Of the long tests."""
    return pytest.param(limits, marks=pytest.mark.soak)


ORDINARY = [
    Limits(Fate(crashes=1, losses=2)),
    Limits(Fate(crashes=2, losses=1), groups=SMALL, early=1, anytime=True),
    Limits(Fate(crashes=1, losses=1, doubles=1)),
    Limits(Fate(crashes=1, losses=1), groups=(2, 1), early=1, policies=(BY_AN_OPERATOR,)),
    Limits(Fate(crashes=1, losses=1), policies=(FENCING,)),
    Limits(Fate(crashes=1, losses=1, forgets=1), groups=SMALL, early=1),
    Limits(Fate(crashes=1, losses=1, torn=1), groups=SMALL, early=1),
    Limits(Fate(crashes=1, losses=1, torn_state=1), groups=SMALL, early=1),
    Limits(Fate(losses=1, torn=1, forgets=1), groups=SMALL),
    Limits(Fate(crashes=1, restores=1)),
    Limits(Fate(losses=1, restores=1)),
    Limits(Fate(crashes=1, restores=1), keep=1),
    Limits(Fate(crashes=1, restores=1, trims=1), groups=SMALL),
    # What a repair finds in the middle of a segment stays kept: a second restore loses it again.
    long(Limits(Fate(restores=2), groups=(1, 2, 1, 1), manners=Manners(max_messages=1))),
    long(Limits(Fate(losses=1, restores=2), groups=(2, 1, 1))),
    Limits(Fate(losses=1, restores=1, foreign=1), groups=SMALL, early=1, keep=1),
    Limits(Fate(crashes=1, losses=1, renewals=1), groups=SMALL, early=1),
    Limits(Fate(crashes=1, renewals=1), keep=1),
    Limits(Fate(crashes=1, losses=1, foreign=1), groups=SMALL, early=1),
]
STOPPING = [
    Limits(Fate(crashes=1, losses=1, closes=1), stops=frozenset({Stop.CLOSED})),
    Limits(Fate(crashes=1, losses=1, deletions=1), stops=frozenset({Stop.MISSING})),
    Limits(
        Fate(crashes=1, losses=1, deletions=1),
        groups=SMALL,
        manners=Manners(proved=False),
        stops=frozenset({Stop.MISSING}),
    ),
    Limits(Fate(crashes=1, deletions=1, claims=1), groups=SMALL, stops=frozenset({Stop.MISSING})),
    Limits(
        Fate(crashes=1, losses=1, forgets=1),
        groups=SMALL,
        policies=(BY_AN_OPERATOR,),
        stops=frozenset({Stop.FORGOTTEN}),
    ),
    Limits(
        Fate(crashes=1, losses=1, torn=1),
        groups=SMALL,
        policies=(BY_AN_OPERATOR,),
        stops=frozenset({Stop.SERVER_BEHIND, Stop.FORGOTTEN}),
    ),
    # A stream that keeps nothing for ever: nobody can know whether a batch arrived that is expired by now.
    Limits(Fate(crashes=1, losses=1, expiries=1), groups=SMALL, stops=frozenset({Stop.SERVER_BEHIND})),
    Limits(Fate(crashes=1, expiries=1, forgets=1, claims=1), groups=SMALL, stops=frozenset({Stop.SERVER_BEHIND})),
    # The journal is rolled back, or a copy of it sends: only an operator knows which one goes on.
    Limits(
        Fate(losses=1, rollbacks=1, claims=1),
        stops=frozenset({Stop.SERVER_AHEAD, Stop.FOREIGN, Stop.FENCED}),
    ),
    Limits(
        Fate(crashes=1, rollbacks=1, claims=1),
        groups=(2, 1),
        early=1,
        stops=frozenset({Stop.SERVER_AHEAD, Stop.FOREIGN, Stop.FENCED}),
    ),
    Limits(
        Fate(losses=1, clones=1, claims=1),
        groups=SMALL,
        stops=frozenset({Stop.FOREIGN, Stop.FENCED}),
    ),
    Limits(Fate(rollbacks=1), policies=(BY_AN_OPERATOR,), stops=frozenset({Stop.SERVER_AHEAD})),
]
REFUSED = [
    Limits(Fate(crashes=1, losses=1), groups=(2, 2), manners=Manners(max_messages=1)),
    Limits(Fate(losses=1), groups=(2, 2), manners=Manners(max_messages=1, proved=False)),
    Limits(Fate(crashes=1, losses=1), groups=(2, 2), heavy=(2,)),
    Limits(Fate(losses=1, forgets=1), groups=(3, 1), manners=Manners(max_messages=2)),
    Limits(Fate(losses=1, crashes=1, changes=2), groups=(2, 1), early=1),
    Limits(Fate(crashes=1, losses=1, bisects=1), groups=(3, 1), poison=(2,), stops=frozenset({Stop.REFUSED})),
]
DAMAGED = [
    Limits(Fate(crashes=1, forgets=1, damages=1), groups=SMALL, keep=2),
    Limits(Fate(losses=1, damages=1, torn=1), groups=(1, 2), early=2),
    Limits(Fate(losses=1, damages=1), keep=2),
    Limits(Fate(crashes=1, damages=1, trims=1), groups=SMALL),
]
FENCING_ALWAYS = [
    long(Limits(Fate(losses=1, rollbacks=1), policies=(FENCING,))),
    Limits(Fate(losses=1, rollbacks=1), groups=SMALL, policies=(FENCING,)),
    # A copy that is alive, too, is still told from ours.
    Limits(
        Fate(crashes=1, clones=1), groups=SMALL, policies=(FENCING,), stops=frozenset({Stop.FOREIGN, Stop.FENCED})
    ),
]
# Every process but the first may be one that only settles: what is open then goes to another server.
SETTLED = [
    long(Limits(Fate(crashes=1, losses=2), policies=(BY_AN_OPERATOR, SETTLING_ONLY))),
    Limits(Fate(crashes=1, losses=1), policies=(BY_AN_OPERATOR, SETTLING_ONLY)),
    Limits(Fate(crashes=2, losses=1), groups=SMALL, policies=(BY_ITSELF, SETTLING)),
    Limits(Fate(crashes=1, losses=1, torn=1), groups=SMALL, policies=(BY_ITSELF, SETTLING)),
    Limits(Fate(crashes=1, losses=1, forgets=1), groups=SMALL, policies=(BY_ITSELF, SETTLING)),
    Limits(Fate(crashes=1, restores=1), groups=SMALL, policies=(BY_ITSELF, SETTLING)),
]
WIDE = [
    Limits(Fate(crashes=2, losses=2, doubles=1)),
    Limits(Fate(crashes=2, losses=1), groups=(1, 2, 1), anytime=True),
    Limits(Fate(crashes=2, losses=1, forgets=2), groups=SMALL, early=1),
    Limits(Fate(crashes=1, losses=1, restores=1), keep=1),
    Limits(Fate(crashes=1, losses=1, restores=1, forgets=1), groups=SMALL, keep=1),
    Limits(Fate(crashes=2, losses=1, torn=1, torn_state=1), groups=SMALL),
    Limits(Fate(crashes=1, losses=1, renewals=1, foreign=1), groups=SMALL),
    Limits(Fate(crashes=1, losses=1, forgets=1, expiries=1), stops=frozenset({Stop.SERVER_BEHIND})),
    Limits(
        Fate(crashes=1, losses=1, clones=1, claims=1),
        stops=frozenset({Stop.FOREIGN, Stop.FENCED, Stop.SERVER_AHEAD}),
    ),
]


@pytest.mark.parametrize("limits", ORDINARY, ids=str)
def test_what_no_operator_is_needed_for(limits: Limits) -> None:
    explore(limits)


@pytest.mark.parametrize("limits", STOPPING, ids=str)
def test_what_stops_the_uplink(limits: Limits) -> None:
    explore(limits)


@pytest.mark.parametrize("limits", REFUSED, ids=str)
def test_batches_that_the_server_refuses(limits: Limits) -> None:
    explore(limits)


@pytest.mark.parametrize("limits", DAMAGED, ids=str)
def test_a_row_of_the_journal_is_damaged(limits: Limits) -> None:
    explore(limits)


@pytest.mark.parametrize("limits", FENCING_ALWAYS, ids=str)
def test_with_a_claim_at_each_start_a_rollback_needs_nobody(limits: Limits) -> None:
    explore(limits)


@pytest.mark.parametrize("limits", SETTLED, ids=str)
def test_what_is_settled_is_never_sent_to_two_servers(limits: Limits) -> None:
    explorer = explore(replace(limits, stops=frozenset({Stop.SETTLED})))
    assert explorer.stops[Stop.SETTLED] > 100


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("limits", WIDE, ids=str)
def test_wider_worlds(limits: Limits) -> None:
    explore(limits)


def test_a_server_that_tears_data_and_state_apart_stores_nothing_twice() -> None:
    explore(Limits(Fate(losses=1, torn=1), groups=SMALL))


def test_without_the_read_back_such_a_server_stores_twice() -> None:
    limits = Limits(Fate(losses=1, torn=1), groups=SMALL, policies=(Policy(read_back=False),))
    with pytest.raises(Violation, match="stored twice"):
        Explorer(limits).run()


def test_a_violation_tells_the_steps_that_lead_to_it() -> None:
    limits = Limits(Fate(closes=1), groups=(1,), early=1)
    with pytest.raises(Violation, match=r"(?s)nothing here may stop it: Stop.CLOSED.*LOOK .*CLAIM .*STOPPED"):
        Explorer(limits).run()
