"""How long a command may be executed, on both clocks."""

from __future__ import annotations

import itertools

import pytest

from ds_gateway.commands import Command
from ds_gateway.downlink.ageing import Deadline, Now, TooOld, age
from ds_gateway.records import NANOSECONDS

WALL_NS = 1_772_366_400 * NANOSECONDS
NOW = Now(WALL_NS, 1000.0)
DAY = 86400.0


def aged(
    *,
    issued: float | None = None,
    expires: float | None = None,
    after: float | None = None,
    live: bool = False,
    floor: float | None = None,
) -> Deadline | TooOld:
    """Instants are in seconds from now; the device's own expiry is 60 s."""
    command = Command(
        1,
        "a",
        "d",
        None,
        issued_ns=None if issued is None else _at(issued),
        expires_ns=None if expires is None else _at(expires),
        expires_after_seconds=after,
    )
    floor_ns = 0 if floor is None else _at(floor)
    return age(command, NOW, expires_after_seconds=60.0, floor_ns=floor_ns, is_live=live)


def _at(seconds: float) -> int:
    return WALL_NS + int(seconds * NANOSECONDS)


class TestEveryCombination:
    @pytest.mark.parametrize(
        ("issued", "expires", "after", "live"),
        list(
            itertools.product(
                [None, -DAY - 1, -DAY, -100.0, -59.0, 0.0, 60.0, 61.0],
                [None, -1.0, 0.0, 1.0, 1000.0],
                [None, 1.0, 99.0, 2 * DAY],
                [False, True],
            )
        ),
    )
    def test_the_deadline_is_the_earliest_that_is_known(
        self,
        issued: float | None,
        expires: float | None,
        after: float | None,
        live: bool,  # noqa: FBT001 - a parameter of the table
    ) -> None:
        result = aged(issued=issued, expires=expires, after=after, live=live)
        needs_age = issued is None and (expires is None or after is not None)
        code = result.code if isinstance(result, TooOld) else ""
        if issued is not None and issued > 60:
            assert code == "clock"
        elif issued is not None and issued < -DAY:
            assert code == "too_old"
        elif needs_age and not live:
            assert code == "no_issued_at"
        else:
            counted_from = issued if issued is not None else 0.0 if needs_age else None
            ends = [
                end
                for end in (expires, None if counted_from is None else counted_from + (after or 60.0))
                if end is not None
            ]
            if min(ends) <= 0:
                assert code == "expired"
            else:
                assert result == Deadline(_at(min(ends)), 1000.0 + min(ends))


class TestTheFloor:
    def test_what_was_issued_before_it_may_have_been_done(self) -> None:
        result = aged(issued=-10, floor=-9)
        assert isinstance(result, TooOld)
        assert (result.status, result.code) == ("expired", "too_old")
        assert isinstance(aged(issued=-9, floor=-9), Deadline)


class TestADeadline:
    @pytest.mark.parametrize(
        ("wall", "monotonic", "is_over"),
        [
            (0.0, 0.0, False),
            (9.9, 9.9, False),
            (10.0, 0.0, True),  # the wall clock was set forward
            (-3600.0, 10.0, True),  # it was set back
            (10.0, 10.0, True),
        ],
    )
    def test_either_clock_ends_it(
        self,
        wall: float,
        monotonic: float,
        is_over: bool,  # noqa: FBT001 - a parameter of the table
    ) -> None:
        deadline = Deadline.at(_at(10.0), NOW)
        assert deadline.is_over(Now(_at(wall), 1000.0 + monotonic)) is is_over
