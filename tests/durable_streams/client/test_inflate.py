"""A gzip body, inflated in pieces of bounded size."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams._inflate import BrokenBodyError, DeflateInflater, GzipInflater, NoInflater


def inflate(chunks: list[bytes], *, piece_bytes: int = 64) -> bytes:
    inflater = GzipInflater(piece_bytes=piece_bytes)
    pieces = [piece for chunk in chunks for piece in inflater.feed(chunk)]
    inflater.finish()
    assert all(0 < len(piece) <= piece_bytes for piece in pieces)
    return b"".join(pieces)


class TestAnyBody:
    @given(
        st.lists(st.binary(max_size=300), min_size=1, max_size=3),
        st.integers(1, 50),
        st.integers(1, 99),
        st.integers(0, 3),
    )
    def test_inflates_to_what_it_was_in_any_division(
        self, members: list[bytes], chunk_bytes: int, piece_bytes: int, padding: int
    ) -> None:
        body = b"".join(gzip.compress(member) + bytes(padding) for member in members)
        chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
        assert inflate(chunks, piece_bytes=piece_bytes) == b"".join(members)

    @given(st.binary(min_size=1, max_size=200), st.data())
    def test_that_is_cut_off_is_a_broken_one(self, content: bytes, data: st.DataObject) -> None:
        body = gzip.compress(content)
        end = data.draw(st.integers(1, len(body) - 1))
        with pytest.raises(BrokenBodyError, match="too early"):
            inflate([body[:end]])

    def test_that_is_empty_is_empty(self) -> None:
        assert inflate([]) == b""


class TestBadBodies:
    @pytest.mark.parametrize(
        "body",
        [b"not gzip", gzip.compress(b"x" * 100)[:-8] + bytes(8), gzip.compress(b"x") + b"more"],
        # Names of their own: gzip's bytes, which hold the time, would name the tests anew in each process.
        ids=["not gzip", "wrong checksum", "more behind it"],
    )
    def test_are_broken_ones(self, body: bytes) -> None:
        with pytest.raises(BrokenBodyError):
            inflate([body])


class TestPieces:
    def test_are_small_however_much_a_chunk_inflates_to(self) -> None:
        body = gzip.compress(bytes(10_000_000))
        assert len(body) < 12_000
        inflater = GzipInflater(piece_bytes=1000)
        pieces = inflater.feed(body)
        assert [len(next(pieces)) for _ in range(3)] == [1000] * 3

    def test_come_as_soon_as_the_sender_flushed_them(self) -> None:
        deflater = zlib.compressobj(wbits=31)
        inflater = GzipInflater()
        for event in (b"data: a\n\n", b"data: b\n\n"):
            flushed = deflater.compress(event) + deflater.flush(zlib.Z_SYNC_FLUSH)
            assert b"".join(inflater.feed(flushed)) == event


def undeflate(chunks: list[bytes], *, piece_bytes: int = 64) -> bytes:
    inflater = DeflateInflater(piece_bytes=piece_bytes)
    pieces = [piece for chunk in chunks for piece in inflater.feed(chunk)]
    inflater.finish()
    assert all(0 < len(piece) <= piece_bytes for piece in pieces)
    return b"".join(pieces)


def deflate(content: bytes, wbits: int) -> bytes:
    deflater = zlib.compressobj(wbits=wbits)
    return deflater.compress(content) + deflater.flush()


class TestDeflate:
    @given(st.binary(max_size=300), st.sampled_from([15, 9, -15, -9]), st.integers(1, 50), st.integers(1, 99))
    def test_inflates_with_its_head_and_without_in_any_division(
        self, content: bytes, wbits: int, chunk_bytes: int, piece_bytes: int
    ) -> None:
        body = deflate(content, wbits)
        chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
        assert undeflate(chunks, piece_bytes=piece_bytes) == content

    @given(st.binary(min_size=1, max_size=200), st.sampled_from([15, -15]), st.data())
    def test_that_is_cut_off_is_a_broken_body(self, content: bytes, wbits: int, data: st.DataObject) -> None:
        body = deflate(content, wbits)
        end = data.draw(st.integers(1, len(body) - 1))
        with pytest.raises(BrokenBodyError, match="too early"):
            undeflate([body[:end]])

    def test_of_nothing_is_nothing(self) -> None:
        assert undeflate([]) == b""

    def test_that_is_none_is_a_broken_body(self) -> None:
        with pytest.raises(BrokenBodyError, match="not deflate"):
            undeflate([b"not deflate"])


class TestAnUnknownCoding:
    def test_is_a_broken_body_unless_there_is_none(self) -> None:
        inflater = NoInflater("foo")
        assert list(inflater.feed(b"")) == []
        inflater.finish()
        with pytest.raises(BrokenBodyError, match="foo"):
            inflater.feed(b"x")
