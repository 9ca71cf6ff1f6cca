"""Asking the gateway across two event loops: here one loop is both."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ds_gateway.page import Inside
from ds_gateway.page.inside import FRESH_SECONDS, Asking, SilentError

pytestmark = pytest.mark.anyio


class Told:
    """Counts how often it is asked, and can fail."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False

    def status(self) -> dict[str, Any]:
        self.count += 1
        if self.fails:
            raise KeyError("a defect")
        return {"count": self.count}

    def inside(self) -> Inside:
        return Inside(self.status, lambda: ["journal"], lambda: "starting")


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr("ds_gateway.page.inside.time", fake)
    return fake


async def test_many_who_look_make_the_gateway_look_once(clock: FakeTime) -> None:
    told = Told()
    asking = Asking(told.inside(), asyncio.get_running_loop())
    assert await asyncio.gather(*(asking.status() for _ in range(50))) == [{"count": 1}] * 50
    assert await asking.status() == {"count": 1}
    clock.now += FRESH_SECONDS
    assert await asking.status() == {"count": 2}


async def test_a_failure_is_told_to_all_who_wait_and_not_kept(clock: FakeTime) -> None:
    told = Told()
    told.fails = True
    asking = Asking(told.inside(), asyncio.get_running_loop())
    failed = await asyncio.gather(*(asking.status() for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in failed] == [KeyError] * 3
    told.fails = False
    assert await asking.status() == {"count": 2}


async def test_who_goes_away_takes_nobodys_answer_along(clock: FakeTime) -> None:
    asking = Asking(Told().inside(), asyncio.get_running_loop())
    first, second = asyncio.create_task(asking.status()), asyncio.create_task(asking.status())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == {"count": 1}
    assert first.cancelled()


async def test_the_other_questions_are_asked_each_time() -> None:
    asking = Asking(Told().inside(), asyncio.get_running_loop())
    assert await asking.stalled() == ["journal"]
    assert await asking.why_not_ready() == "starting"


async def test_a_gateway_that_has_ended_is_said() -> None:
    ended = asyncio.new_event_loop()
    ended.close()
    with pytest.raises(SilentError, match="has ended"):
        await Asking(Told().inside(), ended).stalled()


async def test_an_answer_that_comes_too_late_is_not_looked_for() -> None:
    silent, told = asyncio.new_event_loop(), Told()
    try:
        with pytest.raises(SilentError, match=r"has not turned for 0\.01 s"):
            await Asking(told.inside(), silent, answer_seconds=0.01).status()
        await asyncio.to_thread(silent.run_until_complete, asyncio.sleep(0))
        assert told.count == 0, "nobody waits for it any more"
    finally:
        silent.close()
