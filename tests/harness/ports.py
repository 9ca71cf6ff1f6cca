"""Free TCP ports on the loopback interface."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import Final

# Below the kernel's ephemeral range (32768 and up), so that no outgoing connection takes a port
# between its being found free here and its being bound by the process it is meant for; and below the ports
# of the demo (20000 and up), which looks for its own.
_FIRST: Final = 10000
_LAST: Final = 19999
_ATTEMPTS: Final = 200
# Its own source: a test that seeds the global one would get the same port as the last run's.
_random = random.SystemRandom()
_handed_out: set[int] = set()
# Tests run in several processes. Each claims its ports, whether anybody listens on them yet or not: it locks the
# byte of the port's number, and the kernel unlocks it when the process has ended, however it ended. (Closing
# this file would unlock them all: it stays open.)
_claims: Final = (Path(tempfile.gettempdir()) / f"ds-gateway-test-ports-{os.geteuid()}").open("wb")


def free_port() -> int:
    """A port nobody listens on and that was handed out to no test that still runs, in this process or another."""
    for _ in range(_ATTEMPTS):
        port = _random.randint(_FIRST, _LAST)
        if port in _handed_out or not _claim(port):
            continue
        # A claimed port that turns out to be in use stays claimed: it is not free for anybody else either.
        _handed_out.add(port)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise RuntimeError(f"no free port between {_FIRST} and {_LAST} in {_ATTEMPTS} attempts")


def _claim(port: int) -> bool:
    try:
        fcntl.lockf(_claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except BlockingIOError:
        return False
    return True
