"""Free TCP ports on the loopback interface."""

from __future__ import annotations

import random
import socket
from typing import Final

# Below the kernel's ephemeral range (32768 and up), so that no outgoing connection takes a port
# between its being found free here and its being bound by the process it is meant for.
_FIRST: Final = 20000
_LAST: Final = 32000
_ATTEMPTS: Final = 200
# Its own source: a test that seeds the global one would get the same port as the last run's.
_random = random.SystemRandom()
_handed_out: set[int] = set()


def free_port() -> int:
    """A port nobody listens on and that was not handed out before in this process."""
    for _ in range(_ATTEMPTS):
        port = _random.randint(_FIRST, _LAST)
        if port in _handed_out:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _handed_out.add(port)
        return port
    raise RuntimeError(f"no free port between {_FIRST} and {_LAST} in {_ATTEMPTS} attempts")
