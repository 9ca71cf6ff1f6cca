"""Hearing what a port reads: bounded, and what did not fit is told where it is missing."""

from __future__ import annotations

from ds_gateway.captures import Chunk
from ds_gateway.serial_port.tap import Tap


def test_what_nobody_takes_in_time_is_lost_and_told_in_its_place() -> None:
    tap = Tap(100.0, max_bytes=1000)
    for number in range(1000):
        tap.heard(b"x" * 10, 100.0 + number)
    kept = tap.take()
    assert kept == [Chunk(float(number), b"x" * 10) for number in range(3)]
    assert tap.take() == []
    tap.heard(b"y", 2000.0, is_sent=True)
    assert tap.take() == [Chunk(1900.0, b"", lost_bytes=9970), Chunk(1900.0, b"y", is_sent=True)]
