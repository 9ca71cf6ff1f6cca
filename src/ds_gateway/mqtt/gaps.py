"""Gaps in a counting broker's packet ids: messages that it numbered and never delivered. One loss a commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds_gateway.mqtt.numbering import IDS
from ds_gateway.records import Loss

if TYPE_CHECKING:
    from collections.abc import Sequence


class Gaps:
    """Collects the gaps of one transaction."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._gaps: list[tuple[int, int, int, int]] = []
        """For each: when it began and ended, the id behind it, how many ids were skipped."""
        self.last_ns = 0
        """When the last message came in; 0 before the first one of this process."""

    def see(self, time_ns: int, mid: int, skipped: int) -> None:
        """A message came in, and so many ids were skipped before it."""
        if skipped:
            self._gaps.append((self.last_ns or time_ns, time_ns, mid, skipped))
        self.last_ns = time_ns

    def take(self) -> Sequence[Loss]:
        """The loss, if there is any, since the last call."""
        gaps, self._gaps = self._gaps, []
        if not gaps:
            return ()
        shown = ", ".join(_ids(mid, skipped) for _, _, mid, skipped in gaps[:3])
        more = f" and {len(gaps) - 3} more gaps" if len(gaps) > 3 else ""
        return (
            Loss(
                "id_gap",
                certain=False,
                count=sum(skipped for *_, skipped in gaps),
                first_ns=gaps[0][0],
                last_ns=gaps[-1][1],
                source=self._source,
                detail=f"the broker skipped the packet ids {shown}{more}: it dropped messages, or they expired",
            ),
        )


def _ids(mid: int, skipped: int) -> str:
    first, last = (mid - skipped - 1) % IDS + 1, (mid - 2) % IDS + 1
    return str(first) if skipped == 1 else f"{first} to {last}"
