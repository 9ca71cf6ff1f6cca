"""Server-sent events: any division into chunks gives the same, in linear time and bounded memory."""

from __future__ import annotations

import base64
import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durable_streams import _sse
from durable_streams._events import Control, GroupReader, decode_base64, parse_control
from durable_streams._sse import Event, EventParser
from durable_streams.errors import ParseError, SSEEncodingError
from harness.scripted_reads import control, data
from harness.work import Work

if TYPE_CHECKING:
    from collections.abc import Iterable

LINE_ENDS = (b"\n", b"\r", b"\r\n")

lines = st.sampled_from(
    [
        *(
            b"",
            b"",
            b"data: a",
            b"data:b",
            b"data:  c",
            b"data",
            b"data:",
            b"event: data",
            b"event:control",
            b"event",
        ),
        *(b": comment", b":", b"id: 7", b"retry: 1", b"datax: no", b" data: no"),
        b"data: \xc2\x85\xe2\x80\xa8\x0b\xff",
    ]
)


@st.composite
def event_streams(draw: st.DrawFn) -> bytes:
    """Lines with any line ends, perhaps behind a byte order mark, perhaps cut off."""
    drawn = draw(st.lists(st.tuples(lines, st.sampled_from(LINE_ENDS)), max_size=20))
    mark = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"]))
    return mark + b"".join(line + end for line, end in drawn) + draw(st.sampled_from([b"", b"data: cut off"]))


def events_of(stream: bytes) -> list[Event]:
    """What the specification says of a whole event stream, word by word."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    complete = re.split(rb"\r\n|\n|\r", stream)[:-1]
    found: list[Event] = []
    kind, collected = b"", b""
    for line in complete:
        if not line:
            if collected:
                found.append(Event(kind, collected[:-1]))
            kind, collected = b"", b""
        elif not line.startswith(b":"):
            field, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if field == b"event":
                kind = value
            elif field == b"data":
                collected += value + b"\n"
    return found


def parse(chunks: Iterable[bytes], parser: EventParser | None = None) -> list[Event]:
    parser = parser or EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def cut(stream: bytes, at: Iterable[int]) -> list[bytes]:
    """The stream in chunks; empty ones among them."""
    edges = [0, *sorted(at), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


class TestEvents:
    @given(event_streams(), st.data())
    @example(b"data: a\r\n\r\ndata: b\r\r\n\n", None)
    def test_are_the_same_in_any_division_into_chunks(self, stream: bytes, draw: st.DataObject | None) -> None:
        expected = events_of(stream)
        assert parse([stream]) == expected
        assert parse(stream[at : at + 1] for at in range(len(stream))) == expected
        if draw is not None:
            edges = draw.draw(st.lists(st.integers(0, len(stream)), max_size=8))
            assert parse(cut(stream, edges)) == expected

    def test_a_crlf_between_two_chunks_ends_one_line_and_not_two(self) -> None:
        assert parse([b"data: a\r", b"\ndata: b\r", b"", b"\n\r", b"\n"]) == [Event(b"", b"a\nb")]

    def test_one_leading_space_is_not_content_and_a_second_one_is(self) -> None:
        assert parse([b"data:a\ndata: b\ndata:  c\n\n"]) == [Event(b"", b"a\nb\n c")]

    def test_only_cr_and_lf_end_a_line(self) -> None:
        text = "a\u0085b\u2028c\u2029d\u000be\u000cf\u001cg"
        assert parse([f"data: {text}\n\n".encode()]) == [Event(b"", text.encode())]

    def test_a_byte_order_mark_may_arrive_byte_by_byte(self) -> None:
        assert parse([b"\xef", b"\xbb", b"\xbfdata: a\n\n"]) == [Event(b"", b"a")]
        assert parse([b"data: a\n\n\xef\xbb\xbfdata: b\n\n"]) == [Event(b"", b"a")], "only at the beginning"

    def test_an_event_without_data_is_none_and_its_type_is_forgotten(self) -> None:
        assert parse([b"event: control\n\ndata: x\n\n"]) == [Event(b"", b"x")]

    def test_an_empty_data_line_is_an_event(self) -> None:
        assert parse([b"event: control\ndata:\n\n"]) == [Event(b"control", b"")]


class TestTheWork:
    """Counted, not timed: see `harness.work`."""

    @pytest.mark.parametrize("chunk_bytes", [1, 7, 65536])
    def test_of_one_event_with_very_many_lines_is_linear(
        self, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def per_byte(line_count: int) -> float:
            stream = b"event: data\n" + b"data: x\n" * line_count + b"\n"
            return self._work(stream, chunk_bytes, monkeypatch) / len(stream)

        few, many = per_byte(1_000), per_byte(20_000)
        assert many < few * 2, "20 times as much"

    @pytest.mark.parametrize("chunk_bytes", [1, 7, 65536])
    def test_of_one_very_long_line_is_linear(self, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        def per_byte(length: int) -> float:
            stream = b"data: " + b"x" * length + b"\n\n"
            return self._work(stream, chunk_bytes, monkeypatch) / len(stream)

        short, long = per_byte(8_000), per_byte(160_000)
        assert long < short * 2, "20 times as much"

    def test_of_320_000_lines_is_a_few_passes_over_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = b"event: data\n" + b"data: x\n" * 320_000 + b"\n"
        assert self._work(stream, 65536, monkeypatch) < 20 * len(stream)

    @staticmethod
    def _work(stream: bytes, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> int:
        work = Work()
        monkeypatch.setattr(_sse, "bytearray", work.bytearray, raising=False)
        monkeypatch.setattr(_sse, "bytes", work.copied, raising=False)
        chunks = (work.bytes(stream[at : at + chunk_bytes]) for at in range(0, len(stream), chunk_bytes))
        (event,) = parse(chunks)
        assert len(event.data) + 8 >= len(stream) // 8
        return work.done


class TestTheBound:
    @pytest.mark.parametrize("chunk_bytes", [1, 10, 1000])
    @pytest.mark.parametrize("stream", [b"data: " + b"x" * 200, b"data: xxxx\n" * 30, b": " + b"x" * 200])
    def test_is_a_clear_error_and_what_came_before_is_given(self, stream: bytes, chunk_bytes: int) -> None:
        whole = b"data: a\n\n" + stream
        parser = EventParser(max_event_bytes=100)
        given_so_far: list[Event] = []

        def feed() -> None:
            for at in range(0, len(whole), chunk_bytes):
                given_so_far.extend(parser.feed(whole[at : at + chunk_bytes]))

        with pytest.raises(SSEEncodingError, match=r"100 bytes.*long-poll"):
            feed()
        assert given_so_far == [Event(b"", b"a")]

    def test_counts_each_event_by_itself(self) -> None:
        assert len(parse([b"data: xxxxxxxxxx\n\n" * 50], EventParser(max_event_bytes=20))) == 50

    def test_holds_for_a_group_without_a_control_event(self) -> None:
        reader = GroupReader(max_group_bytes=100)
        with pytest.raises(SSEEncodingError, match="100 bytes without a control event"):
            list(reader.feed(data("x" * 30) * 4))


class TestGroups:
    def test_a_control_event_makes_one_of_the_data_before_it(self) -> None:
        stream = data("a", "b") + data("c") + control("1", cursor="k") + control("1", up_to_date=True)
        groups = list(GroupReader().feed(stream))
        assert [(group.payloads, group.control) for group in groups] == [
            ((b"a\nb", b"c"), Control("1", "k", up_to_date=False, closed=False)),
            ((), Control("1", None, up_to_date=True, closed=False)),
        ]

    def test_closed_is_up_to_date(self) -> None:
        assert parse_control(b'{"streamNextOffset":"1","streamClosed":true}') == Control(
            "1", None, up_to_date=True, closed=True
        )

    @pytest.mark.parametrize("word", ["false", "1", '"true"', "null"])
    def test_only_true_is_true(self, word: str) -> None:
        text = f'{{"streamNextOffset":"1","streamClosed":{word},"upToDate":{word}}}'.encode()
        assert parse_control(text) == Control("1", None, up_to_date=False, closed=False)

    @pytest.mark.parametrize("offset", ["1", "", 7, None, ["1"]])
    def test_a_control_event_names_an_offset_or_is_an_error(self, offset: object) -> None:
        fields = {"streamNextOffset": offset, "streamCursor": "x"}
        text = json.dumps(fields).encode()
        if isinstance(offset, str) and offset:
            assert parse_control(text).next_offset == offset
        else:
            with pytest.raises(ParseError, match="streamNextOffset"):
                parse_control(text)


class TestBase64:
    @given(st.binary(max_size=60), st.lists(st.tuples(st.integers(0, 80), st.sampled_from(LINE_ENDS)), max_size=6))
    def test_may_be_divided_into_lines_anywhere(self, raw: bytes, breaks: list[tuple[int, bytes]]) -> None:
        text = base64.b64encode(raw)
        for at, end in breaks:
            text = text[:at] + end + text[at:]
        assert decode_base64(text) == raw

    def test_of_no_bytes_is_no_text(self) -> None:
        assert decode_base64(b"") == decode_base64(b"\n") == b""

    @pytest.mark.parametrize(
        "text",
        [
            *(b"A", b"AB", b"ABC", b"AAAA=", b"AAAA====", b"A===", b"AA==AA==", b"AA=A", b"=AAA", b"===="),
            *(b"AA*=", b"AA -", b"-_==", b" AAAA"),
        ],
    )
    def test_is_strict_about_alphabet_and_padding(self, text: bytes) -> None:
        with pytest.raises(SSEEncodingError, match="not base64") as raised:
            decode_base64(text)
        assert isinstance(raised.value, ParseError)
        assert raised.value.code == "SSE_ENCODING"

    def test_is_announced_in_any_case_and_nothing_else_is_known(self) -> None:
        (group,) = GroupReader("Base64").feed(data("AAE=") + control("1"))
        assert group.payloads == (b"\x00\x01",)
        with pytest.raises(SSEEncodingError, match="'hex'"):
            GroupReader("hex")
