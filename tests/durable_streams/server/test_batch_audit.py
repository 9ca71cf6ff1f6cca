"""The audit of the kill runs finds what it is there to find, and counts each thing as what it is."""

from __future__ import annotations

import pytest

from harness.batch_audit import BYTES, JSON, Found, Verdict, decode, encode, judge


def stream(content_type: str, *batches: int) -> bytes:
    """One page with these batches."""
    bodies = [encode(content_type, batch, 50) for batch in batches]
    if content_type == JSON:
        return b"[" + b",".join(body[1:-1] for body in bodies) + b"]"
    return b"".join(bodies)


class TestVerdict:
    def test_all_is_well(self) -> None:
        verdict = judge(3, 3, Found([0, 1, 2]))
        assert verdict == Verdict(acknowledged=3)
        assert verdict.fine

    @pytest.mark.parametrize("batches", [[0, 1], [0, 1, 2]])
    def test_what_was_not_acknowledged_may_be_there_or_not(self, batches: list[int]) -> None:
        assert judge(2, 3, Found(batches)).fine

    @pytest.mark.parametrize(
        ("found", "verdict"),
        [
            (Found([0, 2, 3]), Verdict(4, lost=1)),
            (Found([0, 1, 2]), Verdict(4, lost=1)),
            (Found([]), Verdict(4, lost=4)),
            (Found([0, 1, 1, 2, 3]), Verdict(4, stored_twice=1)),
            (Found([0, 1, 2, 3, 0, 1, 2, 3]), Verdict(4, stored_twice=4)),
            (Found([0, 2, 1, 3]), Verdict(4, out_of_order=1)),
            (Found([0, 1, 2, 3, 9]), Verdict(4, foreign=1)),
            (Found([0, 1], "torn"), Verdict(4, unreadable=2, damages=["torn"])),
            (Found([0, 2], "torn"), Verdict(4, lost=1, unreadable=1, damages=["torn"])),
            (Found([0, 1, 2, 3], "torn"), Verdict(4, damages=["torn"])),
        ],
        ids=str,
    )
    def test_each_thing_is_counted_as_what_it_is(self, found: Found, verdict: Verdict) -> None:
        assert judge(4, 5, found) == verdict
        assert not verdict.fine

    def test_verdicts_add_up(self) -> None:
        one = Verdict(1, 2, 3, 4, 5, 6, ["a"])
        assert one + Verdict(10, 20, 30, 40, 50, 60, ["b"]) == Verdict(11, 22, 33, 44, 55, 66, ["a", "b"])


@pytest.mark.parametrize("content_type", [JSON, BYTES])
class TestReading:
    def test_batches_are_found_in_their_order(self, content_type: str) -> None:
        assert decode(content_type, [stream(content_type, 0, 2, 2, 1)]) == Found([0, 2, 2, 1])

    def test_pages_are_one_stream(self, content_type: str) -> None:
        pages = [stream(content_type, 0), stream(content_type, 1, 2)]
        assert decode(content_type, pages) == Found([0, 1, 2])

    def test_nothing_is_nothing(self, content_type: str) -> None:
        assert decode(content_type, []) == Found([])

    @pytest.mark.parametrize("cut", [1, 20, 60])
    def test_a_torn_tail_is_damage(self, content_type: str, cut: int) -> None:
        found = decode(content_type, [stream(content_type, 0), stream(content_type, 1)[:-cut]])
        assert found.batches == [0]
        assert found.damage

    def test_garbage_is_damage(self, content_type: str) -> None:
        found = decode(content_type, [stream(content_type, 0), b"\0" * 40, stream(content_type, 1)])
        assert found.batches == [0]
        assert found.damage


def test_half_a_json_batch_is_damage() -> None:
    whole = stream(JSON, 0)
    first = b"[" + encode(JSON, 1, 5)[1:].split(b",{")[0] + b"]"
    last = b"[{" + encode(JSON, 1, 5).split(b",{")[1]
    for half in (first, last):
        assert decode(JSON, [whole, half]).batches == [0]
        assert decode(JSON, [whole, half]).damage
        assert decode(JSON, [whole, half, stream(JSON, 2)]).damage


def test_a_changed_byte_is_damage() -> None:
    body = bytearray(stream(BYTES, 0, 1))
    body[30] ^= 1
    assert decode(BYTES, [bytes(body)]) == Found([], "frame 0 is torn at byte 0")
