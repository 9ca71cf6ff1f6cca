from __future__ import annotations

from ds_gateway.mqtt.numbering import AHEAD, IDS, Numbering


def learnt(*, upto: int = 20, start: int = 1) -> Numbering:
    numbering = Numbering("auto", learn_after=10)
    for step in range(upto):
        numbering.see((start + step - 1) % IDS + 1, dup=False)
    return numbering


class TestTheVerdict:
    def test_is_unknown_until_more_steps_in_a_row_than_the_window(self) -> None:
        assert not learnt(upto=11).sequential
        assert learnt(upto=12).sequential

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


class TestOlder:
    def test_the_newest_and_those_behind_it_are_older(self) -> None:
        numbering = learnt()
        assert numbering.older(20)
        assert numbering.older(1)
        assert numbering.older((20 - AHEAD - 1) % IDS + 1)

    def test_those_ahead_are_not_even_across_the_wrap(self) -> None:
        numbering = learnt(start=65_520)
        assert numbering.head == 4
        assert not numbering.older(5)
        assert not numbering.older(4 + AHEAD)
        assert numbering.older(65_530)

    def test_nothing_is_older_than_nothing(self) -> None:
        assert not Numbering("sequential", learn_after=10).older(1)
