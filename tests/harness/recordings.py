"""Recorded captures: what came from a port or a broker, and when. The files are ``config/captures/*.jsonl``."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Piece:
    """A chunk that a port gave, or a message; ``after`` are seconds since the capture began."""

    after: float
    raw: bytes
    topic: str = ""


@dataclass(frozen=True)
class Recording:
    """A capture of one source."""

    source: str
    kind: Literal["serial", "mqtt"]
    where: str
    """The port or the broker."""
    pieces: tuple[Piece, ...]

    @property
    def size_bytes(self) -> int:
        """Of all pieces."""
        return sum(len(piece.raw) for piece in self.pieces)


def read_recording(file: Path) -> Recording:
    """Read a capture; one that is no capture is an error."""
    head, *lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert head["capture"] == 1, f"{file}: the first line is no header of a capture"
    pieces = tuple(
        Piece(line["after"], base64.b64decode(line["raw"], validate=True), line.get("topic", "")) for line in lines
    )
    kind = head["kind"]
    return Recording(head["source"], kind, head["port" if kind == "serial" else "broker"], pieces)
