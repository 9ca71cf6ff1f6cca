"""A process that has imported everything, and forks a program of this project for whoever asks: see `zygote`.

Each connection is one program: the request comes with the descriptor of its output, the answer is its process id,
and later its exit status.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
from typing import Any

import ds_gateway.cli
import ds_gateway.embedded
import durable_streams.cli
import durable_streams.server

MAINS = {"ds-gateway": ds_gateway.cli.main, "durable-streams": durable_streams.cli.main}
"""What imports they make at their start have been made here."""
IMPORTED = (
    ds_gateway.embedded,
    durable_streams.server,
    *(
        importlib.import_module(f"ds_gateway.cli.{each.name}")
        for each in pkgutil.iter_modules(ds_gateway.cli.__path__)
    ),
)


def main() -> None:
    """Serve until standard input ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ, None)
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ, "end")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for key, _ in selector.select():
            match key.data:
                case None:
                    connection, _ = listener.accept()
                    pid = begin(connection, selector, listener)
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
                case "end":
                    return
                case (pid, connection):
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _, status = os.waitpid(pid, 0)
                    with connection:
                        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def begin(connection: socket.socket, selector: selectors.BaseSelector, listener: socket.socket) -> int:
    """Fork the program that the connection asks for; return its process id."""
    request, descriptors, _, _ = socket.recv_fds(connection, 65536, 1)
    asked: dict[str, Any] = json.loads(request)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.dup2(descriptors[0], 1)
        os.dup2(descriptors[0], 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        selector.close()
        listener.close()
        connection.close()
        os.closerange(3, 256)
        signal.set_wakeup_fd(-1)
        os.environ.update(asked["env"])
        sys.argv = asked["argv"]
        try:
            MAINS[os.path.basename(sys.argv[0])]()  # noqa: PTH119 - a name
        except SystemExit as ended:
            sys.stdout.flush()
            os._exit(ended.code if isinstance(ended.code, int) else 0)
        finally:
            os._exit(70)
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)  # whoever gets the number may kill the group at once
    os.close(descriptors[0])
    connection.sendall(f"{pid}\n".encode())
    return pid


if __name__ == "__main__":
    main()
