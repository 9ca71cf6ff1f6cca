from __future__ import annotations

import contextlib
import os
import select
import tty
from typing import TYPE_CHECKING

import pytest

from ds_gateway.demo.scale import Scale, reading
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Reader:
    """Somebody who opened the port."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self._descriptor)
        self.data = b""

    def write(self, data: bytes) -> None:
        os.write(self._descriptor, data)

    def has(self, lines: int) -> bool:
        with contextlib.suppress(BlockingIOError):
            self.data += os.read(self._descriptor, 4096)
        return self.data.count(b"\r\n") >= lines

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def scale(tmp_path: Path) -> Iterator[Scale]:
    with Scale(tmp_path / "scale", interval_seconds=0.005) as scale:
        yield scale


def hold(scale: Scale) -> None:
    scale.hold()
    wait_until(lambda: scale.holds, what="the scale holds its line")


class TestScale:
    def test_brings_the_line_to_a_boundary_and_numbers_its_readings(self, scale: Scale) -> None:
        reader = Reader(scale.path)
        scale.release()
        wait_until(lambda: reader.has(3), what="two readings have come")
        lines = reader.data.split(b"\r\n")
        assert lines[0] == b""
        assert lines[1].startswith(b"S S ")
        assert [line.split(b" kg ")[1] for line in lines[1:3]] == [b"#1", b"#2"]
        reader.close()

    def test_sends_nothing_while_nobody_has_the_port_open(self, scale: Scale) -> None:
        hold(scale)
        assert not scale._send_next()
        reader = Reader(scale.path)
        assert scale._send_next()
        wait_until(lambda: reader.has(2), what="the reading has come")
        reader.close()

    def test_goes_on_where_it_stopped_for_the_next_who_opens_the_port(self, scale: Scale) -> None:
        first = Reader(scale.path)
        scale.release()
        wait_until(lambda: first.has(3), what="two readings have come")
        hold(scale)
        sent = scale.sent
        wait_until(lambda: first.has(sent + 1), what="all that was sent has come")
        first.close()
        second = Reader(scale.path)
        scale.release()
        wait_until(lambda: second.has(2), what="the next reading has come")
        assert second.data.startswith(b"\r\nS S ")
        assert second.data.split(b"\r\n")[1].endswith(b"#%d" % (sent + 1))
        second.close()

    def test_says_what_it_has_sent_when_it_holds(self, scale: Scale) -> None:
        reader = Reader(scale.path)
        scale.release()
        wait_until(lambda: reader.has(10), what="some readings have come")
        hold(scale)
        wait_until(lambda: reader.has(scale.sent + 1), what="all that was sent has come")
        assert reader.data.count(b"#") == scale.sent
        reader.close()

    def test_is_tared_and_shows_what_came_upon_it_since(self, scale: Scale) -> None:
        reader = Reader(scale.path)
        scale.release()
        wait_until(lambda: reader.has(10), what="some readings have come")
        reader.write(b"T\r\n")
        wait_until(lambda: scale.tares == 1, what="the scale is tared")
        sent = scale.sent
        wait_until(lambda: scale.sent >= sent + 3, what="it goes on")
        hold(scale)
        wait_until(lambda: reader.has(scale.sent + 2), what="all that was sent has come")
        before, answer, after = reader.data.partition(b"T OK ")
        number = before.count(b"#")
        answer, _, after = after.partition(b" kg\r\n")
        assert float(answer) == reading(number)
        shown = [float(line.split()[2]) for line in after.split(b"\r\n")[:-1]]
        assert shown == [
            pytest.approx(reading(later) - reading(number)) for later in range(number + 1, number + 1 + len(shown))
        ]
        assert len(shown) >= 3
        reader.close()

    def test_is_tared_while_it_holds_its_line_and_each_time_it_is_told(self, scale: Scale) -> None:
        reader = Reader(scale.path)
        hold(scale)
        for piece in (b"T\r\nTARE\r\n\r\nT", b"\r\n"):
            reader.write(piece)
        wait_until(lambda: reader.has(2), what="both are answered")
        assert reader.data == b"T OK   12.500 kg\r\n" * 2
        assert (scale.tares, scale.sent, scale.holds) == (2, 0, True)
        reader.close()

    def test_ends_while_its_buffer_is_full(self, tmp_path: Path) -> None:
        with Scale(tmp_path / "stuck", interval_seconds=0.0) as scale:
            reader = Reader(scale.path)
            scale.release()
            poll = select.poll()
            poll.register(scale._master, select.POLLOUT)
            wait_until(lambda: not poll.poll(0), what="the terminal's buffer is full")
        reader.close()
        assert not (tmp_path / "stuck").exists()
