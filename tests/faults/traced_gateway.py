"""Gateways one after the other: one with a thread that waits for a tracer, one without, and so on for ever.

``python -m faults.traced_gateway --config F --threads A B ...`` begins the next one as soon as the last one is
dead: the first has its thread A traced, the third its thread B; behind the last name comes the first again. The
gateways are forks, so that what they import is imported once.

``begun 1 PID``   the first one runs
``traced 1 TID``  its thread waits, before its first instruction, until somebody traces it

``MainThread`` is the event loop's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import threading
from itertools import count, cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from ds_gateway import logs
from ds_gateway.cli.configuration import load_configuration
from ds_gateway.gateway import Gateway
from ds_gateway.notify import Notifier
from harness.waiting import wait_until

if TYPE_CHECKING:
    from ds_gateway.config.loader import Loaded

LOOP: Final = "MainThread"


def say(*words: object) -> None:
    """Print a line in one piece: others print, too."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def wait_for_tracer(number: int) -> None:
    """Return once the calling thread is traced."""
    thread = threading.get_native_id()
    status = Path(f"/proc/self/task/{thread}/status")
    say("traced", number, thread)
    wait_until(lambda: "TracerPid:\t0\n" not in status.read_text(), what="somebody traces this thread")


def run_traced(loaded: Loaded, number: int, name: str) -> int:
    """Run a gateway whose thread of this name waits."""
    original = threading.Thread.run

    def run_thread(thread: threading.Thread) -> None:
        if thread.name == name:
            wait_for_tracer(number)
        original(thread)

    if name == LOOP:
        wait_for_tracer(number)
    with patch.object(threading.Thread, "run", run_thread):
        return run_plain(loaded)


def run_plain(loaded: Loaded) -> int:
    """Run a gateway."""

    async def run() -> int:
        return await Gateway(loaded, Notifier(None)).run()

    return asyncio.run(run())


def main() -> None:
    """Run gateways."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--threads", nargs="+", required=True)
    arguments = parser.parse_args()
    loaded = load_configuration(arguments.config)
    logs.setup(loaded.settings.log.level, loaded.settings.log.format)
    names = cycle(arguments.threads)
    for number in count(1):
        name = next(names) if number % 2 else ""
        child = os.fork()
        if child == 0:
            raise SystemExit(run_traced(loaded, number, name) if name else run_plain(loaded))
        say("begun", number, child)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
