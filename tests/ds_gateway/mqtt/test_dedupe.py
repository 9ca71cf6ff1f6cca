from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ds_gateway.errors import JournalDamagedError
from ds_gateway.mqtt.acklog import MAX_CONNECTIONS
from ds_gateway.mqtt.dedupe import DedupeGate
from ds_gateway.mqtt.keyring import KEY_ENTRIES
from ds_gateway.mqtt.ring import RING_ENTRIES
from ds_gateway.mqtt.tokens import Opening, SessionStart, Subscribed
from ds_gateway.records import Item, Rejected
from harness.mqtt_gates import GateDriver, delivery

if TYPE_CHECKING:
    from ds_gateway.journal.intake import Gate
    from ds_gateway.mqtt.numbering import Policy

NEW_SESSION = SessionStart(present=False, acked=0, generation=1)


def present(acked: int, generation: int = 2) -> SessionStart:
    return SessionStart(present=True, acked=acked, generation=generation)


def learnt(driver: GateDriver) -> GateDriver:
    """On two connections, so that there is a witness."""
    driver.tell(NEW_SESSION)
    driver.admit(*(delivery(f"m{mid}", mid) for mid in range(1, 16)))
    driver.tell(present(acked=99))
    driver.admit(*(delivery(f"m{mid}", mid) for mid in range(16, 21)))
    return driver


class TestAGate:
    def test_is_what_the_journal_expects(self) -> None:
        gate: Gate = DedupeGate(packet_ids="auto", learn_after=10)
        gate.restore({})
        assert gate.admit([], 1) == []
        assert list(gate.changes()) == ["meta"]

    def test_admits_rejected_bytes_as_it_does_records(self) -> None:
        driver = GateDriver()
        item = delivery("a", 1)
        rejected = Item(Rejected("broker", "d", "not JSON", b"x", 1), item.token)
        assert driver.gate.admit([rejected], 1) == [rejected]

    def test_admits_a_payload_without_a_token(self) -> None:
        item = Item(delivery("a", 1).payload)
        assert GateDriver().gate.admit([item], 1) == [item]

    def test_refuses_a_token_it_does_not_know(self) -> None:
        with pytest.raises(TypeError, match="not a token"):
            GateDriver().gate.admit([Item(None, "what")], 1)

    def test_says_when_its_rows_are_not_its_own(self) -> None:
        with pytest.raises(JournalDamagedError, match="not readable"):
            GateDriver().gate.restore({"meta": b"?"})
        with pytest.raises(JournalDamagedError, match="format 9"):
            GateDriver().gate.restore({"meta": b"\x09" + bytes(30)})


class TestNeverDropped:
    def test_a_copy_whose_original_was_never_seen(self) -> None:
        driver = GateDriver("sequential")
        driver.tell(NEW_SESSION)
        assert driver.admit(delivery("a", 1, dup=True)) == ["a"]

    def test_the_same_id_and_digest_without_dup(self) -> None:
        driver = GateDriver("sequential")
        driver.tell(NEW_SESSION)
        assert driver.admit(delivery("a", 1, same="x"), delivery("b", 1, same="x")) == ["a", "b"]

    def test_the_same_id_with_another_digest(self) -> None:
        driver = GateDriver("sequential")
        driver.tell(NEW_SESSION)
        assert driver.admit(delivery("a", 1), delivery("b", 1, dup=True)) == ["a", "b"]

    def test_qos_0_whatever_it_looks_like(self) -> None:
        driver = GateDriver("sequential")
        again = [delivery("a", 0, qos=0, dup=True)] * 3
        assert driver.admit(*again) == ["a", "a", "a"]

    def test_a_copy_after_the_session_was_lost(self) -> None:
        driver = learnt(GateDriver("auto"))
        driver.tell(SessionStart(present=False, acked=0, generation=2))
        assert driver.admit(delivery("m20", 20, dup=True)) == ["m20"]


class TestR0:
    def test_forgets_the_rows_too(self) -> None:
        driver = learnt(GateDriver())
        assert any(name.startswith("ring") for name in driver.rows)
        driver.tell(SessionStart(present=False, acked=0, generation=2))
        assert not any(name.startswith("ring") for name in driver.rows)

    def test_counts_lost_sessions_but_not_the_first(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        assert (driver.gate.view().session, driver.gate.view().sessions_lost) == (1, 0)
        driver.tell(NEW_SESSION)
        driver.restart()
        assert (driver.gate.view().session, driver.gate.view().sessions_lost) == (2, 1)

    def test_forgets_subscription_and_verdict(self) -> None:
        driver = learnt(GateDriver("auto"))
        driver.tell(Subscribed(("a/+",), 1, 1))
        assert driver.gate.view().verdict == "sequential"
        driver.tell(SessionStart(present=False, acked=0, generation=2))
        driver.restart()
        assert driver.gate.view().verdict == "unknown"
        assert driver.gate.view().subscribed is None

    def test_acts_in_the_order_of_the_queue(self) -> None:
        driver = GateDriver("sequential")
        driver.tell(NEW_SESSION)
        admitted = driver.admit(
            delivery("a", 1, same="x"),
            Item(None, SessionStart(present=False, acked=0, generation=2)),
            delivery("b", 1, same="x", dup=True),
        )
        assert admitted == ["a", "b"]


class TestR1:
    """The broker's numbering is unknown; only what was provably not acknowledged is dropped."""

    def test_drops_a_copy_of_what_was_never_acknowledged(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        driver.admit(delivery("a", 1))
        driver.tell(present(acked=1))
        assert driver.admit(delivery("a", 1, dup=True, acked=1)) == []

    def test_keeps_a_copy_of_what_may_have_been_acknowledged(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        driver.admit(delivery("a", 1, same="x"))
        driver.tell(present(acked=2))
        assert driver.admit(delivery("b", 1, same="x", dup=True, acked=2)) == ["b"]

    def test_sees_copies_that_wait_in_the_same_group(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        group = [delivery("a", 1), Item(None, present(acked=1)), delivery("a", 1, dup=True, acked=1)]
        assert driver.admit(*group) == ["a"]

    def test_is_not_misled_by_the_acknowledgement_of_an_earlier_part_of_the_redelivery(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        driver.admit(delivery("a", 1), delivery("b", 2))
        driver.tell(present(acked=1))
        assert driver.admit(delivery("a", 1, dup=True, acked=1)) == []
        # Commit 4 is acknowledged before the second half comes, and b lies in commit 2.
        assert driver.admit(delivery("b", 2, dup=True, acked=4)) == []

    def test_remembers_over_a_connection_that_was_cut_in_the_middle_of_the_redelivery(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        driver.admit(delivery("a", 1), delivery("b", 2))
        driver.tell(present(acked=1))
        driver.admit(delivery("a", 1, dup=True, acked=1))
        driver.tell(present(acked=driver.commit, generation=3))
        driver.restart()
        acked = driver.commit - 1
        assert driver.admit(delivery("b", 2, dup=True, acked=acked)) == []
        assert driver.admit(delivery("a", 1, dup=True, acked=acked)) == ["a"]

    def test_drops_a_second_copy_on_the_same_connection(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        assert driver.admit(delivery("a", 1)) == ["a"]
        assert driver.admit(delivery("a", 1, dup=True, acked=1)) == []
        assert driver.admit(delivery("b", 1, same="a", dup=True, acked=driver.commit)) == ["b"]

    def test_holds_after_a_restart_with_a_trusted_mark(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        driver.admit(delivery("a", 1))
        driver.admit(delivery("b", 2))
        driver.restart()
        driver.tell(Opening(acked=2, session=1))
        driver.tell(present(acked=2))
        copies = [delivery("a", 1, dup=True, acked=2), delivery("b", 2, dup=True, acked=2)]
        assert driver.admit(*copies) == ["a"]

    @pytest.mark.parametrize(
        "opening",
        [
            pytest.param(Opening(acked=None, session=1), id="another boot"),
            pytest.param(Opening(acked=0, session=7), id="another session"),
            pytest.param(Opening(acked=99, session=1), id="commits that do not exist"),
        ],
    )
    def test_believes_no_mark_that_is_not_about_this_journal(self, opening: Opening) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        driver.admit(delivery("a", 1))
        driver.restart()
        driver.tell(opening)
        acked = opening.acked_through(1, driver.commit)
        driver.tell(present(acked=acked))
        assert driver.admit(delivery("a", 1, dup=True, acked=acked)) == ["a"]

    @pytest.mark.parametrize("beyond", [0, 3])
    def test_tells_that_the_journal_has_lost_its_end(self, *, beyond: int) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        driver.gate.admit([Item(None, Opening(acked=5, session=1, beyond=beyond, time_ns=7))], 2)
        losses = [(loss.cause, loss.certain, loss.count, loss.first_ns) for loss in driver.gate.losses()]
        assert losses == ([("corrupt", False, None, 7)] if beyond else [])

    def test_holds_for_what_came_after_an_untrusted_mark(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        driver.tell(Opening(acked=None, session=1))
        acked = driver.commit
        driver.tell(present(acked=acked))
        driver.admit(delivery("a", 1, acked=acked))
        driver.tell(present(acked=acked, generation=3))
        assert driver.admit(delivery("a", 1, dup=True, acked=acked)) == []

    def test_a_failed_commit_leaves_nothing_behind(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        driver.fail(delivery("a", 1))
        driver.tell(present(acked=1))
        assert driver.admit(delivery("a", 1, dup=True, acked=1)) == ["a"]

    def test_forgets_connections_long_ago_to_the_safe_side(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        driver.admit(delivery("a", 1))
        for generation in range(MAX_CONNECTIONS + 2):
            driver.tell(present(acked=1, generation=generation))
        assert driver.admit(delivery("a", 1, dup=True, acked=1)) == ["a"]


class TestR2:
    """Acknowledged or not: a sequential broker's copy is known by id and digest."""

    def test_drops_a_copy_although_it_was_acknowledged(self) -> None:
        driver = learnt(GateDriver("auto"))
        driver.tell(present(acked=99))
        copies = [delivery(f"m{mid}", mid, dup=True, acked=99) for mid in range(10, 21)]
        assert driver.admit(*copies) == []
        assert driver.gate.view().duplicates == 11

    def test_waits_until_the_numbering_is_learnt(self) -> None:
        driver = GateDriver("auto")
        driver.tell(NEW_SESSION)
        driver.admit(*(delivery(f"m{mid}", mid) for mid in range(1, 12)))
        driver.tell(present(acked=99))
        assert driver.admit(delivery("m5", 5, dup=True, acked=99)) == ["m5"]

    def test_keeps_the_verdict_over_a_restart(self) -> None:
        driver = learnt(GateDriver("auto"))
        driver.restart()
        driver.tell(Opening(acked=None, session=1))
        assert driver.admit(delivery("m20", 20, dup=True, acked=99)) == []

    def test_goes_on_learning_over_a_restart(self) -> None:
        driver = GateDriver("auto")
        driver.tell(NEW_SESSION)
        for mid in range(1, 32):
            driver.admit(delivery(f"m{mid}", mid))
            driver.restart()
        assert driver.gate.view().verdict == "sequential"

    def test_ends_durably_when_the_numbering_is_contradicted(self) -> None:
        driver = learnt(GateDriver("auto"))
        driver.admit(delivery("again", 3))
        driver.restart()
        assert driver.gate.view().verdict == "unknown"
        assert driver.admit(delivery("m20", 20, dup=True, acked=99)) == ["m20"]

    def test_keeps_a_copy_ahead_of_the_newest_id_whatever_the_ring_says(self) -> None:
        driver = GateDriver("sequential")
        driver.tell(NEW_SESSION)
        driver.admit(delivery("old", 5000, same="x"))
        driver.admit(delivery("rolled back", 100))
        # The first copy of this one was lost on the way; id 5000 was another message's before.
        assert driver.admit(delivery("new", 5000, same="x", dup=True, acked=99)) == ["new"]

    def test_counts_skipped_ids_durably(self) -> None:
        driver = learnt(GateDriver("auto"))
        driver.admit(delivery("after the gap", 31))
        driver.restart()
        assert driver.gate.view().ids_missing == 10

    def test_forgets_what_is_no_longer_among_the_last(self) -> None:
        driver = GateDriver("sequential")
        driver.tell(NEW_SESSION)
        driver.admit(delivery("a", 1))
        for first in range(2, RING_ENTRIES + 2, 8192):
            driver.admit(*(delivery("x", mid) for mid in range(first, min(first + 8192, RING_ENTRIES + 2))))
        assert driver.admit(delivery("a", 1, dup=True, acked=99)) == ["a"]

    def test_a_wholly_deduplicated_group_still_deletes_what_it_replaces(self) -> None:
        driver = GateDriver("sequential")
        driver.tell(NEW_SESSION)
        driver.admit(delivery("first", 1))
        oldest = min(name for name in driver.rows if name.startswith("ring"))
        driver.admit(*(delivery("x", mid) for mid in range(2, 10)))
        assert oldest in driver.rows
        assert driver.admit(delivery("first", 1, dup=True, acked=99)) == []
        assert oldest not in driver.rows


class TestRetained:
    def test_is_taken_once_although_it_comes_with_every_subscription(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        assert driver.admit(delivery("a", 1, retain=True)) == ["a"]
        driver.restart()
        driver.tell(SessionStart(present=False, acked=0, generation=2))
        assert driver.admit(delivery("a", 1, retain=True)) == []

    def test_is_taken_when_the_value_is_another(self) -> None:
        driver = GateDriver()
        assert driver.admit(delivery("a", 1, retain=True), delivery("b", 2, retain=True)) == ["a", "b"]

    def test_is_known_by_topic(self) -> None:
        driver = GateDriver()
        first = delivery("a", 1, retain=True, topic="one", same="x")
        second = delivery("b", 2, retain=True, topic="two", same="x")
        assert driver.admit(first, second) == ["a", "b"]

    def test_is_news_again_after_a_live_message(self) -> None:
        driver = GateDriver()
        driver.admit(delivery("a", 1, retain=True), delivery("b", 2))
        driver.restart()
        assert driver.admit(delivery("a", 3, retain=True)) == ["a"]

    def test_of_qos_0_is_taken_once_too(self) -> None:
        driver = GateDriver()
        again = delivery("a", 0, qos=0, retain=True)
        assert driver.admit(again, again) == ["a"]

    def test_is_dropped_when_the_live_message_before_it_was_the_same(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        assert driver.admit(delivery("a", 1), delivery("b", 2)) == ["a", "b"]
        driver.restart()
        driver.tell(SessionStart(present=False, acked=0, generation=2))
        assert driver.admit(delivery("b", 1, retain=True)) == []
        assert driver.admit(delivery("a", 2, retain=True)) == ["a"]

    def test_never_makes_a_live_message_old(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        assert driver.admit(delivery("a", 1, retain=True), delivery("live", 2, same="a")) == ["a", "live"]

    def test_is_no_copy_of_the_live_message_with_its_packet_id(self) -> None:
        driver = GateDriver("sequential")
        driver.tell(NEW_SESSION)
        driver.admit(delivery("a", 1), delivery("b", 2))
        assert driver.admit(delivery("again", 1, same="a", dup=True, retain=True, acked=9)) == ["again"]


class TestR3:
    """The publisher's own id: repeated by whomever, it is the same message."""

    def test_drops_a_key_that_was_there_whatever_else_is_different(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        assert driver.admit(delivery("a", 1, key="k1"), delivery("b", 2, key="k1")) == ["a"]
        assert driver.admit(delivery("c", 9, key="k1"), delivery("d", 0, qos=0, key="k1")) == []
        assert driver.admit(delivery("c", 10, key="k2")) == ["c"]
        assert driver.gate.view().duplicates == 0

    def test_counts_what_it_drops(self) -> None:
        driver = GateDriver()
        driver.admit(delivery("a", 1, key="k1"), delivery("a", 2, key="k1"))
        assert driver.gate.view().duplicates == 1

    def test_holds_over_restarts_and_lost_sessions(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        driver.admit(delivery("a", 1, key="k1"), delivery("b", 0, qos=0, key="k2"))
        driver.restart()
        driver.tell(SessionStart(present=False, acked=0, generation=2))
        assert driver.admit(delivery("a", 1, key="k1"), delivery("b", 0, qos=0, key="k2")) == []

    def test_takes_and_counts_what_has_no_key(self) -> None:
        driver = GateDriver()
        assert driver.admit(delivery("a", 1, key=""), delivery("a", 2, key="")) == ["a", "a"]
        assert driver.gate.view().without_key == 2
        driver.admit(delivery("a", 3, key="k1"))
        assert driver.gate.view().without_key == 0

    def test_counts_nothing_where_no_key_is_wanted(self) -> None:
        driver = GateDriver()
        driver.admit(delivery("a", 1))
        assert driver.gate.view().without_key == 0

    def test_forgets_the_key_of_a_failed_commit(self) -> None:
        driver = GateDriver()
        driver.fail(delivery("a", 1, key="k1"))
        assert driver.admit(delivery("a", 1, key="k1")) == ["a"]

    def test_remembers_at_least_the_last_32768(self) -> None:
        driver = GateDriver()
        driver.admit(delivery("first", 0, qos=0, key="0"))
        driver.admit(*(delivery("x", 0, qos=0, key=str(number)) for number in range(1, KEY_ENTRIES)))
        assert driver.admit(delivery("first", 0, qos=0, key="0")) == []
        driver.admit(delivery("x", 0, qos=0, key="one more"))
        assert driver.admit(delivery("first", 0, qos=0, key="0")) == ["first"]


class TestLosses:
    def test_a_lost_session_is_one_but_the_first_session_is_none(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        assert driver.losses == []
        driver.tell(present(acked=1))
        assert driver.losses == []
        driver.tell(SessionStart(present=False, acked=0, generation=2, time_ns=7))
        (loss,) = driver.losses
        assert (loss.cause, loss.certain, loss.count, loss.last_ns) == ("session_lost", False, None, 7)

    def test_a_lost_session_is_told_once_although_its_commit_failed(self) -> None:
        driver = GateDriver()
        driver.tell(NEW_SESSION)
        lost = Item(None, SessionStart(present=False, acked=0, generation=2))
        driver.fail(lost)
        driver.admit(lost)
        driver.restart()
        driver.tell(present(acked=1))
        assert [loss.cause for loss in driver.losses] == ["session_lost"]

    @pytest.mark.parametrize("policy", ["auto", "sequential"])
    def test_a_session_lost_with_its_connack_is_found_out_by_the_ids(self, policy: Policy) -> None:
        driver = learnt(GateDriver(policy))
        driver.restart()
        driver.tell(SessionStart(present=True, acked=99, generation=2, doubtful=True))
        driver.restart()
        driver.tell(SessionStart(present=True, acked=99, generation=3))
        # The first copy was lost on the way, and it is byte-identical to what had this id in the other session.
        assert driver.admit(delivery("new", 1, same="m1", dup=True, acked=99)) == ["new"]
        assert driver.admit(delivery("newer", 2, same="m2")) == ["newer"]
        assert [loss.cause for loss in driver.losses] == ["session_lost"]
        assert driver.gate.view().sessions_lost == 1
        assert driver.admit(delivery("newest", 3)) == ["newest"]
        driver.restart()
        assert len(driver.losses) == 1
        assert driver.gate.view().session == 2

    @pytest.mark.parametrize("in_flight", [0, 5, 20])
    def test_a_doubtful_session_that_counts_on_is_the_same_one(self, in_flight: int) -> None:
        driver = learnt(GateDriver("sequential"))
        driver.tell(SessionStart(present=True, acked=99, generation=2, doubtful=True))
        copies = [delivery(f"m{mid}", mid, dup=True, acked=99) for mid in range(21 - in_flight, 21)]
        driver.admit(*copies, delivery("m21", 21))
        driver.tell(present(acked=99))
        driver.admit(delivery("m21", 21, dup=True, acked=99), delivery("m22", 22))
        assert driver.losses == []

    def test_skipped_ids_are_one_loss_a_commit(self) -> None:
        driver = learnt(GateDriver("auto"))
        driver.admit(delivery("a", 31), delivery("b", 33))
        driver.admit(delivery("c", 34))
        (loss,) = driver.losses
        assert (loss.cause, loss.certain, loss.count) == ("id_gap", False, 11)
        assert "packet ids 21 to 30, 32:" in loss.detail

    def test_skipped_ids_are_told_over_the_wrap(self) -> None:
        driver = GateDriver("sequential")
        driver.tell(NEW_SESSION)
        driver.admit(delivery("a", 65_534), delivery("b", 2))
        assert "packet ids 65535 to 1:" in driver.losses[0].detail

    def test_skipped_ids_are_told_once_although_the_process_died(self) -> None:
        driver = learnt(GateDriver("auto"))
        driver.fail(delivery("a", 31))
        driver.admit(delivery("a", 31))
        driver.restart()
        driver.tell(present(acked=1))
        driver.admit(delivery("a", 31, dup=True, acked=99), delivery("b", 32))
        assert [loss.count for loss in driver.losses] == [10]

    def test_nothing_is_skipped_where_numbers_mean_nothing(self) -> None:
        driver = GateDriver("unknown")
        driver.tell(NEW_SESSION)
        driver.admit(delivery("a", 1), delivery("b", 31))
        assert driver.losses == []


class TestSubscribed:
    def test_is_remembered(self) -> None:
        driver = GateDriver()
        driver.tell(Subscribed(("a/+", "b/#"), 1, 3))
        driver.restart()
        assert driver.gate.view().subscribed == Subscribed(("a/+", "b/#"), 1, 0)
