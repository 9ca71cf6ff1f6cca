from __future__ import annotations

from ds_gateway.mqtt.numbering import AHEAD, CERTAIN, DOUBTFUL, IDS, Numbering


def watched(*, upto: int, start: int = 1) -> Numbering:
    """So many messages on one connection: there is no witness."""
    numbering = Numbering("auto", learn_after=10)
    for step in range(upto):
        numbering.see((start + step - 1) % IDS + 1, dup=False)
    return numbering


def learnt(*, upto: int = 20, start: int = 1) -> Numbering:
    """The last message comes on a connection of its own, and is a witness."""
    numbering = watched(upto=upto - 1, start=start)
    numbering.connected()
    numbering.see((start + upto - 2) % IDS + 1, dup=False)
    return numbering


class TestTheVerdict:
    def test_is_unknown_until_more_steps_in_a_row_than_the_window(self) -> None:
        assert not learnt(upto=11).sequential
        assert learnt(upto=12).sequential

    def test_without_a_witness_is_unknown_until_a_counter_begun_again_cannot_reach_what_is_in_flight(self) -> None:
        assert not watched(upto=30).sequential
        assert watched(upto=31).sequential

    def test_without_a_witness_is_unknown_again_after_the_wrap(self) -> None:
        assert watched(start=65_400, upto=IDS - 65_400).sequential
        assert not watched(start=65_400, upto=IDS - 65_400 + 20).sequential
        assert watched(start=65_400, upto=IDS - 65_400 + 50).sequential

    def test_counts_on_from_65535_to_1(self) -> None:
        assert learnt(start=65_530).sequential

    def test_is_taken_back_by_a_step_back(self) -> None:
        numbering = learnt()
        numbering.see(7, dup=False)
        assert not numbering.sequential

    def test_is_taken_back_when_an_id_is_used_twice_in_a_row(self) -> None:
        numbering = learnt()
        numbering.see(20, dup=False)
        assert not numbering.sequential

    def test_can_be_learnt_again(self) -> None:
        numbering = learnt()
        numbering.see(7, dup=False)
        for mid in range(8, 19):
            numbering.see(mid, dup=False)
        assert numbering.sequential

    def test_is_never_learnt_of_the_lowest_free_id(self) -> None:
        numbering = Numbering("auto", learn_after=10)
        for _ in range(100):
            for mid in range(1, 11):
                numbering.see(mid, dup=False)
        assert not numbering.sequential

    def test_survives_copies_of_older_messages(self) -> None:
        numbering = learnt()
        for mid in range(10, 21):
            numbering.see(mid, dup=True)
        numbering.see(21, dup=False)
        assert numbering.sequential
        assert numbering.head == 21

    def test_copies_are_no_evidence(self) -> None:
        numbering = Numbering("auto", learn_after=10)
        for mid in range(1, 30):
            numbering.see(mid, dup=True)
        assert not numbering.sequential

    def test_is_forgotten_with_the_session(self) -> None:
        numbering = learnt()
        numbering.forget()
        assert not numbering.sequential
        assert numbering.head is None

    def test_can_be_configured_either_way(self) -> None:
        sequential = Numbering("sequential", learn_after=10)
        unknown = Numbering("unknown", learn_after=10)
        for mid in range(1, 30):
            unknown.see(mid, dup=False)
        assert sequential.sequential
        assert not unknown.sequential
        assert (sequential.verdict, unknown.verdict) == ("sequential (configured)", "unknown (configured)")


class TestSkippedIds:
    def test_are_counted_as_missing(self) -> None:
        numbering = learnt()
        numbering.see(25, dup=False)
        assert numbering.missing == 4
        assert numbering.sequential

    def test_mean_nothing_while_the_numbering_is_unknown(self) -> None:
        numbering = learnt(upto=5)
        numbering.see(25, dup=False)
        assert numbering.missing == 0

    def test_are_none_when_the_first_copy_was_lost_on_the_way(self) -> None:
        numbering = learnt()
        numbering.see(21, dup=True)
        numbering.see(22, dup=False)
        assert numbering.missing == 0


class TestACopy:
    def test_repeats_the_newest_message_and_those_behind_it(self) -> None:
        numbering = learnt()
        assert numbering.repeats(20)
        assert numbering.repeats(1)
        assert numbering.repeats((20 - AHEAD - 1) % IDS + 1)

    def test_ahead_repeats_nothing_even_across_the_wrap(self) -> None:
        numbering = learnt(start=65_520)
        assert numbering.head == 4
        assert not numbering.repeats(5)
        assert not numbering.repeats(4 + AHEAD)
        assert numbering.repeats(65_530)

    def test_repeats_only_what_is_within_the_window_as_long_as_there_is_no_witness(self) -> None:
        numbering = watched(upto=100)
        assert numbering.repeats(91)
        assert not numbering.repeats(90)
        numbering.connected()
        numbering.see(100, dup=True, repeated=True)
        assert not numbering.repeats(90)

    def test_repeats_nothing_before_the_first_message(self) -> None:
        assert not Numbering("sequential", learn_after=10).repeats(1)


class TestConnections:
    def test_a_broker_with_a_secret_window_is_believed_when_it_goes_on_counting_on_another_one(self) -> None:
        numbering = Numbering("auto", learn_after=10, window_is_known=False)
        numbering.forget()
        for mid in range(1, 50):
            numbering.see(mid, dup=False)
        verdicts = [numbering.verdict]
        numbering.connected()
        numbering.see(49, dup=True)
        verdicts.append(numbering.verdict)
        numbering.see(50, dup=False)
        assert [*verdicts, numbering.verdict] == ["unknown", "unknown", "sequential"]

    def test_the_lowest_free_id_of_an_unbounded_window_is_never_taken_for_a_sequence(self) -> None:
        numbering = Numbering("auto", learn_after=10, window_is_known=False)
        numbering.forget()
        for mid in range(1, 5001):
            numbering.see(mid, dup=False)
        numbering.connected()
        # Nothing is acknowledged: all of them come again, and the next one is the lowest free.
        for mid in range(1, 5001):
            numbering.see(mid, dup=True)
        numbering.see(5001, dup=False)
        assert not numbering.sequential

    def test_without_a_new_message_believe_only_in_copies_from_within_the_window(self) -> None:
        numbering = learnt(upto=100)
        numbering.connected()
        fresh = numbering.repeats(5)
        numbering.connected()
        numbering.see(100, dup=True, repeated=True)
        assert fresh
        # A counter that began again on the connection before, of which nothing arrived, would be at 5 now.
        assert not numbering.repeats(5)
        assert numbering.repeats(91)
        assert not numbering.repeats(90)
        numbering.see(101, dup=False)
        assert numbering.repeats(5)

    def test_are_not_compared_when_their_beginning_was_not_seen(self) -> None:
        numbering = learnt(upto=100)
        numbering.connected()
        numbering.connected()
        restored = Numbering("auto", learn_after=10)
        restored.head, restored.run, restored.learnt = numbering.head, numbering.run, True
        restored.belief = numbering.belief
        restored.see(101, dup=False)
        assert not restored.repeats(5)

    def test_a_counter_of_each_connection_is_found_out(self) -> None:
        numbering = learnt(upto=100)
        numbering.connected()
        numbering.see(1, dup=False)
        assert not numbering.sequential


def stale(*, upto: int = 100) -> Numbering:
    """The witness was two connections ago, and nothing has come in since the connection was made."""
    numbering = learnt(upto=upto)
    numbering.connected()
    numbering.see(upto, dup=True, repeated=True)
    numbering.connected()
    return numbering


def copies(numbering: Numbering, *mids: int) -> list[bool]:
    """Whether each of these copies, whose ids and payloads are all known, is taken for one."""
    told = []
    for mid in mids:
        told.append(numbering.repeats(mid))
        numbering.see(mid, dup=True, repeated=told[-1])
    return told


class TestTheBeginningOfAConnection:
    """The window is 10, and 40 messages are in flight."""

    def test_tells_that_it_continues_what_was_before(self) -> None:
        assert copies(stale(), *range(61, 101)) == [True] * 40

    def test_with_the_first_id_of_all_is_that_of_a_counter_that_began_again(self) -> None:
        assert copies(stale(), 1, 2, 3) == [False] * 3

    def test_that_tells_of_such_a_counter_holds_for_the_connections_that_follow(self) -> None:
        numbering = stale()
        copies(numbering, 1, 2, 3)
        numbering.connected()
        assert copies(numbering, 4, 5) == [False] * 2
        assert not numbering.sequential

    def test_tells_nothing_of_what_comes_behind_the_newest(self) -> None:
        assert copies(stale(), 61, 100, 62) == [True, True, False]

    def test_tells_nothing_of_what_does_not_come_nearer_to_the_newest(self) -> None:
        assert copies(stale(), 61, 80, 70, 81) == [True, True, False, False]

    def test_that_was_never_seen_tells_nothing(self) -> None:
        numbering = stale()
        numbering.see(61, dup=True, repeated=False)
        assert copies(numbering, 62, 63) == [False] * 2

    def test_that_is_new_tells_nothing(self) -> None:
        numbering = stale()
        numbering.see(101, dup=True)
        assert copies(numbering, 62, 63) == [False] * 2

    def test_is_remembered_with_what_is_kept(self) -> None:
        numbering = stale()
        copies(numbering, 61)
        restored = Numbering("auto", learn_after=10)
        restored.head, restored.run, restored.learnt = numbering.head, numbering.run, True
        restored.belief, restored.place = numbering.belief, numbering.place
        assert copies(restored, 62, 63) == [True] * 2


class TestADoubtfulSession:
    def test_that_begins_with_another_id_is_the_one_that_was(self) -> None:
        numbering = learnt(upto=100)
        numbering.connected(doubtful=True)
        assert copies(numbering, *range(61, 101)) == [True] * 40
        assert numbering.doubt == CERTAIN

    def test_that_begins_with_the_first_id_stays_doubtful(self) -> None:
        numbering = learnt(upto=100)
        numbering.connected(doubtful=True)
        assert copies(numbering, 1, 2) == [False] * 2
        numbering.connected()
        assert copies(numbering, 3, 4) == [False] * 2
        assert numbering.doubt == DOUBTFUL

    def test_stays_doubtful_when_another_connack_is_lost(self) -> None:
        """What was numbered from 1 on is acknowledged: the next connection begins with 3."""
        numbering = learnt(upto=100)
        numbering.connected(doubtful=True)
        copies(numbering, 1, 2)
        numbering.connected(doubtful=True)
        assert copies(numbering, 3, 4) == [False] * 2

    def test_of_which_only_the_connection_is_known_is_decided_by_the_next_one(self) -> None:
        numbering = learnt(upto=100)
        numbering.connected(doubtful=True)
        numbering.connected()
        assert copies(numbering, 61, 62) == [True] * 2
        assert numbering.doubt == CERTAIN

    def test_is_decided_by_a_new_message(self) -> None:
        numbering = learnt(upto=100)
        numbering.connected(doubtful=True)
        copies(numbering, 1)
        numbering.see(101, dup=False)
        assert numbering.doubt == CERTAIN

    def test_may_have_gone_through_a_connection_of_which_nothing_came_in(self) -> None:
        numbering = learnt(upto=100)
        numbering.connected(doubtful=True)
        # In order, but not from the beginning on: the witness is two connections ago.
        numbering.see(101, dup=True)
        assert not numbering.repeats(61)
