"""What a test left behind: threads, child processes and file descriptors of this process."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.waiting import wait_until

_GRACE_SECONDS = 5.0
# trio keeps an idle worker thread for ten seconds; one that works bears its job's name. asyncio keeps those of a
# loop until the loop ends, as that of a server which tests share.
_IDLE_WORKER = re.compile(r"Trio thread \d+|asyncio_\d+")


@dataclass(frozen=True)
class Belongings:
    """What exists at one instant."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    descriptors: frozenset[tuple[int, str]]

    @classmethod
    def now(cls) -> Self:
        """Take stock."""
        return cls(
            threads=frozenset(each for each in threading.enumerate() if not _IDLE_WORKER.fullmatch(each.name)),
            children=frozenset(_children()),
            descriptors=frozenset(_descriptors()),
        )

    def beyond(self, earlier: Belongings) -> list[str]:
        """What exists now and did not exist earlier, in words."""
        return [
            *(f"thread {thread.name!r}" for thread in self.threads - earlier.threads),
            *(f"child process {_command(pid)!r}" for pid in self.children - earlier.children),
            *(f"descriptor {number} -> {target}" for number, target in self.descriptors - earlier.descriptors),
        ]


def find_leaks(earlier: Belongings) -> list[str]:
    """What is still there after a grace period; leaked children are killed, so that later tests have peace."""
    if not Belongings.now().beyond(earlier):
        return []
    # Objects in reference cycles close their descriptors only when they are collected.
    gc.collect()
    with contextlib.suppress(AssertionError):
        wait_until(
            lambda: not Belongings.now().beyond(earlier),
            timeout_seconds=_GRACE_SECONDS,
            what="everything the test started has ended",
        )
    now = Belongings.now()
    leaks = now.beyond(earlier)
    for pid in now.children - earlier.children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return leaks


def _children() -> list[int]:
    pids: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        # A thread may end while it is looked at; a kernel may lack the list of children.
        with contextlib.suppress(OSError):
            pids += [int(pid) for pid in (task / "children").read_text().split()]
    return pids


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip() or f"{pid} (ended, not reaped)"
    except OSError:
        return str(pid)


def _descriptors() -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the listing's own descriptor is gone on return
        with contextlib.suppress(OSError):
            found.append((int(entry), str(Path(f"/proc/self/fd/{entry}").readlink())))
    return found
