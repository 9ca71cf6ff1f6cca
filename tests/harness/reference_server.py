"""The protocol's reference server (npm), as a process of its own.

In memory it is a good oracle of the protocol. File-backed it is not atomic (data is on disk before producer
state): it serves to test the read-back, never to count duplicates.
"""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

from harness.peers import require_peer, require_tool
from harness.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from harness.processes import ChildProcess, Processes

# The conformance suite asks for at most 500 ms; shorter keeps the tests that wait for it quick.
_LONG_POLL_TIMEOUT_MILLISECONDS = 300


class ReferenceServer:
    """A reference server that can be killed and started again at the same address."""

    def __init__(self, processes: Processes, *, data: Path | None = None) -> None:
        self._processes = processes
        # Not one of the server's own choice: between a kill and a start anybody's connection could take that.
        self._port = free_port()
        self._data = data
        self._child: ChildProcess | None = None
        self.url = ""

    def start(self) -> None:
        """Start it and return once it accepts connections; always on the same port."""
        folder = require_peer("reference-server")
        argv: list[str | Path] = [
            require_tool("node"),
            folder / "serve.mjs",
            f"--port={self._port}",
            f"--long-poll-timeout-ms={_LONG_POLL_TIMEOUT_MILLISECONDS}",
        ]
        if self._data is not None:
            argv.append(f"--data={self._data}")
        self._child = self._processes.start(argv, name="reference-server")
        announced = self._child.wait_for_output(r'^\{"url".*\}$')
        self.url = json.loads(announced[0])["url"]

    def stream_url(self, name: str) -> str:
        """The URL of a stream; any path is one."""
        return f"{self.url}/v1/stream/{name}"

    @property
    def base_url(self) -> str:
        """What goes into ``server.url`` of a configuration."""
        return f"{self.url}/v1/stream"

    def kill(self) -> None:
        """SIGKILL: in memory everything is gone; file-backed, whatever the disk has."""
        if self._child is not None:
            self._child.kill()

    def inject_fault(self, name: str, **fault: object) -> None:
        """Make requests to a stream fail: status, count, retryAfter, delayMs, dropConnection, method ..."""
        self._test_control("POST", {"path": f"/v1/stream/{name}", **fault})

    def clear_faults(self) -> None:
        """Forget every injected fault."""
        self._test_control("DELETE", {})

    def _test_control(self, method: str, body: dict[str, object]) -> None:
        request = urllib.request.Request(
            f"{self.url}/_test/inject-error",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
