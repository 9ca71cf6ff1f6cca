"""A gateway that kills itself (SIGKILL) at one point: ``python -m faults.crashing_gateway --config F --point P``.

| point               | is reached                                                                              |
|---------------------|-----------------------------------------------------------------------------------------|
| ``before A+B``      | when a transaction with exactly these parts is decided, and nothing of it is written    |
| ``after A+B``       | when it is on the disk, and nobody has been told                                        |
| ``before birth``    | when the claim of an epoch is about to leave                                            |
| ``after birth``     | when the server's answer to it is here, and nobody has looked at it                     |
| ``before POST``     | when a batch is about to leave                                                          |
| ``after POST``      | when the server's answer to it is here, and nobody has looked at it                     |

Every point that is passed is printed. ``before A...`` is any point that begins so.
``--hold FILE`` lets no batch leave as long as the file exists.

The gateway that crashes is a child of this process. When it is dead, this says so, waits for SIGUSR1, and is an
ordinary gateway from then on, over what the crash has left.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from ds_gateway import gateway, logs
from ds_gateway.cli.configuration import load_configuration
from ds_gateway.mqtt._connection import Connection
from ds_gateway.notify import Notifier
from ds_gateway.uplink import http_client
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import httpx

    from ds_gateway.config.loader import Loaded

    Acknowledge = Callable[[Connection, Sequence[int]], None]

_MOMENT_SECONDS: Final = 0.4
_PROBE: Final = 2**53 - 1
ENDED: Final = "the gateway ended with"


class Crash:
    """Kills the process at its point."""

    def __init__(self, point: str, hold: Path | None) -> None:
        self._point = point
        self._hold = hold
        self._premature = threading.Event()
        """Something left the process that must come after a commit: a PUBACK or an answered batch."""

    def reach(self, point: str) -> None:
        """Pass a point, or end here."""
        # In one piece: two threads pass points.
        os.write(1, f"{point}\n".encode())
        if point == self._point or (
            self._point.endswith("...") and point.startswith(self._point.removesuffix("..."))
        ):
            os.kill(os.getpid(), signal.SIGKILL)

    def at_commit(self, when: str, parts: frozenset[str]) -> None:
        """Before and after each commit."""
        point = f"{when} {'+'.join(sorted(parts))}"
        if point == self._point and when == "before":
            # A build that acknowledges or sends before its commit gets the moment that it needs to do so.
            self._premature.clear()
            self._premature.wait(_MOMENT_SECONDS)
        self.reach(point)

    async def at_request(self, request: httpx.Request) -> None:
        """Before a request leaves."""
        kind = _kind(request)
        if kind == "POST" and self._hold is not None:
            await await_until(lambda: not Path.exists(self._hold or Path()), what="batches may leave")
        if kind:
            self.reach(f"before {kind}")

    async def at_response(self, response: httpx.Response) -> None:
        """When an answer is here."""
        kind = _kind(response.request)
        if kind == "POST":
            self._premature.set()
        if kind:
            self.reach(f"after {kind}")

    def client(self, *arguments: Any) -> httpx.AsyncClient:
        """The gateway's client, watched."""
        client = http_client(*arguments)
        client.event_hooks = {"request": [self.at_request], "response": [self.at_response]}
        return client

    def watched(self, acknowledge: Acknowledge) -> Acknowledge:
        """A connection's PUBACKs, watched."""

        def acknowledge_and_tell(connection: Connection, mids: Sequence[int]) -> None:
            acknowledge(connection, mids)
            connection.write()
            self._premature.set()

        return acknowledge_and_tell


def _kind(request: httpx.Request) -> str:
    seq = int(request.headers.get("producer-seq", _PROBE))
    return "" if seq == _PROBE else "POST" if seq else "birth"


def main() -> int:
    """Run the gateway."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--point", required=True)
    parser.add_argument("--hold", type=Path)
    arguments = parser.parse_args()
    loaded = load_configuration(arguments.config)
    logs.setup(loaded.settings.log.level, loaded.settings.log.format)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    child = os.fork()
    if child == 0:
        return run_until_crash(loaded, Crash(arguments.point, arguments.hold))
    _, status = os.waitpid(child, 0)
    print(f"{ENDED} {os.waitstatus_to_exitcode(status)}", flush=True)
    signal.sigwait({signal.SIGUSR1})
    return asyncio.run(run(loaded))


def run_until_crash(loaded: Loaded, crash: Crash) -> int:
    """Run a gateway that is watched."""
    with ExitStack() as patches:
        patches.enter_context(patch.object(gateway, "http_client", crash.client))
        patches.enter_context(patch.object(Connection, "acknowledge", crash.watched(Connection.acknowledge)))
        return asyncio.run(run(loaded, on_point=crash.at_commit))


async def run(loaded: Loaded, **more: Any) -> int:
    """Run a gateway to its end."""
    return await gateway.Gateway(loaded, Notifier(None), **more).run()


if __name__ == "__main__":
    raise SystemExit(main())
