"""Retained messages come again, with a new packet id, whenever a subscription is made anew.

Kept is a digest of the retained value that was delivered last, for each topic, and only until the first live
message of the topic: after A, B, A the second A is news although the first was the last *retained* one.
Topics beyond the bound are not remembered: their retained value is taken again, never lost.
"""

from __future__ import annotations

import struct
from typing import Final

_ENTRY: Final = struct.Struct(">8s8s")
MAX_TOPICS: Final = 4096


class Retained:
    """Digest of topic -> digest of the retained message delivered last."""

    def __init__(self) -> None:
        self._digests: dict[bytes, bytes] = {}
        self.changed = False

    def repeated(self, topic: bytes, digest: bytes) -> bool:
        """Whether this retained message is the one delivered last; remember it."""
        known = self._digests.get(topic)
        if known == digest:
            return True
        if known is not None or len(self._digests) < MAX_TOPICS:
            self._digests[topic] = digest
            self.changed = True
        return False

    def live(self, topic: bytes) -> None:
        """Forget the topic's retained message, because a live one followed it."""
        if self._digests.pop(topic, None) is not None:
            self.changed = True

    def to_bytes(self) -> bytes:
        """Everything, to be kept."""
        return b"".join(map(_ENTRY.pack, self._digests.keys(), self._digests.values()))

    @classmethod
    def from_bytes(cls, data: bytes) -> Retained:
        """Restore what `to_bytes` returned."""
        retained = cls()
        retained._digests.update(_ENTRY.iter_unpack(data))
        return retained
