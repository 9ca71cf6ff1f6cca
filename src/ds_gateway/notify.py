"""Telling the service manager how it goes: the datagrams of sd_notify(3), without its library.

Without a service manager (no ``$NOTIFY_SOCKET``) every call does nothing. A notification that cannot be
delivered is lost on purpose: the service manager acts on the watchdog's silence, and nothing here may stop
the gateway's work. The environment is read once and handed in; nothing is removed from it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


class Notifier:
    """Sends states to one service manager. ``watchdog_seconds`` is None where it does not watch."""

    def __init__(self, address: str | None, *, watchdog_seconds: float | None = None) -> None:
        self._address = address
        self.watchdog_seconds = watchdog_seconds
        """The watchdog's limit, in seconds: `watchdog` is due at less than half of it."""
        self.why_not_ready = "starting"
        """What is under way instead of the work, as the service manager was told it; empty after `ready`."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``; what is malformed counts as absent."""
        address = environ.get("NOTIFY_SOCKET", "")
        # A path, or @ and a name without one; vsock and whatever comes later is not for a service on this machine.
        usable = len(address) > 1 and address[0] in "/@"
        return cls(address if usable else None, watchdog_seconds=_watchdog_seconds(environ))

    def ready(self, status: str | None = None) -> None:
        """Say that start-up is finished, in one datagram with what the gateway does now."""
        self.why_not_ready = ""
        self._send("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """Show a line in ``systemctl status``."""
        self._send(*_status(text))

    def watchdog(self) -> None:
        """Say that the gateway lives."""
        self._send("WATCHDOG=1")

    def reloading(self, status: str | None = None) -> None:
        """Say that the configuration is taken up anew; `ready` says that it was."""
        self.why_not_ready = "reloading"
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}", *_status(status))

    def stopping(self, status: str | None = None) -> None:
        """Say that the shut-down has begun."""
        self.why_not_ready = "stopping"
        self._send("STOPPING=1", *_status(status))

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        # A leading @ stands for the zero byte of an abstract address.
        name = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        # One short-lived socket for each notification: a socket kept would not survive a manager that
        # re-creates its own, and a few a minute cost nothing. Never wait: a full queue loses this one.
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
            contextlib.suppress(OSError),
        ):
            sender.setblocking(False)
            sender.sendto("\n".join(assignments).encode(errors="replace"), name)


@dataclass(frozen=True, slots=True)
class Feeding:
    """Whether the watchdog is fed while everything is on its way to its end. Times are monotonic seconds."""

    ends_at: float
    """Not longer than this, whatever gets on."""
    stalled_seconds: float
    """What was not alive for so long does not get on."""

    def is_due(self, alive_at: float, now: float) -> bool:
        """Whether that which must end at last was alive of late, and the time is not over."""
        return now < self.ends_at and now - alive_at < self.stalled_seconds


def _status(text: str | None) -> tuple[str, ...]:
    # A line break would start another assignment.
    return () if text is None else (f"STATUS={' '.join(text.split())}",)


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not (microseconds.isascii() and microseconds.isdigit()) or int(microseconds) == 0:
        return None
    # With a pid, the setting is for that process; its children inherit the variable, not the duty.
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1_000_000
