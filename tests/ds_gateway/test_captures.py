"""Files of captures: what is written is read again, and what is wrong in one is told with its line."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from ds_gateway.captures import MAX_LINE_BYTES, CaptureReader, CaptureWriter, Chunk, Header
from ds_gateway.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path

STARTED = "2026-03-01T10:00:00.250000Z"
STARTED_NS = 1_772_359_200_250_000_000
SERIAL = '{"capture": 1, "source": "scale", "kind": "serial", "started": "2026-03-01T10:00:00Z"}\n'
MQTT = '{"capture": 1, "source": "hall", "kind": "mqtt", "started": "2026-03-01T10:00:00Z"}\n'


def write(path: Path, *chunks: Chunk, replace: bool = False) -> None:
    kind, at = ("mqtt", "mqtt://h") if any(each.topic for each in chunks) else ("serial", "/dev/ttyUSB0")
    assert kind in {"mqtt", "serial"}
    with CaptureWriter(path, source="s", kind=kind, at=at, started=STARTED, replace=replace) as writer:  # type: ignore[arg-type]
        for chunk in chunks:
            writer.add(chunk)


def read(path: Path) -> tuple[Header, list[Chunk], bool]:
    with CaptureReader(path) as reader:
        chunks = list(reader)
        return reader.header, chunks, reader.is_cut


def refused(path: Path) -> str:
    with pytest.raises(CaptureError) as caught:
        read(path)
    return str(caught.value).replace(f"{path}", "FILE")


class TestWhatIsWritten:
    def test_a_port_is_read_again(self, tmp_path: Path) -> None:
        chunks = [
            Chunk(0.0, bytes(range(256))),
            Chunk(0.5, b"S\r\n", is_sent=True),
            Chunk(0.75, b"", lost_bytes=17),
        ]
        write(tmp_path / "c", *chunks)
        assert read(tmp_path / "c") == (Header("s", "serial", STARTED_NS, "/dev/ttyUSB0"), chunks, False)

    def test_a_broker_is_read_again(self, tmp_path: Path) -> None:
        chunks = [Chunk(0.25, b"", "a/\u00e4", retain=True), Chunk(0.25, b"{}", "b")]
        write(tmp_path / "c", *chunks)
        assert read(tmp_path / "c") == (Header("s", "mqtt", STARTED_NS, "mqtt://h"), chunks, False)

    def test_is_for_this_user_alone_even_if_the_file_was_not(self, tmp_path: Path) -> None:
        (tmp_path / "old").write_text("x" * 10_000)
        (tmp_path / "old").chmod(0o644)
        write(tmp_path / "old", replace=True)
        write(tmp_path / "new")
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("old", "new")}
        assert modes == {0o600}
        assert read(tmp_path / "old")[1] == []

    def test_never_replaces_a_file_unasked(self, tmp_path: Path) -> None:
        (tmp_path / "c").write_text("mine")
        with pytest.raises(CaptureError, match=r"c is there already: name another file, or add --force"):
            write(tmp_path / "c")
        assert (tmp_path / "c").read_text() == "mine"

    def test_a_folder_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(CaptureError, match="cannot be written: No such file or directory"):
            write(tmp_path / "no" / "c")

    def test_a_full_disk_is_told(self) -> None:
        from pathlib import Path as RealPath  # noqa: PLC0415

        with pytest.raises(CaptureError, match="/dev/full cannot be written"):
            write(RealPath("/dev/full"), replace=True)


class TestWhatIsRead:
    def test_at_each_place_where_the_writer_can_be_killed_what_is_whole_counts(self, tmp_path: Path) -> None:
        write(tmp_path / "c", Chunk(0.0, b"one"), Chunk(0.5, b"two"))
        whole = (tmp_path / "c").read_bytes()
        head = whole.index(b"\n") + 1
        for end in range(head, len(whole) + 1):
            (tmp_path / "c").write_bytes(whole[:end])
            _, chunks, is_cut = read(tmp_path / "c")
            assert [each.raw for each in chunks] == [b"one", b"two"][: whole[head:end].count(b"\n")]
            assert is_cut == (not whole[:end].endswith(b"\n"))

    def test_bytes_without_a_header_are_one_chunk(self, tmp_path: Path) -> None:
        for raw in (b"12.3 kg\r\n", b"", b'{"t": 1}\n{"t": 2}\n', bytes(range(256))):
            (tmp_path / "c").write_bytes(raw)
            assert read(tmp_path / "c") == (Header("", "serial", None), [Chunk(0.0, raw)], False)

    def test_members_that_are_not_known_are_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "c").write_text(
            '{"note": "x", "capture": 1, "source": "s", "kind": "serial"}\n\n{"after": 1, "raw": "AA==", "x": 1}\n'
        )
        assert read(tmp_path / "c") == (Header("s", "serial", None), [Chunk(1.0, b"\0")], False)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ('{"capture": 2}\n', "FILE:1: is a capture of format 2, and this version reads 1: update it"),
            ('{"capture": 1, "sou', "FILE:1: is cut off: nothing was captured; capture again"),
            ('{"capture": 1, "source": "s", "kind": "usb"}\n', 'FILE:1: must be {"capture": 1, "source": NAME'),
            (SERIAL.replace("2026-03-01T10:00:00Z", "today"), "FILE:1: started must be a time with its zone"),
            (SERIAL.replace("T10:00:00Z", "T10:00:00"), "FILE:1: started must be a time with its zone"),
            (SERIAL + "x\n", "FILE:2: is no JSON object: remove this line, or capture again"),
            (SERIAL + '{"raw": ""}\n', "FILE:2: after must be seconds since the beginning, as 0.25"),
            (SERIAL + '{"after": -1, "raw": ""}\n', "FILE:2: after must be seconds"),
            (SERIAL + '{"after": true, "raw": ""}\n', "FILE:2: after must be seconds"),
            (SERIAL + '{"after": 1}\n', "FILE:2: has no raw or sent (raw is base64), nor lost: remove this line"),
            (SERIAL + '{"after": 1, "raw": "#"}\n', "FILE:2: raw is no base64: remove this line"),
            (SERIAL + '{"after": 1, "raw": "\u00e4"}\n', "FILE:2: raw is no base64"),
            (SERIAL + '{"after": 1, "lost": true}\n', "FILE:2: has no raw or sent"),
            (SERIAL + '{"after": 1, "raw": ""}\n{"after": 0, "raw": ""}\n', "FILE:3: after goes back"),
            (MQTT + '{"after": 1, "raw": ""}\n', "FILE:2: has no topic and raw"),
            (MQTT + '{"after": 1, "sent": ""}\n', "FILE:2: has no topic and raw"),
        ],
    )
    def test_what_is_wrong_is_told_with_its_line(self, tmp_path: Path, text: str, told: str) -> None:
        (tmp_path / "c").write_text(text)
        assert refused(tmp_path / "c").startswith(told)

    def test_a_line_without_an_end_is_not_read_into_memory(self, tmp_path: Path) -> None:
        (tmp_path / "c").write_text(SERIAL + "x" * (MAX_LINE_BYTES + 10))
        assert refused(tmp_path / "c") == f"FILE:2: has more than {MAX_LINE_BYTES} bytes: remove this line"

    def test_a_large_file_that_is_no_capture_is_refused(self, tmp_path: Path) -> None:
        with (tmp_path / "c").open("wb") as file:
            file.truncate(2**40)
        assert "is no capture, and as plain bytes it has more than" in refused(tmp_path / "c")

    def test_a_file_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        assert refused(tmp_path / "c") == "FILE cannot be read: No such file or directory"
        assert refused(tmp_path) == "FILE cannot be read: Is a directory"
