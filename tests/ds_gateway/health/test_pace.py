"""When health records come: at the pace that is configured, and in a year without network hardly at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from ds_gateway.health.pace import CHANGES, FREE, MOST, Pace

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86400.0
INTERVAL = 300.0


class Run:
    """A pace, and what was told."""

    def __init__(self, *, most: int = MOST) -> None:
        self.pace = Pace(INTERVAL, most=most)
        self.told: list[tuple[float, str]] = []
        self.waiting = 0

    def until(
        self, end: float, *, begin: float = 0.0, step: float = 5.0, changes: Callable[[float], bool], away: bool
    ) -> int:
        """Look every step; return how many records came."""
        before = len(self.told)
        now = begin
        while now < end:
            self.waiting *= away
            reason = self.pace.due(now, has_changed=changes(now), waiting=self.waiting)
            if reason is not None:
                self.pace.told(now, reason)
                self.told.append((now, reason))
                self.waiting += 1
            now += step
        return len(self.told) - before


def never(_now: float) -> bool:
    return False


def always(_now: float) -> bool:
    return True


class TestWithANetwork:
    def test_the_first_comes_at_once_and_then_one_each_interval(self) -> None:
        run = Run()
        run.until(1000, changes=never, away=False)
        assert run.told == [(0, "start"), (300, "interval"), (600, "interval"), (900, "interval")]

    def test_a_change_comes_at_once(self) -> None:
        run = Run()
        run.until(700, changes=lambda now: now == 100, away=False)
        assert run.told == [(0, "start"), (100, "change"), (400, "interval")]

    def test_what_flaps_all_day_doubles_the_cost_at_most(self) -> None:
        quiet, flapping = Run(), Run()
        idle = quiet.until(DAY, changes=never, away=False)
        busy = flapping.until(DAY, changes=always, away=False)
        assert idle == 288
        assert busy <= idle + CHANGES

    def test_changes_are_told_at_once_again_after_a_quiet_time(self) -> None:
        run = Run()
        run.until(3600, changes=lambda now: now < 60, away=False)
        assert [reason for _, reason in run.told].count("change") == CHANGES
        assert run.until(3610, begin=3600, step=1, changes=lambda now: now < 3604, away=False) == 4


class TestWithoutANetwork:
    def test_a_year_leaves_a_few_and_the_pace_is_the_usual_one_afterwards(self) -> None:
        run = Run()
        hour = run.until(3600, changes=never, away=True)
        assert hour == FREE
        run.until(365 * DAY, begin=3600, step=300, changes=always, away=True)
        assert FREE + 10 < run.waiting < 30
        back = 365 * DAY
        assert run.until(back + 3600, begin=back, changes=lambda now: now == back, away=False) >= 12
        assert run.told[-13:][0][1] in {"change", "interval"}

    def test_the_newest_is_told_with_the_first_that_is_sent_again(self) -> None:
        run = Run()
        run.until(30 * DAY, step=300, changes=never, away=True)
        back = 30 * DAY
        run.until(back + 10, begin=back, changes=always, away=False)
        assert run.told[-1] == (back + 5, "change") or run.told[-1] == (back, "change")

    def test_starting_again_and_again_leaves_no_more(self) -> None:
        waiting = 0
        for _ in range(1000):
            run = Run()
            run.waiting = waiting
            run.until(60, changes=always, away=True)
            waiting = run.waiting
        assert waiting <= FREE + 1

    @given(
        most=st.integers(1, MOST),
        steps=st.lists(st.tuples(st.floats(0.1, 1e6), st.booleans()), min_size=1, max_size=200),
    )
    def test_it_is_never_more_than_so_many(self, most: int, steps: list[tuple[float, bool]]) -> None:
        run, now = Run(most=most), 0.0
        for seconds, has_changed in steps:
            run.until(now + 0.01, begin=now, step=1, changes=always if has_changed else never, away=True)
            now += seconds
            assert run.waiting <= most
