"""Taking up a changed configuration: the one way for every command, and for the signal, that asks for it.

prepare   the file is loaded and checked anew; when anything is wrong it is told, and nothing happens
          (asked for by the signal, the service manager hears of the beginning, and of the end when it is refused)
begin     the gateway stops as for SIGTERM
          the file is checked again; if it is wrong by now, the gateway starts with the configuration that it had
          else the process executes itself anew: same pid, same arguments

A fresh process instead of parts that are exchanged while they run: a start after a stop is what is tested with
every crash, and what is open (records, commands) is taken up by it already.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from ds_gateway.errors import ConfigError, Problem
from ds_gateway.logs import event, logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ds_gateway.config.loader import Loaded
    from ds_gateway.notify import Notifier

_log = logger("gateway")


class Reloading:
    """Used on the event loop. ``load`` loads and checks the file as at a start; ``stop`` ends the gateway."""

    def __init__(
        self, running: Loaded, load: Callable[[], Loaded], stop: Callable[[], None], notifier: Notifier
    ) -> None:
        self.has_begun = False
        self._notifier = notifier
        self._running = running
        self._load = load
        self._stop = stop
        self._one_at_a_time = asyncio.Lock()
        self._asked: set[asyncio.Task[None]] = set()
        """What the signals asked for: the loop itself keeps no task alive."""

    async def prepare(self, _arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Check the file; return what it is. Raises `ConfigError` if the gateway cannot take it up."""
        try:
            loaded = await asyncio.to_thread(self._load)
            refuse_another_gateway(self._running, loaded)
        except ConfigError as error:
            _tell_refused(error)
            raise
        return {
            "config": str(loaded.path),
            "config_digest": loaded.digest,
            "changed": loaded.digest != self._running.digest,
        }

    def begin(self) -> None:
        """Stop, to start anew. Asked twice it is done once."""
        self.has_begun = True
        self._stop()

    async def answer(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Both; the control socket's verb ``reload``. It answers before anything stops."""
        result = await self.prepare(arguments)
        self.begin()
        return result

    def hang_up(self) -> None:
        """SIGHUP came: as `answer`, and what is wrong is in the log."""
        if not self.has_begun:
            # At once: a service manager that sent the signal itself waits for this, and for a time after its own.
            self._notifier.reloading("checking the changed configuration")
        task = asyncio.get_running_loop().create_task(self._take_up(), name="reload")
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _take_up(self) -> None:
        async with self._one_at_a_time:  # the last one looks at the newest file
            if self.has_begun:
                return
            try:
                await self.answer({})
            except ConfigError as error:
                self._notifier.ready(
                    f"the changed configuration is refused, the former one runs: {error.problems[0]}"
                )


def has_terminal() -> bool:
    """Whether this process belongs to a terminal, whose end is told with SIGHUP, too."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def can_be_taken_up(running: Loaded, load: Callable[[], Loaded]) -> bool:
    """Whether the file is right still, now that the gateway has stopped to take it up. Logs why not."""
    try:
        refuse_another_gateway(running, load())
    except ConfigError as error:
        _tell_refused(error)
        return False
    return True


def _tell_refused(error: ConfigError) -> None:
    event(_log, "error", "gateway.reload.refused", problems=len(error.problems), first=error.problems[0])


def refuse_another_gateway(running: Loaded, loaded: Loaded) -> None:
    """Refuse what makes another gateway of this one: what it has on its disk would stay behind.

    Raises `ConfigError`.
    """
    was, now = running.settings, loaded.settings
    problems = [
        Problem(
            str(loaded.path),
            None,
            key,
            f"is {new!r}, and the running gateway has {old!r}; a reload does not change it: put it back, or "
            "restart the service on the machine",
        )
        for key, old, new in (
            ("gateway.id", was.gateway.id, now.gateway.id),
            ("data_dir", was.data_dir, now.data_dir),
        )
        if new != old
    ]
    if problems:
        raise ConfigError(problems)
