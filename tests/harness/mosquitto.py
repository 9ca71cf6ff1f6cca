"""A real mosquitto on a free loopback port, with a configuration of the test's own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Self

from harness.peers import require_mosquitto
from harness.ports import free_port
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

# mosquitto's own password format 7: PBKDF2 with SHA-512.
_ITERATIONS = 101


class Mosquitto:
    """One broker. It keeps its port and its directory through stops, kills and starts.

    ``persistence`` saves sessions on SIGTERM; ``users`` are names and passwords (without them everybody may
    connect); ``max_inflight_messages`` and the like are mosquitto's; ``extra`` are more configuration lines, and
    ``tls`` (ca, cert, key) makes the port a TLS one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        persistence: bool = True,
        users: Mapping[str, str] | None = None,
        max_inflight_messages: int | None = None,
        max_queued_messages: int | None = None,
        tls: tuple[Path, Path, Path] | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.port = free_port() if port is None else port
        self.log_path = directory / "mosquitto.log"
        self._binary = require_mosquitto()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listener {self.port} 127.0.0.1",
            "set_tcp_nodelay true",
            f"log_dest file {self.log_path}",
            "log_type all",
            f"persistence {str(persistence).lower()}",
            f"persistence_location {directory}/",
            f"allow_anonymous {str(users is None).lower()}",
        ]
        if os.geteuid() == 0:
            # Otherwise it becomes the user mosquitto, who may not write here.
            lines.append("user root")
        if users is not None:
            passwords = directory / "passwords"
            passwords.write_text("".join(map(_password_line, users, users.values())))
            passwords.chmod(0o600)
            lines.append(f"password_file {passwords}")
        if max_inflight_messages is not None:
            lines.append(f"max_inflight_messages {max_inflight_messages}")
        if max_queued_messages is not None:
            lines.append(f"max_queued_messages {max_queued_messages}")
        if tls is not None:
            lines += [f"{name} {path}" for name, path in zip(("cafile", "certfile", "keyfile"), tls, strict=True)]
        self._configuration = directory / "mosquitto.conf"
        self._configuration.write_text("\n".join([*lines, *extra]) + "\n")

    @property
    def url(self) -> str:
        """Its address, as the configuration wants it."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        self._process = subprocess.Popen(
            [self._binary, "-c", self._configuration],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._accepts, what=f"mosquitto accepts connections on port {self.port}")

    def stop(self) -> None:
        """End it as an operator does (SIGTERM): with persistence it saves its sessions."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without warning (SIGKILL)."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Make it stand still: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log_no_packets(self) -> None:
        """From now on. Logging takes most of its time when it has much to send."""
        assert self._process is not None
        kinds = "".join(f"log_type {kind}\n" for kind in ("error", "warning", "notice", "information"))
        self._configuration.write_text(self._configuration.read_text().replace("log_type all\n", kinds))
        self._process.send_signal(signal.SIGHUP)

    def restart(self) -> None:
        """Stop it and start it again on the same port."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _accepts(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"mosquitto ended with {self._process.returncode}\n{self.log}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        # In this order: a paused one that is killed does not do any more of what waits for it.
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)
        self._process.wait(20)
        self._process = None


def _password_line(user: str, password: str) -> str:
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS, 64)
    return f"{user}:$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"
