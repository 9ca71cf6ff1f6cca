"""How rows are protected, and that a journal of an older format goes on."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ds_gateway.errors import JournalDamagedError
from ds_gateway.journal import rows
from harness.journal_box import JournalBox, reading, readings

if TYPE_CHECKING:
    from pathlib import Path

STREAM = "telemetry/a"
SEGMENT = rows.make_segment(1, [b'{"id":"i.a.1"}'])


def in_format_2(key: str, row: bytes) -> bytes:
    """A row as it was written then."""
    payload = rows.unprotect(key, row)
    return struct.pack("<I", zlib.crc32(payload)) + payload


class TestAChecksum:
    def test_is_of_the_key_too(self) -> None:
        key, other = rows.segment_key(1, 2), rows.segment_key(1, 3)
        row = rows.encode_segment(key, SEGMENT)
        assert rows.decode_segment(key, row) == SEGMENT
        with pytest.raises(JournalDamagedError, match=f"{other} is damaged"):
            rows.decode_segment(other, row)

    def test_of_format_2_is_still_one(self) -> None:
        key = rows.segment_key(1, 2)
        row = in_format_2(key, rows.encode_segment(key, SEGMENT))
        assert rows.decode_segment(key, row) == SEGMENT
        with pytest.raises(JournalDamagedError, match="is damaged"):
            rows.decode_segment(key, row[:-1] + b"]")

    @pytest.mark.parametrize("row", [b"", b"\0\0\0", b"\0\0\0\1"])
    def test_that_is_not_there_is_none(self, row: bytes) -> None:
        with pytest.raises(JournalDamagedError, match="is damaged"):
            rows.unprotect("c/counters", row)


def test_a_journal_of_format_2_goes_on_and_is_refused_by_its_program_from_then_on(tmp_path: Path) -> None:
    box = JournalBox(tmp_path / "data")
    box.open()
    box.accept(reading(1, stream=STREAM), reading(2, stream=STREAM))
    box.close()
    with closing(sqlite3.connect(tmp_path / "data" / "journal" / "cache.db")) as connection, connection:
        for key, row in connection.execute("SELECT key, value FROM Cache").fetchall():
            old = in_format_2(key, row)
            if key == rows.META:
                fields = rows.decode_json(key, row) | {"format": 2}
                old = in_format_2(key, rows.encode_json(key, fields))
            connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (old, key))
    box.open()
    box.accept(reading(3, stream=STREAM))
    assert readings(box.drain(STREAM)) == [1, 2, 3]
    assert box.journal.snapshot().set_aside == ()
    box.close()
    with closing(sqlite3.connect(tmp_path / "data" / "journal" / "cache.db")) as connection:
        (row,) = connection.execute("SELECT value FROM Cache WHERE key = ?", (rows.META,)).fetchone()
    assert rows.decode_json(rows.META, row)["format"] == rows.PLAIN_FORMAT
