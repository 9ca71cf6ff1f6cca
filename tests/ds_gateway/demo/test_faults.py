from __future__ import annotations

from itertools import pairwise

import pytest

from ds_gateway.demo.faults import MIN_SECONDS, Action, Step, schedule

LENGTHS = range(MIN_SECONDS, 601)
BOTH = pytest.mark.parametrize("with_broker", [True, False])


def actions(steps: tuple[Step, ...]) -> list[Action]:
    return [step.action for step in steps]


def time_of(steps: tuple[Step, ...], action: Action) -> list[float]:
    return [step.at_seconds for step in steps if step.action is action]


class TestEveryLength:
    @BOTH
    def test_the_steps_are_in_the_order_of_their_times(self, *, with_broker: bool) -> None:
        for seconds in LENGTHS:
            times = [step.at_seconds for step in schedule(seconds, with_broker=with_broker)]
            assert times == sorted(times)

    @BOTH
    def test_the_last_third_is_left_for_catching_up(self, *, with_broker: bool) -> None:
        for seconds in LENGTHS:
            steps = schedule(seconds, with_broker=with_broker)
            assert steps[0].at_seconds > 1
            assert steps[-1].at_seconds <= seconds * 2 / 3 + 1e-9

    @BOTH
    def test_the_gateway_is_killed_twice_once_while_the_server_is_away(self, *, with_broker: bool) -> None:
        for seconds in LENGTHS:
            steps = schedule(seconds, with_broker=with_broker)
            (stop,), (start,) = time_of(steps, Action.STOP_SERVER), time_of(steps, Action.START_SERVER)
            first, second = time_of(steps, Action.KILL_GATEWAY)
            assert first < stop < second < start

    @BOTH
    def test_the_server_is_away_for_a_sixth(self, *, with_broker: bool) -> None:
        for seconds in LENGTHS:
            steps = schedule(seconds, with_broker=with_broker)
            (stop,), (start,) = time_of(steps, Action.STOP_SERVER), time_of(steps, Action.START_SERVER)
            assert start - stop == pytest.approx(seconds / 6)

    @BOTH
    def test_the_scale_holds_before_each_kill_and_while_the_server_is_still_there(
        self, *, with_broker: bool
    ) -> None:
        for seconds in LENGTHS:
            server_is_there, scale_holds = True, False
            for step in schedule(seconds, with_broker=with_broker):
                match step.action:
                    case Action.HOLD_SCALE:
                        # Its last reading could not reach the stream otherwise.
                        assert server_is_there
                        scale_holds = True
                    case Action.KILL_GATEWAY:
                        assert scale_holds
                        scale_holds = False
                    case Action.STOP_SERVER:
                        server_is_there = False
                    case Action.START_SERVER:
                        server_is_there = True
                    case Action.RESTART_BROKER:
                        assert server_is_there

    def test_two_faults_are_never_closer_than_the_gateway_takes_to_come_back(self) -> None:
        disturbing = {Action.KILL_GATEWAY, Action.RESTART_BROKER, Action.STOP_SERVER}
        times = [step.at_seconds for step in schedule(MIN_SECONDS, with_broker=True) if step.action in disturbing]
        assert all(later - earlier > 0.8 for earlier, later in pairwise(times))


class TestTheCommands:
    @BOTH
    def test_one_is_given_before_the_first_kill_and_one_while_the_server_is_away(
        self, *, with_broker: bool
    ) -> None:
        for seconds in LENGTHS:
            steps = actions(schedule(seconds, with_broker=with_broker))
            first, second = (place for place, action in enumerate(steps) if action is Action.TARE)
            # The scale's line is held after it, and so its receipts are waited for, before the kill.
            assert steps[first + 1 : first + 3] == [Action.HOLD_SCALE, Action.KILL_GATEWAY]
            assert steps[second - 1 : second + 2] == [Action.KILL_GATEWAY, Action.TARE, Action.START_SERVER]

    def test_are_given_at_the_same_times_where_nothing_else_is_done(self) -> None:
        steps = schedule(60, with_broker=True)
        alone = schedule(60, with_broker=True, with_faults=False)
        assert alone == tuple(step for step in steps if step.action is Action.TARE)
        assert len(alone) == 2


class TestTheBroker:
    def test_is_restarted_once(self) -> None:
        assert actions(schedule(60, with_broker=True)).count(Action.RESTART_BROKER) == 1

    def test_is_left_alone_where_there_is_none_and_the_rest_stays_as_it_is(self) -> None:
        with_one, without = schedule(60, with_broker=True), schedule(60, with_broker=False)
        assert Action.RESTART_BROKER not in actions(without)
        assert without == tuple(step for step in with_one if step.action is not Action.RESTART_BROKER)


class TestTooShort:
    @pytest.mark.parametrize("seconds", [14.9, 1, 0, -60, float("nan")])
    def test_is_refused_with_the_least_length(self, seconds: float) -> None:
        with pytest.raises(ValueError, match=f"at least {MIN_SECONDS} s"):
            schedule(seconds, with_broker=True)
