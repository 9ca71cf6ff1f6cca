"""A JSON document that arrives in parts: the same messages as of the whole, in linear time and little memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durable_streams import _json_pages
from durable_streams._json_pages import CutShortError, JsonDocument
from durable_streams.errors import ParseError
from harness.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Strings full of what a splitter might take for structure.
texts = st.text(st.sampled_from('{}[],:"\\ aé\u2028\n'), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6, width=32) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
layouts = st.sampled_from(
    [
        {"separators": (",", ":")},
        {},
        {"indent": 1},
        {"ensure_ascii": False, "separators": (" , ", ":")},
    ]
)


def read(chunks: Iterable[bytes], *, segment_bytes: int = _json_pages.SEGMENT_BYTES) -> list[Any]:
    document = JsonDocument(segment_bytes=segment_bytes)
    messages: list[Any] = []
    for chunk in chunks:
        messages.extend(document.feed(chunk))
    messages.extend(document.finish())
    return messages


def cut(text: bytes, chunk_bytes: int) -> list[bytes]:
    return [text[at : at + chunk_bytes] for at in range(0, len(text), chunk_bytes)]


class TestAnyDocument:
    @given(st.lists(values, max_size=20), layouts, st.integers(1, 60), st.integers(1, 60))
    @example(["},{", '","', "]", "["], {}, 1, 1)
    @example([{"a": [{"a": 1}, {"a": 2}]}] * 9, {"separators": (",", ":")}, 7, 40)
    def test_gives_the_messages_of_the_whole(
        self, messages: list[Any], layout: dict[str, Any], chunk_bytes: int, segment_bytes: int
    ) -> None:
        text = json.dumps(messages, **layout).encode()
        assert read(cut(text, chunk_bytes), segment_bytes=segment_bytes) == json.loads(text)

    @given(values.filter(lambda value: not isinstance(value, list)), st.integers(1, 9), st.integers(1, 9))
    def test_that_is_no_array_is_one_message(self, value: Any, chunk_bytes: int, segment_bytes: int) -> None:
        text = b"\n " + json.dumps(value).encode() + b" "
        assert read(cut(text, chunk_bytes), segment_bytes=segment_bytes) == [json.loads(text)]

    @given(st.lists(values, min_size=1, max_size=6), st.data())
    def test_that_is_cut_off_or_damaged_is_an_error_or_still_the_same(
        self, messages: list[Any], data: st.DataObject
    ) -> None:
        text = bytearray(json.dumps(messages).encode())
        at = data.draw(st.integers(0, len(text) - 1))
        if data.draw(st.booleans()):
            del text[at:]
        else:
            text[at] = data.draw(st.sampled_from(b'[]{},:"x'))
        try:
            expected = json.loads(text, parse_constant=float)
        except ValueError:
            expected = None
        for segment_bytes in (1, 30, 1000):
            try:
                found = read(cut(bytes(text), 5), segment_bytes=segment_bytes)
            except ParseError:
                found = None
            if expected is None:
                assert found in (None, []), "blank is no document, and no error"
                assert found is None or not text.strip()
            else:
                assert found == (expected if isinstance(expected, list) else [expected])

    @pytest.mark.parametrize(
        "text", [b"[,1]", b"[1,]", b"[1,,2]", b"[1 2]", b"[1],[2]", b"[1,[2]", b'["a,', b"]", b"[NaN]"]
    )
    @pytest.mark.parametrize("segment_bytes", [1, 3, 1000])
    def test_that_json_does_not_allow_is_an_error(self, text: bytes, segment_bytes: int) -> None:
        with pytest.raises(ParseError, match="not JSON"):
            read(cut(text, 1), segment_bytes=segment_bytes)

    @pytest.mark.parametrize("text", [b"", b" \n", b"[]", b" [ ] "])
    def test_without_messages_has_none(self, text: bytes) -> None:
        assert read([text]) == read(cut(text, 1), segment_bytes=1) == []

    def test_an_error_says_where(self) -> None:
        with pytest.raises(ParseError, match="behind 3 messages"):
            read(cut(b"[1,2,3,nonsense]", 1), segment_bytes=1)

    @pytest.mark.parametrize("segment_bytes", [1, 10_000])
    def test_half_of_a_surrogate_pair_does_not_make_a_stream_unreadable(self, segment_bytes: int) -> None:
        text = rb'[{"a":"\ud800"},{"a":"b"},{"a":"c"}]'
        assert read(cut(text, 4), segment_bytes=segment_bytes) == [{"a": "\ud800"}, {"a": "b"}, {"a": "c"}]

    @pytest.mark.parametrize("segment_bytes", [1, 1000])
    def test_that_lacks_its_end_is_told_from_one_that_is_wrong(self, segment_bytes: int) -> None:
        whole = '[1,"é",{"a":[tru'.replace("tru", 'true,-1.5e3,"\\\\"]},null]').encode()
        assert json.loads(whole)
        for end in range(1, len(whole)):
            document = JsonDocument(segment_bytes=segment_bytes)
            document.feed(whole[:end])
            with pytest.raises(CutShortError):
                document.finish()

    @pytest.mark.parametrize("text", [b"[1,]", b"[1}", b"[1 2]", b"<html>", b"[1]]", b'["\xff"]', b"[NaN]"])
    def test_that_is_wrong_is_not_taken_for_one_that_lacks_its_end(self, text: bytes) -> None:
        document = JsonDocument()
        document.feed(text)
        with pytest.raises(ParseError) as raised:
            document.finish()
        assert not isinstance(raised.value, CutShortError)

    def test_too_much_nesting_is_an_error_and_not_a_crash(self) -> None:
        deep = b"[" * 200_000 + b"]" * 200_000
        with pytest.raises(ParseError):
            read(cut(deep, 65536))


MESSAGE = {"id": 1, "text": "x" * 60}

SHAPES: Final[dict[str, Callable[[int], Any]]] = {
    "small messages": lambda count: [MESSAGE] * count,
    "messages with parts like themselves": lambda count: [{"id": 1, "parts": [MESSAGE] * 3}] * (count // 3),
    "strings full of separators": lambda count: ['"},{","],[', "{[,"] * (count * 3),
    "numbers": lambda count: list(range(count * 10)),
    "one gigantic message": lambda count: [{"all": [MESSAGE] * count}],
    "one gigantic string": lambda count: ['\\"},{"' * (count * 10)],
    "a small message before a gigantic one": lambda count: [1, [MESSAGE] * count],
    "an object that is no array": lambda count: {"all": [MESSAGE] * count},
}


class TestTheWork:
    """Counted, not timed: see `harness.work`."""

    @pytest.mark.parametrize("shape", SHAPES)
    def test_is_linear(self, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def per_byte(count: int) -> float:
            text = json.dumps(SHAPES[shape](count), separators=(",", ":")).encode()
            work = Work()
            monkeypatch.setattr(_json_pages, "bytearray", work.bytearray, raising=False)
            monkeypatch.setattr(_json_pages, "orjson", work.functions(orjson, "loads"))
            for name in ("_BLANK", "_FIRST_KEY", "_STRING_END", "_NEXT_TOP", "_NEXT_DEEP"):
                monkeypatch.setattr(_json_pages, name, work.pattern(getattr(_json_pages, name)))
            read(cut(text, 512), segment_bytes=2048)
            monkeypatch.undo()
            return work.done / len(text)

        some, more = per_byte(300), per_byte(3000)
        assert more < some * 1.5, "10 times as much"
        assert more < 20, "passes over the document"


class TestTheMemory:
    def test_of_small_messages_is_that_of_a_segment(self) -> None:
        message = json.dumps(MESSAGE).encode()
        document = JsonDocument()
        count = 0
        tracemalloc.start()
        try:
            count += len(document.feed(b"[" + message))
            for _ in range(100):
                count += len(document.feed((b"," + message) * 800))
            count += len(document.feed(b"]")) + len(document.finish())
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert count == 80_001
        assert peak_bytes < 5_000_000, "of 7 MB of JSON, which are 25 MB of objects"
