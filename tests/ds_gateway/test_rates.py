"""How fast streams fill and empty, and when a backlog will be sent."""

from __future__ import annotations

from ds_gateway.rates import LOOK_SECONDS, SPAN_SECONDS, Rates, StreamRate
from harness.statuses import stream


def looked(*looks: tuple[float, int, int], rates: Rates | None = None) -> Rates:
    """Looks at one stream: when, records accepted, and records that are in the stream."""
    rates = rates or Rates()
    for at, accepted, sent in looks:
        rates.note([stream(1, "t", accepted=accepted, in_stream=sent, in_journal=accepted - sent)], at)
    return rates


class TestTheRate:
    def test_one_look_says_none(self) -> None:
        assert Rates().now() == {}
        assert looked((0, 10, 0)).now() == {1: StreamRate()}

    def test_two_looks_say_one(self) -> None:
        rate = looked((0, 10, 0), (10, 30, 40)).now()[1]
        assert (rate.accepted_per_second, rate.sent_per_second) == (2.0, 4.0)

    def test_a_slow_device_has_one_over_a_minute(self) -> None:
        rate = looked(*((at, int(at // 10), int(at // 10)) for at in range(0, 121, 2))).now()[1]
        assert rate.accepted_per_second == 0.1

    def test_what_is_over_counts_no_more(self) -> None:
        rates = looked((0, 0, 0), (1000, 5000, 5000), (1000 + SPAN_SECONDS, 5000, 5000), (2000, 5000, 5000))
        assert rates.now()[1].sent_per_second == 0

    def test_a_new_stream_has_one_as_soon_as_it_was_seen_twice(self) -> None:
        rates = looked((0, 0, 0))
        for at, number in ((2, 4), (4, 8)):
            old, new = stream(1, "t"), stream(2, "new", accepted=number, in_stream=number)
            rates.note([old, new], at)
        assert rates.now()[2].accepted_per_second == 2.0


class TestTheEndOfABacklog:
    def test_nothing_waits(self) -> None:
        assert looked((0, 10, 10)).now()[1].catch_up_seconds == 0
        assert looked((0, 10, 10), (10, 20, 20)).now()[1].catch_up_seconds == 0

    def test_it_is_what_is_left_at_the_pace_of_now(self) -> None:
        # 2 records a second come in, 12 are sent: 400 become 300 in ten seconds.
        assert looked((0, 400, 0), (10, 420, 120)).now()[1].catch_up_seconds == 30

    def test_a_minute_without_a_server_before_it_does_not_count(self) -> None:
        away = [(float(at), at * 10, 0) for at in range(0, 51, 2)]
        rates = looked(*away, (60, 600, 300))
        assert rates.now()[1].catch_up_seconds == 300 / ((500 - 300) / 10)

    def test_one_that_grows_has_none(self) -> None:
        assert looked((0, 0, 0), (10, 100, 50)).now()[1].catch_up_seconds is None
        assert looked((0, 50, 0), (10, 50, 0)).now()[1].catch_up_seconds is None

    def test_one_that_shrinks_by_a_hair_has_none_either(self) -> None:
        assert looked((0, 10**9, 0), (10, 10**9, 1)).now()[1].catch_up_seconds is None


def test_it_remembers_a_minute_however_often_and_long_it_looks() -> None:
    rates = Rates()
    for tenth in range(20_000):
        looked((tenth / 10, tenth, tenth), rates=rates)
    assert len(rates._looks) <= SPAN_SECONDS / LOOK_SECONDS + 2
