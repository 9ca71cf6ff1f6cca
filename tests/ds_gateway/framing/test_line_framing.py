from __future__ import annotations

from typing import SupportsIndex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_gateway.config.framing import FramingSettings, LineSettings
from ds_gateway.framing import Framer, LineFramer, build_framer
from ds_gateway.framing import line as line_module

_DELIMITERS = st.sampled_from([b"\n", b"\r\n", b"\r", b"\x03", b"aa", b"aba", b"\n\n\n"])
# Few different bytes, so that delimiters and their beginnings are frequent.
_NOISE = st.lists(st.sampled_from([b"a", b"b", b"\r", b"\n", b"\x03", b"\xff", b"12.5 kg"]), max_size=60).map(
    b"".join
)


def _chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def _feed_all(framer: Framer, chunks: list[bytes]) -> list[bytes]:
    return [frame for chunk in chunks for frame in framer.feed(chunk)]


class TestFrames:
    def test_a_frame_is_what_stands_between_two_delimiters(self) -> None:
        framer = LineFramer(b"\r\n", 100)
        assert framer.feed(b"one\r\ntwo\r\nthr") == [b"one", b"two"]
        assert framer.feed(b"ee\r\n") == [b"three"]

    def test_a_delimiter_may_arrive_in_two_pieces(self) -> None:
        framer = LineFramer(b"\r\n", 100)
        assert framer.feed(b"one\r") == []
        assert framer.feed(b"\ntwo\r") == [b"one"]
        assert framer.feed(b"\n") == [b"two"]

    def test_half_a_delimiter_inside_a_frame_belongs_to_the_frame(self) -> None:
        assert LineFramer(b"\r\n", 100).feed(b"a\rb\nc\r\n") == [b"a\rb\nc"]

    def test_empty_lines_are_no_frames(self) -> None:
        assert LineFramer(b"\n", 100).feed(b"\n\r\n\none\r\n\r\n") == [b"one\r"]

    def test_bytes_that_are_not_text_are_kept_as_they_are(self) -> None:
        assert LineFramer(b"\n", 100).feed(b"\x00\xff\xfe\n") == [b"\x00\xff\xfe"]

    @settings(deadline=None)
    @given(data=_NOISE, delimiter=_DELIMITERS, max_bytes=st.integers(1, 12), cuts=st.lists(st.integers(0, 400)))
    def test_the_chunking_changes_neither_frames_nor_counters(
        self, data: bytes, delimiter: bytes, max_bytes: int, cuts: list[int]
    ) -> None:
        whole, cut, single = (LineFramer(delimiter, max_bytes) for _ in range(3))
        frames = whole.feed(data)
        assert _feed_all(cut, _chunked(data, cuts)) == frames
        assert _feed_all(single, [bytes([byte]) for byte in data]) == frames
        assert cut.overlong == single.overlong == whole.overlong

    @settings(deadline=None)
    @given(data=_NOISE, delimiter=_DELIMITERS, cuts=st.lists(st.integers(0, 400)))
    def test_frames_are_those_of_a_split(self, data: bytes, delimiter: bytes, cuts: list[int]) -> None:
        expected = [part for part in data.split(delimiter)[:-1] if part.strip(b"\r\n")]
        assert _feed_all(LineFramer(delimiter, 1000), _chunked(data, cuts)) == expected


class TestOverlongFrames:
    def test_the_longest_allowed_frame_passes_and_one_byte_more_is_counted(self) -> None:
        framer = LineFramer(b"\r\n", 5)
        assert framer.feed(b"12345\r\n123456\r\nok\r\n") == [b"12345", b"ok"]
        assert framer.overlong == 1

    def test_an_overlong_frame_is_discarded_to_its_delimiter_and_counted_once(self) -> None:
        framer = LineFramer(b"\n", 5)
        assert _feed_all(framer, [b"x" * 50, b"y" * 50, b"z\nok\n"]) == [b"ok"]
        assert framer.overlong == 1

    @pytest.mark.parametrize("chunk_bytes", [1, 7, 4096])
    def test_a_babbler_without_a_delimiter_is_bounded(self, chunk_bytes: int) -> None:
        framer = LineFramer(b"\r\n", 512)
        babble = b"\rU*~" * (chunk_bytes // 4 + 1)
        largest = 0
        for _ in range(2_400_000 // max(chunk_bytes, 16)):
            assert framer.feed(babble[:chunk_bytes]) == []
            largest = max(largest, framer.buffered_bytes)
        assert largest <= 512 + len(b"\r\n")
        assert framer.overlong == 1
        assert framer.feed(b"\r\nok\r\n") == [b"ok"]

    def test_2_4_megabytes_of_babble_are_bounded(self) -> None:
        framer = LineFramer(b"\n", 4096)
        for _ in range(600):
            framer.feed(b"U" * 4096)
            assert framer.buffered_bytes <= 4096
        assert framer.overlong == 1


class TestRecovery:
    @settings(deadline=None)
    @given(
        garbage=_NOISE,
        delimiter=_DELIMITERS,
        frames=st.lists(st.from_regex(rb"[0-9]{1,8}", fullmatch=True), min_size=1, max_size=5),
    )
    def test_after_any_garbage_the_frames_behind_the_next_delimiter_are_found(
        self, garbage: bytes, delimiter: bytes, frames: list[bytes]
    ) -> None:
        framer = LineFramer(delimiter, 8)
        # Garbage may end inside a delimiter, and b"aaa" has b"aa" in two places; a digit ends both.
        framer.feed(garbage + b"0" + delimiter)
        assert framer.feed(b"".join(frame + delimiter for frame in frames)) == frames

    def test_after_a_reset_the_tail_of_a_frame_is_discarded_and_not_counted(self) -> None:
        framer = LineFramer(b"\r\n", 10)
        framer.feed(b"half of a fr")
        overlong = framer.overlong
        framer.reset(discard_to_boundary=True)
        assert framer.buffered_bytes == 0
        assert _feed_all(framer, [b"a very long tail of a frame", b"\r", b"\nwhole\r\n"]) == [b"whole"]
        assert framer.overlong == overlong

    def test_a_reset_that_keeps_everything_starts_with_a_whole_frame(self) -> None:
        framer = LineFramer(b"\n", 10)
        framer.feed(b"half")
        framer.reset(discard_to_boundary=False)
        assert framer.feed(b"whole\n") == [b"whole"]

    @settings(deadline=None)
    @given(data=_NOISE, delimiter=_DELIMITERS, cuts=st.lists(st.integers(0, 400)))
    def test_what_a_reset_discards_does_not_depend_on_the_chunking(
        self, data: bytes, delimiter: bytes, cuts: list[int]
    ) -> None:
        framer = LineFramer(delimiter, 1000)
        framer.reset(discard_to_boundary=True)
        expected = [part for part in data.split(delimiter)[1:-1] if part.strip(b"\r\n")]
        assert _feed_all(framer, _chunked(data, cuts)) == expected


class _CountingBuffer(bytearray):
    """Counts the bytes that the framer searches and copies."""

    work = 0

    def find(
        self,
        sub: object,
        start: SupportsIndex | None = None,
        end: SupportsIndex | None = None,
        /,
    ) -> int:
        begin = 0 if start is None else int(start)
        type(self).work += len(self) - begin
        assert isinstance(sub, bytes)
        return super().find(sub, begin)

    def __bytes__(self) -> bytes:
        # One copy here, and one more by the split of it.
        type(self).work += 2 * len(self)
        return bytes(memoryview(self))


class TestWork:
    @pytest.mark.parametrize("chunk_bytes", [1, 3, 64, 4096])
    @pytest.mark.parametrize("frame_bytes", [10, 3000])
    def test_each_byte_is_looked_at_a_constant_number_of_times(
        self, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, frame_bytes: int
    ) -> None:
        monkeypatch.setattr(line_module, "bytearray", _CountingBuffer, raising=False)
        monkeypatch.setattr(_CountingBuffer, "work", 0)
        framer = LineFramer(b"\r\n", 4096)
        data = (b"x" * frame_bytes + b"\r\n") * (60_000 // frame_bytes)
        chunks = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
        assert len(_feed_all(framer, chunks)) == 60_000 // frame_bytes
        assert 0 < _CountingBuffer.work <= 6 * len(data)


class TestSettings:
    def test_the_settings_choose_delimiter_and_limit(self) -> None:
        framer = build_framer(FramingSettings(line=LineSettings(delimiter="\r\n", max_bytes=3)))
        assert framer.feed(b"abc\r\nabcd\r\n") == [b"abc"]
        assert framer.overlong == 1

    def test_a_delimiter_up_to_ff_is_that_byte_and_others_are_utf_8(self) -> None:
        byte = build_framer(FramingSettings(line=LineSettings(delimiter="\xff")))
        assert byte.feed(b"one\xfftwo\xff") == [b"one", b"two"]
        character = build_framer(FramingSettings(line=LineSettings(delimiter="€")))
        assert character.feed("one€".encode()) == [b"one"]

    @pytest.mark.parametrize(("delimiter", "max_bytes"), [(b"", 10), (b"\n", 0)])
    def test_impossible_limits_are_refused(self, delimiter: bytes, max_bytes: int) -> None:
        with pytest.raises(ValueError, match="at least one byte"):
            LineFramer(delimiter, max_bytes)


class TestBegunBytes:
    def test_they_are_those_that_the_next_frame_begins_with(self) -> None:
        framer = LineFramer(b"\r\n", 10)
        for data, begun_bytes in ((b"", 0), (b"1.5", 3), (b" kg\r", 7), (b"\n", 0), (b"\r", 0), (b"OK", 3)):
            framer.feed(data)
            assert framer.begun_bytes == begun_bytes

    def test_none_while_bytes_are_discarded(self) -> None:
        framer = LineFramer(b"END", 10)
        framer.reset(discard_to_boundary=True)
        framer.feed(b"1.5EN")
        assert (framer.begun_bytes, framer.buffered_bytes) == (0, 2)
        framer.feed(b"D" + b"x" * 20)
        assert framer.begun_bytes == 0
