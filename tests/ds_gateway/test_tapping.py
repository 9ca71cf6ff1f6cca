"""The verb ``tap``: few at a time, closed when asked or forgotten, and wrong requests are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway.captures import Chunk
from ds_gateway.errors import ControlError
from ds_gateway.serial_port import SerialSnapshot
from ds_gateway.tapping import MAX_TAPS, Taps, heard
from harness.waiting import await_until

if TYPE_CHECKING:
    from ds_gateway.serial_port.tap import Tap

pytestmark = pytest.mark.anyio


class Port:
    """Keeps its taps, as a source does."""

    def __init__(self) -> None:
        self.taps: list[Tap] = []

    def tap(self, tap: Tap) -> None:
        self.taps.append(tap)

    def untap(self, tap: Tap) -> None:
        self.taps.remove(tap)

    def snapshot(self) -> SerialSnapshot:
        return SerialSnapshot(reason="unplugged")


async def test_what_is_heard_is_taken_once() -> None:
    port = Port()
    taps = Taps(lambda: {"scale": port})
    assert taps.answer({"action": "open", "source": "scale"}) == {"tap": 1, "trouble": "unplugged", "away": True}
    chunks = [Chunk(0.0, b"\x00\xff"), Chunk(0.0, b"?", is_sent=True)]
    for chunk in chunks:
        port.taps[0].heard(chunk.raw, 0.0, is_sent=chunk.is_sent)
    assert heard(taps.answer({"action": "take", "tap": 1})["chunks"]) == chunks
    assert taps.answer({"action": "take", "tap": 1})["chunks"] == []
    assert taps.answer({"action": "close", "tap": 1}) == {}
    assert port.taps == []


async def test_one_that_is_forgotten_is_closed() -> None:
    port = Port()
    taps = Taps(lambda: {"scale": port}, expire_seconds=0.01)
    taps.answer({"action": "open", "source": "scale"})
    await await_until(lambda: not port.taps, what="the tap is closed")
    with pytest.raises(ControlError, match=r"knows no tap 1: it was started anew, or nobody asked for 0.01 s"):
        taps.answer({"action": "take", "tap": 1})


async def test_there_are_only_so_many() -> None:
    port = Port()
    taps = Taps(lambda: {"scale": port})
    for _ in range(MAX_TAPS):
        taps.answer({"action": "open", "source": "scale"})
    with pytest.raises(ControlError, match="4 captures run already: end one of them"):
        taps.answer({"action": "open", "source": "scale"})
    for number in range(1, MAX_TAPS + 1):
        taps.answer({"action": "close", "tap": number})
    assert port.taps == []


@pytest.mark.parametrize("request_", [{}, {"action": "open"}, {"action": "take", "tap": "1"}, {"action": 1}])
async def test_wrong_requests_are_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(ControlError, match="tap takes an action"):
        Taps(dict).answer(request_)
