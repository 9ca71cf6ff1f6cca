"""Decoders: any division into pages and chunks, any break, gives the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams._decoding import (
    BytesDecoder,
    JsonDecoder,
    TextDecoder,
    event_decoder,
    json_batch_decoder,
)
from durable_streams._messages import body_of, encode_message, initial_body
from durable_streams._pages import Page
from durable_streams.errors import MessageError, ParseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from durable_streams._decoding import Decoder

PAGE = Page("0", "1", cursor=None, up_to_date=True, closed=False)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


class Choices:
    """Numbers that Hypothesis chooses, a byte for each and all at once: one by one takes three times as long."""

    def __init__(self, chosen: bytes) -> None:
        self._chosen = iter(chosen)

    def between(self, low: int, high: int) -> int:
        """One of these, the end included; the highest for a zero, and where there are no more bytes."""
        return high - next(self._chosen, 0) % (high - low + 1)


chosen_bytes = st.binary(min_size=40, max_size=160)


def flatten_once(body: bytes) -> list[Any]:
    """What a server makes of a body in JSON mode (PROTOCOL section 9.1.2)."""
    value = json.loads(body)
    return value if isinstance(value, list) else [value]


@dataclass
class Point:
    """An object of somebody's own, which orjson would write, NaN as null."""

    x: float


class NotANumber(Enum):
    """Which orjson writes as null."""

    NAN = float("nan")


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


class TestMessages:
    @given(st.lists(json_values.filter(lambda value: not isinstance(value, str)), min_size=1, max_size=5))
    def test_one_append_is_one_message_whatever_it_looks_like(self, values: list[Any]) -> None:
        messages = [encode_message(value, "application/json") for value in values]
        assert flatten_once(body_of(messages, "application/json")) == values

    @given(json_values)
    def test_text_that_is_json_already_is_never_encoded_twice(self, value: Any) -> None:
        text = json.dumps(value)
        for form in (text, text.encode()):
            assert flatten_once(body_of([encode_message(form, "application/json")], "application/json")) == [value]

    @pytest.mark.parametrize(
        "bad",
        [
            *("not JSON", "", b"\xff", '"\ud800"'),
            *(float("nan"), {"deep": [None, float("inf")]}, NotANumber.NAN, 2**64),
            *(object(), Point(1.0), [Point(float("nan"))], datetime(2026, 1, 1, tzinfo=UTC), {1, 2}, {1: 2}),
            ENDLESS,
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_is_not_json_is_refused(self, bad: Any) -> None:
        with pytest.raises(MessageError):
            encode_message(bad, "application/json; charset=utf-8")

    @pytest.mark.parametrize("bad", [{"a": 1}, 7, None, "", b"", "\ud800"])
    def test_a_byte_stream_takes_bytes_and_text_only(self, bad: Any) -> None:
        with pytest.raises(MessageError):
            encode_message(bad, "text/plain")

    def test_the_initial_content_is_sent_as_it_is(self) -> None:
        assert initial_body('[1, "a"]', "application/json") == b'[1, "a"]'
        assert initial_body([1, "a"], "application/json") == b'[1,"a"]'
        assert initial_body("é", "text/plain") == "é".encode()
        assert initial_body(None, None) is None


class TestDecoders:
    @given(st.text(), chosen_bytes)
    def test_text_is_the_same_however_it_is_divided_and_broken(self, text: str, chosen: bytes) -> None:
        assert "".join(read_brokenly(TextDecoder(), text.encode(), chosen)) == text

    @given(st.binary(max_size=40), chosen_bytes)
    def test_bytes_are_the_same_however_they_are_divided_and_broken(self, raw: bytes, chosen: bytes) -> None:
        assert b"".join(read_brokenly(BytesDecoder(), raw, chosen)) == raw

    @given(st.lists(json_values), st.integers(1, 40), chosen_bytes)
    def test_messages_are_the_same_however_they_are_divided_and_broken(
        self, messages: list[Any], segment_bytes: int, chosen: bytes
    ) -> None:
        decoder = JsonDecoder(segment_bytes=segment_bytes)
        read = read_brokenly(decoder, messages, chosen, encode=lambda some: json.dumps(some).encode())
        assert read == messages

    @given(st.lists(json_values), chosen_bytes)
    def test_batches_are_whole_pages_however_they_are_broken(self, messages: list[Any], chosen: bytes) -> None:
        batches = read_brokenly(
            json_batch_decoder(), messages, chosen, encode=lambda some: json.dumps(some).encode()
        )
        assert [message for batch in batches for message in batch] == messages
        assert [] not in batches

    @given(st.text(), chosen_bytes)
    def test_an_event_ends_at_its_offset_however_pages_are_divided_and_broken(
        self, text: str, chosen: bytes
    ) -> None:
        for mode in ("bytes", "text"):
            raw, start = text.encode(), 0
            for event in read_brokenly(event_decoder(mode), raw, chosen):
                end = int(event.next_offset)
                assert event.data == (raw[start:end] if mode == "bytes" else raw[start:end].decode())
                start = end
            assert start == len(raw)

    @given(st.lists(json_values), chosen_bytes)
    def test_an_event_of_messages_ends_at_its_offset(self, messages: list[Any], chosen: bytes) -> None:
        start = 0
        events = read_brokenly(
            event_decoder("json"), messages, chosen, encode=lambda some: json.dumps(some).encode()
        )
        for event in events:
            end = int(event.next_offset)
            assert event.data == messages[start:end]
            start = end
        assert start == len(messages)

    def test_half_a_character_is_not_complete(self) -> None:
        decoder = TextDecoder()
        decoder.begin_page("0")
        complete = []
        for byte in "é".encode():
            assert list(decoder.feed(bytes([byte]))) == []
            complete.append(decoder.complete)
        assert complete == [False, True]
        assert list(decoder.end_page(PAGE)) == ["é"]

    def test_another_encoding_is_the_callers_choice(self) -> None:
        decoder = TextDecoder("latin-1")
        decoder.begin_page("0")
        decoder.feed(b"\xe9")
        assert list(decoder.end_page(PAGE)) == ["é"]

    def test_text_that_ends_in_half_a_character_is_an_error(self) -> None:
        decoder = TextDecoder()
        decoder.begin_page("17")
        decoder.feed("é".encode()[:1])
        with pytest.raises(ParseError, match="'17'"):
            decoder.finish()

    def test_a_truncated_page_is_an_error(self) -> None:
        decoder = JsonDecoder()
        decoder.begin_page("17")
        decoder.feed(b'[{"a":')
        with pytest.raises(ParseError, match="'17'"):
            decoder.end_document()

    @pytest.mark.parametrize(("mode", "data"), [("bytes", b"[1]"), ("text", "[1]"), ("json", [1])])
    def test_an_event_is_a_page(self, mode: str, data: Any) -> None:
        decoder = event_decoder(mode)
        decoder.begin_page("0")
        decoder.feed(b"[1")
        decoder.feed(b"]")
        decoder.end_document()
        (event,) = decoder.end_page(PAGE)
        assert (event.data, event.next_offset, event.up_to_date) == (data, "1", True)


def read_brokenly(
    decoder: Decoder[Any], content: Sequence[Any], chosen: bytes, encode: Callable[[Any], bytes] = bytes
) -> list[Any]:
    """Read the content page by page; a page may break off, and begin again with another length."""
    choose = Choices(chosen)
    items: list[Any] = []
    start = 0
    for _ in range(20):
        if start >= len(content):
            break
        end = choose.between(start + 1, len(content))
        raw = encode(content[start:end])
        is_whole = choose.between(0, 1) == 1
        decoder.begin_page(str(start))
        at = 0
        stop = len(raw) if is_whole else choose.between(0, len(raw))
        while at < stop:
            step = choose.between(1, stop - at)
            items.extend(decoder.feed(raw[at : at + step]))
            at += step
        if is_whole:
            items.extend(decoder.end_document())
            items.extend(decoder.end_page(Page(str(start), str(end), None, up_to_date=False, closed=False)))
            start = end
    else:
        decoder.begin_page(str(start))
        items.extend(decoder.feed(encode(content[start:])))
        items.extend(decoder.end_document())
        end = len(content)
        items.extend(decoder.end_page(Page(str(start), str(end), None, up_to_date=True, closed=False)))
    items.extend(decoder.finish())
    return items
