"""What holds for all framings, each with an encoder of its own."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.framing_kits import KITS, MAX_BYTES, Kit, payload_of, sent, wire_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.framing import Framer

_BABBLE_BYTES: Final = 2_400_000
_READ_BYTES: Final = 4096

each = pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.name)


def example(kit: Kit) -> bytes:
    """The content of one frame."""
    return (kit.alphabet * 2)[5 : 5 + kit.sizes[1]]


def contents(kit: Kit, *, at_least: int = 0) -> st.SearchStrategy[list[bytes]]:
    low, high = kit.sizes
    # The most likely byte, 0, is the first of the alphabet: nasty where all bytes may be sent.
    letters = bytes(kit.alphabet[byte % len(kit.alphabet)] for byte in range(256))
    one = st.binary(min_size=low, max_size=high).map(lambda data: data.translate(letters))
    # Blanks alone make no line.
    return st.lists(one.filter(lambda data: data.strip() != b""), min_size=at_least, max_size=4)


def garbage(kit: Kit) -> st.SearchStrategy[bytes]:
    """Noise with the framing's own marks in it, and with pieces of its frames."""
    wire = wire_of(kit, example(kit))
    longer = b"U" * (MAX_BYTES - 1)
    pieces = [b"U", *kit.marks, longer, wire[: len(wire) // 2], wire[len(wire) // 2 :], b"\0", b"\xff"]
    return st.lists(st.sampled_from(pieces) | st.binary(max_size=8), max_size=8).map(b"".join)


def at(cuts: list[int]) -> Callable[[bytes], list[bytes]]:
    def chunked(data: bytes) -> list[bytes]:
        places = sorted({min(cut, len(data)) for cut in cuts})
        return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]

    return chunked


def bytewise(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


def whole(data: bytes) -> list[bytes]:
    return [data]


def counters(framer: Framer) -> tuple[int, int, int]:
    return framer.overlong, framer.bad_checks, framer.resyncs


def is_tail(frames: list[bytes], expected: list[bytes]) -> bool:
    return not expected or frames[-len(expected) :] == expected


@each
class TestFrames:
    @settings(deadline=None, max_examples=8)
    @given(data=st.data())
    def test_what_was_sent_is_what_comes_out(self, kit: Kit, data: st.DataObject) -> None:
        given_contents = data.draw(contents(kit))
        framer = kit.build()
        cuts = data.draw(st.lists(st.integers(0, 150), max_size=8))
        frames = sent(kit, framer, [wire_of(kit, content) for content in given_contents], at(cuts))
        assert frames == [payload_of(kit, content) for content in given_contents]
        assert counters(framer) == (0, 0, 0)
        assert framer.buffered_bytes == 0 or framer.begun_bytes == 0 or kit.name.startswith("line")

    @settings(deadline=None, max_examples=12)
    @given(data=st.data())
    def test_the_chunking_changes_neither_frames_nor_counters(self, kit: Kit, data: st.DataObject) -> None:
        wires = [
            data.draw(garbage(kit)) if data.draw(st.booleans()) else wire_of(kit, content)
            for content in data.draw(contents(kit))
        ]
        discards = data.draw(st.booleans())
        framers = [kit.build() for _ in range(3)]
        for framer in framers:
            framer.reset(discard_to_boundary=discards)
        ways = (whole, bytewise, at(data.draw(st.lists(st.integers(0, 300), max_size=8))))
        first, *others = [sent(kit, framer, wires, way) for framer, way in zip(framers, ways, strict=True)]
        assert all(other == first for other in others)
        assert len({counters(framer) for framer in framers}) == 1
        assert len({(framer.buffered_bytes, framer.begun_bytes) for framer in framers}) == 1


@each
class TestRecovery:
    @settings(deadline=None, max_examples=15)
    @given(data=st.data())
    def test_frames_are_found_behind_any_garbage(self, kit: Kit, data: st.DataObject) -> None:
        noise = data.draw(garbage(kit))
        given_contents = data.draw(contents(kit, at_least=1))
        given_contents = [given_contents[0]] * kit.costs + given_contents
        framer = kit.build()
        framer.feed(noise)
        if kit.needs_silence:
            framer.idle()
        frames = sent(kit, framer, [wire_of(kit, content) for content in given_contents], whole)
        expected = [payload_of(kit, content) for content in given_contents]
        assert is_tail(frames, expected[kit.costs :])

    @settings(deadline=None, max_examples=8)
    @given(data=st.data())
    def test_the_tail_of_a_frame_after_an_opening_is_no_frame_and_not_counted(
        self, kit: Kit, data: st.DataObject
    ) -> None:
        first, *rest = data.draw(contents(kit, at_least=1))
        wire = wire_of(kit, first)
        # Half a mark at the end is part of what comes next.
        last = max(1, len(wire) - max(1, len(kit.behind)))
        tail = wire[data.draw(st.integers(1, last)) :]
        framer = kit.build()
        framer.feed(wire[:1])
        framer.reset(discard_to_boundary=True)
        assert (framer.buffered_bytes, framer.begun_bytes) == (0, 0)
        framer.feed(tail)
        if kit.needs_silence:
            framer.idle()
        frames = sent(kit, framer, [wire_of(kit, content) for content in rest], whole)
        expected = [payload_of(kit, content) for content in rest]
        assert frames == expected or (kit.is_proof and is_tail(frames, expected))
        assert counters(framer) == (0, 0, 0)

    def test_a_reset_that_keeps_everything_starts_with_a_whole_frame(self, kit: Kit) -> None:
        content = example(kit)
        framer = kit.build()
        framer.feed(wire_of(kit, content)[:-3])
        framer.reset(discard_to_boundary=False)
        assert sent(kit, framer, [wire_of(kit, content)], whole) == [payload_of(kit, content)]


def _damaged(wire: bytes, seeded: random.Random) -> bytes:
    """With one to three bytes flipped, lost or added."""
    broken = bytearray(wire)
    while bytes(broken) == wire:
        for _ in range(seeded.randint(1, 3)):
            place = seeded.randrange(len(broken)) if broken else 0
            match seeded.randrange(3):
                case 0 if broken:
                    broken[place] ^= 1 << seeded.randrange(8)
                case 1 if broken:
                    del broken[place]
                case _:
                    broken.insert(place, seeded.randrange(256))
    return bytes(broken)


class TestDamage:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("kit", [kit for kit in KITS if kit.is_proof], ids=lambda kit: kit.name)
    def test_a_tenth_of_damaged_frames_costs_no_clean_one(self, kit: Kit, seed: int) -> None:
        seeded = random.Random(seed)
        low, high = kit.sizes
        wires: list[bytes] = []
        clean: list[bytes] = []
        sent_contents: set[bytes] = set()
        for _ in range(300):
            content = bytes(seeded.choice(kit.alphabet) for _ in range(seeded.randint(low, high)))
            wire = wire_of(kit, content)
            sent_contents.add(payload_of(kit, content))
            if seeded.random() < 0.1:
                wire = _damaged(wire, seeded)
            elif not wires or kit.between or wires[-1].endswith(kit.behind):
                clean.append(payload_of(kit, content))
            wires.append(wire)
        framer = kit.build()
        frames = sent(kit, framer, wires, at([seeded.randrange(9000) for _ in range(400)]))
        remaining = iter(frames)
        missing = [content for content in clean if content not in remaining]
        assert missing == []
        assert set(frames) <= sent_contents
        assert framer.bad_checks > 0
        assert len(clean) > 200


def _babble(kit: Kit, kind: str, size_bytes: int) -> bytes:
    match kind:
        case "noise":
            piece = random.Random(7).randbytes(24_000)
        case "nothing":
            piece = b"U"
        case _:
            piece = kit.trap or kit.encode(b"")[-1:] or b"\n"
    return piece * (size_bytes // len(piece))


def _largest_buffer(framer: Framer, data: bytes) -> int:
    largest = 0
    for place in range(0, len(data), _READ_BYTES):
        framer.feed(data[place : place + _READ_BYTES])
        largest = max(largest, framer.buffered_bytes)
    return largest


@each
@pytest.mark.parametrize("kind", ["noise", "nothing", "traps"])
class TestBabblers:
    def test_babble_is_bounded_and_the_next_frames_are_found(self, kit: Kit, kind: str) -> None:
        framer = kit.build()
        # Where each byte may begin a frame, so many are told from another one by one.
        size_bytes = (
            _BABBLE_BYTES if kind == "nothing" and not kit.name.startswith(("fixed", "length")) else 48_000
        )
        assert _largest_buffer(framer, _babble(kit, kind, size_bytes)) <= kit.max_bytes
        if framer.gap_seconds is not None:
            framer.idle()
        wires = [wire_of(kit, example(kit))] * (kit.costs + 1)
        assert sent(kit, framer, wires, whole)[-1:] == [payload_of(kit, example(kit))]
