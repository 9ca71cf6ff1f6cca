"""Commits to a journal, and says on standard output what it was told: run under strace by a test.

acknowledged       a source was told that its record is committed: it may acknowledge it to its broker
handed out         a batch was handed out: it may be sent
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ds_gateway.journal import Journal, JournalLimits
from ds_gateway.records import Item, Record
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import Sequence

ACKNOWLEDGED = b"acknowledged\n"
HANDED_OUT = b"handed out\n"


async def main(directory: Path, rounds: int) -> None:
    """Accept, seal and resolve, one record after the other."""
    told: list[int] = []

    def on_committed(_items: Sequence[Item], commit: int) -> None:
        os.write(1, ACKNOWLEDGED)
        told.append(commit)

    limits = JournalLimits(min_free_bytes=0, max_delay_seconds=0)
    journal = Journal.open(directory, gateway="g", url="http://streams.test/v1", limits=limits)
    intake = journal.intake("source", max_items=100, on_committed=on_committed)
    journal.start()
    for number in range(1, rounds + 1):
        intake.offer([Item(Record("telemetry/g", "d", b'"data":{"n":%d}}' % number))])
        await await_until(lambda number=number: len(told) == number, what="the record is committed")  # type: ignore[misc]
        store = journal.store(1, birth={})
        batch = await store.next_batch(100_000)
        os.write(1, HANDED_OUT)
        await store.resolve(batch, f"{number:016d}")
    journal.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
