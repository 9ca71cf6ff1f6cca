"""The gateway as its own process, with a configuration file, as a service manager runs it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ds_gateway import control
from ds_gateway.errors import ControlError
from harness.processes import console_script
from harness.waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from harness.processes import ChildProcess, Processes

Status = dict[str, Any]

_SCRIPT: Final = console_script("ds-gateway")
_COMMAND: Final[Sequence[str | Path]] = (_SCRIPT, "run")


class GatewayProcess:
    """One gateway over one data folder: it can be started, stopped and killed as often as a test likes.

    ``settings`` is the configuration, without ``data_dir`` and ``log``; the clock is trusted unless it says
    otherwise, because machines that tests run on may have no time service. There is no status page, whose port is
    one for all, and no health stream, because tests count what is in all streams. ``program`` is what is run with
    ``--config FILE``, ``ds-gateway run`` unless a test has its own.
    """

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        program: Sequence[str | Path] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data_dir = folder / "data"
        self.config = folder / "gateway.yaml"
        self._processes = processes
        self._program = program or _COMMAND
        self._environ = dict(environ or {})
        self._child: ChildProcess | None = None
        self.configure(settings)

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Write the configuration file (JSON is YAML); it counts from the next start."""
        base = {
            "data_dir": str(self.data_dir),
            "log": {"level": "debug", "format": "json"},
            "status": {"listen": "off"},
            "health": {"enabled": False},
        }
        gateway = {"clock": "trusted", **settings.get("gateway", {})}
        self.config.write_text(json.dumps({**base, **settings, "gateway": gateway}, indent=1))

    def start(self, *more_arguments: str) -> None:
        """Start the process; returns at once."""
        argv = [*self._program, "--config", self.config, *more_arguments]
        self._child = self._processes.start(argv, name="gateway", env=self._environ)

    def run_command(
        self, name: str, *arguments: str | Path, timeout_seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run ``ds-gateway NAME`` with this gateway's configuration to its end; its status is not judged."""
        argv = [_SCRIPT, name, "--config", self.config, *arguments]
        return self._processes.run(argv, timeout_seconds=timeout_seconds)

    def kill(self) -> None:
        """SIGKILL, now."""
        self.child.kill()

    def terminate(self) -> int:
        """SIGTERM; the exit status once it has drained and ended."""
        status = self.child.terminate(timeout_seconds=40)
        self.child.kill()
        return status

    @property
    def child(self) -> ChildProcess:
        """The process of the last start."""
        assert self._child is not None, "the gateway was never started"
        return self._child

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the running process has logged under this name."""
        lines = [line for line in self.child.output.splitlines() if line.startswith("{")]
        return [found for line in lines if (found := json.loads(line)).get("event") == name]

    def status(self) -> Status | None:
        """What ``ds-gateway status --json`` would print; None while it does not answer."""
        try:
            return control.call(self.data_dir / "control.sock", "status")
        except ControlError:
            return None

    def wait_for(self, holds: Callable[[Status], object], *, what: str, timeout_seconds: float = 30.0) -> Status:
        """Wait until its status is such; fails at once when it has ended."""
        last: list[Status | None] = [None]

        def reached() -> bool:
            if not self.child.is_running:
                raise AssertionError(f"the gateway ended while a test waited until {what}\n{self._shown()}")
            last[0] = self.status()
            return last[0] is not None and bool(holds(last[0]))

        try:
            wait_until(reached, timeout_seconds=timeout_seconds, what=what)
        except AssertionError as error:
            error.add_note(f"{json.dumps(last[0], indent=1)}\n{self._shown()}")
            raise
        assert last[0] is not None
        return last[0]

    def wait_ready(self) -> Status:
        """Wait until it answers on its control socket and its sources run."""
        return self.wait_for(lambda status: status["sources"], what="the gateway is up")

    def wait_connected(self) -> Status:
        """Wait until every source has its broker or port."""
        return self.wait_for(
            lambda status: all(each["state"] in {"connected", "open"} for each in status["sources"]),
            what="every source is connected",
        )

    def wait_accepted(self, count: int) -> Status:
        """Wait until at least so many records are in the journal or beyond it."""
        return self.wait_for(
            lambda status: total(status, "accepted") >= count, what=f"{count} records are accepted"
        )

    def wait_delivered(self, accepted: int = 0) -> Status:
        """Wait until at least so many records were accepted, and all of them are in their streams."""
        return self.wait_for(
            lambda status: total(status, "accepted") >= accepted and total(status, "in_journal") == 0,
            what=f"{accepted} records are in their streams",
        )

    def wait_stream(self, name: str, state: str) -> dict[str, Any]:
        """Wait until a stream's uplink is in a state, and return what the status says of it."""
        status = self.wait_for(
            lambda status: stream_of(status, name).get("state") == state, what=f"stream {name} is {state}"
        )
        return stream_of(status, name)

    def _shown(self) -> str:
        return f"--- the end of its log:\n{self.child.output[-4000:]}"


def total(status: Status, key: str) -> int:
    """Sum over all streams."""
    return sum(stream[key] for stream in status["streams"])


def stream_of(status: Status, name: str) -> dict[str, Any]:
    """What a status says of one stream; empty before it exists."""
    return next((stream for stream in status["streams"] if stream["name"] == name), {})


def source_of(status: Status, name: str) -> dict[str, Any]:
    """What a status says of one source."""
    return next(source for source in status["sources"] if source["name"] == name)
