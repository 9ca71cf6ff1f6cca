"""The audit's judgement: histories with losses, copies and strangers put into them are found exactly."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_gateway.audit import Comparison, Reading, StreamAudit, judge, unread
from ds_gateway.audit.contents import MAX_JOURNALS, parse_id
from ds_gateway.journal.book import Book, Run
from ds_gateway.journal.reading import NamedLoss, StreamView
from ds_gateway.spans import Spans

INSTALL: Final = "abcdefgh"
INCARNATION: Final = "mnopqr"
PREFIX: Final = f"{INSTALL}.{INCARNATION}"
URL: Final = "http://streams.test/v1/s"
BIRTH: Final = {"id": "b.0.abc", "kind": "birth", "info": {"epoch": 0}}
LATER_BIRTH: Final = {"id": "b.3.abc", "kind": "birth", "info": {"epoch": 3}}

Fate = Literal["there", "gone", "lost", "doubtful"]


def record(position: int, value: object = 1, *, prefix: str = PREFIX) -> dict[str, Any]:
    return {"id": f"{prefix}.{position}", "data": {"value": value}}


def loss(first: int, last: int, *, certain: bool = True, cause: str = "shed_newest") -> dict[str, Any]:
    info = {"cause": cause, "certain": certain, "first_position": first, "last_position": last}
    return {"id": f"{PREFIX}.{first}", "kind": "loss", "info": info}


def server_lost(position: int, lost: tuple[int, int], *, prefix: str = PREFIX) -> dict[str, Any]:
    first, last = lost
    told = loss(first, last, certain=False, cause="server_lost")
    return {**told, "id": f"{prefix}.{position}"}


def book(accepted: int, *, settled: int | None = None, **more: Any) -> Book:
    """A stream that has accepted so many positions, all but the last of which the server has confirmed."""
    settled = accepted if settled is None else settled
    values: dict[str, Any] = {
        "next_position": accepted + 1,
        "high_water": settled,
        "open_position": settled + 1,
        "resolved_records": settled,
        "anchor": "5",
        **more,
    }
    return Book(1, "s", "http://streams.test/v1", "p", INCARNATION, **values)


def view(
    accepted: int, *waiting: tuple[int, int], sealed: tuple[int, int] | None = None, **more: Any
) -> StreamView:
    settled = waiting[0][0] - 1 if waiting else accepted
    made = StreamView(book(accepted, settled=settled), waiting=Spans(waiting), **more)
    if sealed is not None:
        made.sealed = Spans([sealed])
        made.book.sealed = Run(1, 1, 1, sealed[0], sealed[1] - sealed[0] + 1, 100)
    return made


def audited(
    seen: StreamView,
    *messages: Any,
    later: Book | None = None,
    ends_behind_anchor: bool = True,
    compare: bool = False,
) -> StreamAudit:
    reading = Reading()
    for message in messages:
        reading.feed(message)
    comparison = None
    if compare:
        comparison = Comparison(reading.twice)
        for message in messages:
            comparison.feed(message)
    return judge(
        seen,
        later or seen.book,
        reading,
        install=INSTALL,
        url=URL,
        ends_behind_anchor=ends_behind_anchor,
        comparison=comparison,
    )


def kinds(audit: StreamAudit) -> dict[str, list[tuple[int, int]]]:
    return {finding.kind: list(finding.spans) for finding in audit.findings}


def text_of(audit: StreamAudit, kind: str) -> str:
    return next(finding.text for finding in audit.findings if finding.kind == kind)


@dataclass
class History:
    """What became of each position, and what else was put into the stream."""

    fates: list[tuple[Fate, int]]
    """Runs of positions."""
    waiting: int
    sealed: int
    doubles: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)
    strangers: list[int] = field(default_factory=list)
    since: int = 0
    arrived: int = 0
    """Of the sealed ones, these are in the stream already."""
    strange: int = 0
    begins: Literal["birth", "later birth", "no birth"] = "birth"


def add_chosen(history: History, data: st.DataObject) -> History:
    there = sorted(positions(history)["there"])
    if there:
        history.doubles = data.draw(st.sets(st.sampled_from(there), max_size=4))
    if history.doubles:
        history.changed = data.draw(st.sets(st.sampled_from(sorted(history.doubles))))
    return history


HISTORIES = st.builds(
    History,
    fates=st.lists(
        st.tuples(st.sampled_from(("there", "there", "gone", "lost", "doubtful")), st.integers(1, 5)), max_size=8
    ),
    waiting=st.integers(0, 6),
    sealed=st.integers(0, 6),
    strangers=st.lists(st.integers(1, 20), max_size=3, unique=True),
    since=st.integers(0, 3),
    arrived=st.integers(0, 6),
    strange=st.integers(0, 2),
    begins=st.sampled_from(("birth", "later birth", "no birth")),
)


def positions(history: History) -> dict[str, set[int]]:
    """The same, position by position."""
    sets: dict[str, set[int]] = {"there": set(), "gone": set(), "lost": set(), "doubtful": set()}
    position = 0
    for fate, count in history.fates:
        sets[fate] |= set(range(position + 1, position + count + 1))
        position += count
    sets["settled"] = set(range(1, position + 1))
    sets["waiting"] = set(range(position + 1, position + history.waiting + 1))
    sets["sealed"] = set(range(position + 1, position + min(history.waiting, history.sealed) + 1))
    sets["arrived"] = set(range(position + 1, position + min(len(sets["sealed"]), history.arrived) + 1))
    accepted = position + history.waiting
    sets["since"] = set() if history.waiting else set(range(accepted + 1, accepted + history.since + 1))
    sets["foreign"] = {accepted + history.since + beyond for beyond in history.strangers}
    return sets


def messages_of(history: History, sets: dict[str, set[int]]) -> list[Any]:
    stream: list[Any] = {"birth": [BIRTH], "later birth": [BIRTH, LATER_BIRTH], "no birth": []}[history.begins]
    stream = list(stream)
    position = 0
    for fate, count in history.fates:
        first, last = position + 1, position + count
        if fate == "there":
            stream += [record(each) for each in range(first, last + 1)]
        elif fate in {"lost", "doubtful"}:
            stream.append(loss(first, last, certain=fate == "lost", cause=fate))
        position = last
    stream += [record(each) for each in sorted(sets["arrived"])]
    stream += [record(each) for each in sorted(sets["since"])]
    stream += [record(each) for each in sorted(sets["foreign"])]
    stream += [record(each, 2 if each in history.changed else 1) for each in sorted(history.doubles)]
    return stream + [{"something": "else"}] * history.strange


def ranges(wanted: set[int]) -> list[tuple[int, int]]:
    return list(Spans([(position, position) for position in sorted(wanted)]))


@given(HISTORIES, st.data())
def test_what_was_put_in_is_found_and_nothing_else(history: History, data: st.DataObject) -> None:
    history = add_chosen(history, data)
    sets = positions(history)
    seen = view(
        len(sets["settled"]) + history.waiting,
        *ranges(sets["waiting"]),
        sealed=next(iter(ranges(sets["sealed"])), None),
    )
    if not history.waiting:
        seen.book.sealed = None
    later = replace(seen.book, next_position=seen.book.next_position + history.since)
    audit = audited(seen, *messages_of(history, sets), later=later, compare=True)

    # The beginning that is not there has expired, unless the birth of the first epoch stands where it was.
    beginning = set[int]()
    while (position := len(beginning) + 1) in sets["gone"]:
        beginning.add(position)
    expired = set() if history.begins == "birth" else beginning
    found = kinds(audit)
    assert found.get("missing", []) == ranges(sets["gone"] - expired)
    assert found.get("expired", []) == ranges(expired)
    assert found.get("twice", []) == ranges(history.doubles)
    assert found.get("foreign", []) == ranges(sets["foreign"])
    assert found.get("on_their_way", []) == ranges(sets["sealed"] - sets["arrived"])
    assert found.get("loss_in_doubt", []) == ranges(sets["doubtful"])
    assert ("other_records" in found) is bool(history.strange)
    assert not {"there_after_all", "damaged", "missing_copy_kept", "out_of_order"} & found.keys()
    assert audit.accepted == audit.appended + audit.in_journal + audit.ledgered + audit.expired + audit.missing
    assert audit.appended == len(sets["there"] | sets["arrived"])
    assert audit.in_journal == len(sets["waiting"] - sets["arrived"])
    assert audit.ledgered == len(sets["lost"] | sets["doubtful"])
    assert audit.ledger == {kind: len(sets[kind]) for kind in ("doubtful", "lost") if sets[kind]}
    assert audit.since == len(sets["since"])
    assert audit.is_proven is not bool(sets["gone"] - expired or history.doubles or sets["foreign"])
    if history.doubles:
        told = text_of(audit, "twice")
        assert ("differ from one another" in told) is bool(history.changed)
        assert ("the same each time" in told) is not bool(history.changed)


@given(st.permutations(range(1, 9)))
def test_every_record_behind_a_later_one_is_out_of_order(order: list[int]) -> None:
    audit = audited(view(8), *map(record, order))
    behind = [position for index, position in enumerate(order) if position < max(order[:index], default=0)]
    assert audit.out_of_order == len(behind)
    assert audit.is_proven is not bool(behind)
    assert audit.appended == 8


class TestOrder:
    def test_says_which_stands_behind_which(self) -> None:
        audit = audited(view(3), record(1), record(3), record(2))
        assert "2 behind 3" in text_of(audit, "out_of_order")

    def test_a_copy_is_not_out_of_order(self) -> None:
        assert audited(view(2), record(1), record(2), record(1)).out_of_order == 0

    def test_a_loss_record_may_come_late(self) -> None:
        audit = audited(view(4), record(1), record(4), loss(2, 3))
        assert audit.is_proven
        assert audit.ledgered == 2


class TestBeginning:
    def test_an_expired_one_is_no_loss(self) -> None:
        audit = audited(view(9), *map(record, range(5, 10)))
        assert kinds(audit)["expired"] == [(1, 4)]
        assert (audit.is_proven, audit.expired, audit.missing) == (True, 4, 0)

    def test_behind_the_birth_of_the_first_epoch_it_is_missing(self) -> None:
        audit = audited(view(9), BIRTH, *map(record, range(5, 10)))
        assert kinds(audit)["missing"] == [(1, 4)]

    def test_a_move_to_another_server_begins_with_a_later_birth(self) -> None:
        audit = audited(view(9), BIRTH, LATER_BIRTH, *map(record, range(5, 10)))
        assert kinds(audit)["expired"] == [(1, 4)]

    def test_everything_has_expired_at_a_server_that_is_as_far_as_it_said(self) -> None:
        assert kinds(audited(view(9))) == {"expired": [(1, 9)]}

    def test_everything_is_missing_at_a_server_that_went_back(self) -> None:
        assert kinds(audited(view(9), ends_behind_anchor=False)) == {"missing": [(1, 9)]}

    def test_what_was_never_sent_cannot_expire(self) -> None:
        seen = view(9, (7, 9))
        seen.book.resolved_records = 0
        assert kinds(audited(seen)) == {"missing": [(1, 6)]}

    def test_what_was_not_confirmed_cannot_expire(self) -> None:
        seen = view(9, (7, 9), sealed=(3, 8))
        assert kinds(audited(seen))["expired"] == [(1, 2)]
        assert kinds(audited(seen))["missing"] == [(3, 6)]


class TestLosses:
    def test_one_that_waits_in_the_journal_counts(self) -> None:
        seen = view(9, (5, 5), losses=[NamedLoss("shed_newest", True, (5, 9))])
        audit = audited(seen, *map(record, range(1, 5)))
        assert (audit.is_proven, audit.in_journal, audit.ledgered) == (True, 0, 5)
        assert audit.ledger == {"shed_newest": 5}

    def test_one_that_has_arrived_and_waits_for_the_answer_counts_once(self) -> None:
        seen = view(4, (3, 3), losses=[NamedLoss("shed_newest", True, (3, 4))])
        audit = audited(seen, record(1), record(2), loss(3, 4))
        assert (audit.ledgered, audit.ledger) == (2, {"shed_newest": 2})

    def test_one_that_is_not_certain_and_waits_is_in_doubt(self) -> None:
        seen = view(9, (5, 5), losses=[NamedLoss("server_lost", False, (5, 9))])
        audit = audited(seen, *map(record, range(1, 5)))
        assert kinds(audit)["loss_in_doubt"] == [(5, 9)]
        assert (audit.is_proven, audit.in_doubt) == (True, 5)

    def test_one_behind_what_it_names_is_a_position_itself(self) -> None:
        """As a repair tells what a server lost: at the end, of what stood earlier."""
        audit = audited(view(9), BIRTH, record(1), *map(record, range(5, 9)), server_lost(9, (2, 4)))
        assert kinds(audit) == {"loss_in_doubt": [(2, 4)], "ledgered": []}
        assert (audit.is_proven, audit.appended, audit.ledgered, audit.in_doubt) == (True, 6, 3, 3)
        assert audit.ledger == {"server_lost": 3}

    def test_one_behind_what_it_names_explains_nothing_else(self) -> None:
        told = server_lost(9, (3, 4))
        audit = audited(view(9), BIRTH, record(1), *map(record, (5, 6, 8)), told, told)
        assert kinds(audit)["missing"] == [(2, 2), (7, 7)]
        assert kinds(audit)["twice"] == [(9, 9)]

    def test_one_that_waits_behind_what_it_names(self) -> None:
        seen = view(9, (9, 9), losses=[NamedLoss("server_lost", False, (2, 4))])
        audit = audited(seen, BIRTH, record(1), *map(record, range(5, 9)))
        assert kinds(audit) == {"loss_in_doubt": [(2, 4)], "ledgered": []}
        assert (audit.is_proven, audit.in_journal, audit.ledgered) == (True, 1, 3)

    def test_what_the_journal_itself_lost_is_no_sources(self) -> None:
        info = {"cause": "corrupt", "certain": True, "count": 7}
        unknown = {"cause": "corrupt", "certain": False}
        told = [{"id": f"{PREFIX}.{at}", "kind": "loss", "info": each} for at, each in ((1, info), (2, unknown))]
        audit = audited(view(2), *told)
        assert kinds(audit).keys() == {"journal_losses"}
        assert "the journal itself lost (corrupt) 7 records" in text_of(audit, "journal_losses")
        assert "in 2 entries" in text_of(audit, "journal_losses")

    def test_twice(self) -> None:
        audit = audited(view(3), record(1), loss(2, 3), loss(2, 3), compare=True)
        assert kinds(audit)["twice"] == [(2, 2)]
        assert "the same each time" in text_of(audit, "twice")

    def test_what_is_named_lost_and_is_there(self) -> None:
        audit = audited(view(3), record(1), record(2), loss(2, 3))
        assert kinds(audit)["there_after_all"] == [(2, 2)]
        assert (audit.is_proven, audit.appended, audit.ledgered, audit.twice) == (True, 2, 1, 0)

    def test_of_what_is_in_doubt_and_there_nothing_is_told(self) -> None:
        audit = audited(view(3), record(1), record(2), record(3), loss(2, 3, certain=False))
        assert kinds(audit).keys() == {"ledgered"}

    def test_those_of_sources_have_positions_of_their_own(self) -> None:
        info = {"cause": "id_gap", "certain": False, "count": 7}
        told = {"id": f"{PREFIX}.2", "kind": "loss", "info": info}
        audit = audited(view(2), record(1), told, told)
        assert kinds(audit)["twice"] == [(2, 2)]
        assert "id_gap 14 in 2 entries" in text_of(audit, "source_losses")
        assert audit.appended == 2

    def test_what_the_full_quarantine_deleted_is_no_source_s(self) -> None:
        info = {"cause": "quarantined", "certain": True, "count": 7}
        audit = audited(view(2), record(1), {"id": f"{PREFIX}.2", "kind": "loss", "info": info})
        assert kinds(audit).keys() == {"quarantine_losses"}
        assert "the quarantine was full, and 7 of the refused payloads" in text_of(audit, "quarantine_losses")

    @pytest.mark.parametrize(
        "info",
        [
            None,
            {},
            {"cause": "c", "certain": True, "first_position": 2, "last_position": 1},
            {"cause": "c", "certain": True, "first_position": 3, "last_position": 4},
            {"cause": "c", "certain": False, "first_position": 1, "last_position": 4},
            {"cause": "c", "certain": 1, "first_position": 2, "last_position": 4},
        ],
    )
    def test_a_malformed_one_explains_nothing_but_itself(self, info: Any) -> None:
        audit = audited(view(4), record(1), {"id": f"{PREFIX}.2", "kind": "loss", "info": info})
        assert kinds(audit)["missing"] == [(3, 4)]


class TestCopies:
    def test_what_the_journal_has_a_copy_of_is_told_apart(self) -> None:
        audit = audited(view(9, kept=Spans([(4, 9)])), record(1), record(2), record(6))
        found = kinds(audit)
        assert (found["missing"], found["missing_copy_kept"]) == ([(3, 3)], [(4, 5), (7, 9)])
        assert "`ds-gateway resolve s --retry`" in text_of(audit, "missing_copy_kept")

    def test_damaged_rows(self) -> None:
        seen = view(2, (2, 2), damaged=["row 7 is damaged"], damaged_copies=["row 1 is damaged"])
        audit = audited(seen, record(1))
        assert [(each.kind, each.severity) for each in audit.findings] == [
            ("damaged", "failed"),
            ("damaged_copy", "doubt"),
        ]
        assert not audit.is_proven


class TestOtherJournals:
    def test_an_earlier_one_is_counted_from_its_first_to_its_last(self) -> None:
        old = f"{INSTALL}.oldold"
        before = [record(position, prefix=old) for position in (4, 5, 8, 6, 5)]
        audit = audited(view(1), *before, record(1), compare=True)
        found = kinds(audit)
        assert found["gaps_of_other_journal"] == [(7, 7)]
        assert found["twice_of_other_journal"] == [(5, 5)]
        assert "6 behind 8" in text_of(audit, "out_of_order_of_other_journal")
        assert "an earlier journal (abcdefgh.oldold)" in text_of(audit, "other_journal")
        assert (audit.appended, audit.missing, audit.foreign) == (1, 0, 0)

    def test_what_it_told_as_lost_is_no_gap(self) -> None:
        other = "ijklmnop.qrstuv"
        stream = [*(record(position, prefix=other) for position in (4, 7)), server_lost(8, (1, 5), prefix=other)]
        audit = audited(view(1), record(1), *stream)
        assert kinds(audit)["gaps_of_other_journal"] == [(6, 6)]

    def test_a_dense_one_is_only_mentioned(self) -> None:
        other = [record(position, prefix="ijklmnop.qrstuv") for position in (4, 5, 6)]
        audit = audited(view(1), record(1), *other)
        assert kinds(audit) == {"other_journal": []}
        assert "3 positions of another journal (ijklmnop.qrstuv)" in text_of(audit, "other_journal")
        assert audit.is_proven

    def test_are_not_counted_apart_without_end(self) -> None:
        others = [record(1, prefix=f"ijklmnop.{number:06d}") for number in range(MAX_JOURNALS + 50)]
        audit = audited(view(1), record(1), *others)
        assert text_of(audit, "other_records").startswith("50 records")

    def test_a_journal_that_counts_anew_meanwhile_is_no_stranger(self) -> None:
        later = replace(book(3), incarnation="newnew")
        audit = audited(view(2), *map(record, (1, 2, 3)), record(1, prefix=f"{INSTALL}.newnew"), later=later)
        assert (audit.is_proven, audit.since) == (True, 1)


class TestIncarnations:
    """A journal that somebody else used counts on under another name; the positions go on."""

    PAST: Final = f"{INSTALL}.formed"

    def history(self) -> list[Any]:
        old = [record(position, prefix=self.PAST) for position in (1, 2, 3, 4, 5)]
        return [*old, record(4), record(5), record(6)]

    def test_each_has_its_own_range(self) -> None:
        seen = view(6)
        seen.book.past = [["formed", 3]]
        audit = audited(seen, *self.history())
        assert kinds(audit) == {"used_by_another": [(4, 5)]}
        assert (audit.is_proven, audit.appended) == (True, 6)

    def test_copies_and_gaps_are_found_in_all_of_them(self) -> None:
        seen = view(6)
        seen.book.past = [["formed", 3]]
        messages = self.history()
        del messages[1]
        audit = audited(seen, *messages, record(5), record(3, prefix=self.PAST), compare=True)
        assert kinds(audit)["missing"] == [(2, 2)]
        assert kinds(audit)["twice"] == [(3, 3), (5, 5)]

    def test_a_later_one_may_tell_what_was_lost_of_an_earlier_one(self) -> None:
        seen = view(7)
        seen.book.past = [["formed", 3]]
        messages = [BIRTH, *self.history(), server_lost(7, (1, 2))]
        del messages[1:3]
        audit = audited(seen, *messages)
        assert kinds(audit) == {"loss_in_doubt": [(1, 2)], "ledgered": [], "used_by_another": [(4, 5)]}
        assert (audit.is_proven, audit.appended, audit.ledgered) == (True, 5, 2)

    def test_what_a_stranger_tells_as_lost_explains_nothing(self) -> None:
        seen = view(7)
        seen.book.past = [["formed", 3]]
        messages = [BIRTH, *self.history(), record(7), server_lost(6, (1, 2), prefix=self.PAST)]
        del messages[1:3]
        assert kinds(audited(seen, *messages))["missing"] == [(1, 2)]

    def test_a_change_during_the_audit_is_no_other_journal(self) -> None:
        seen = view(3)
        seen.book.incarnation = "formed"
        later = replace(book(6), past=[["formed", 3]])
        audit = audited(seen, *self.history(), later=later)
        assert kinds(audit) == {"used_by_another": [(4, 5)]}
        assert (audit.is_proven, audit.appended, audit.since) == (True, 3, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        5,
        "text",
        {},
        {"id": 5},
        {"id": "b.0.abcd"},
        {"id": PREFIX},
        {"id": f"{PREFIX}."},
        {"id": f"{PREFIX}.0"},
        {"id": f"{PREFIX}.01"},
        {"id": f"{PREFIX}.-1"},
        {"id": f"{PREFIX}.²"},
        {"id": f"{PREFIX}.{'9' * 19}"},
        {"id": f"x{PREFIX}.1"},
        {"id": "abcdefgh-mnopqr.1"},
    ],
)
def test_what_is_no_id_of_a_journal(wrong: Any) -> None:
    assert parse_id(wrong) == ("", 0)
    assert kinds(audited(view(1), record(1), wrong)).keys() == {"other_records"}


def test_an_id_of_a_journal() -> None:
    assert parse_id(record(120)) == (PREFIX, 120)


def test_an_unread_stream_proves_nothing() -> None:
    audit = unread(view(9, (8, 9)), URL, "no answer")
    assert not audit.is_proven
    assert (audit.accepted, audit.in_journal) == (9, 2)
    assert audit.findings[0].text == "the stream could not be read: no answer"
