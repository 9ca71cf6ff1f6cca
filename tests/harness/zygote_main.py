"""A process that has imported everything, and forks the project's programs for whoever asks: see `zygote`.

Each message on the socket whose descriptor is the argument asks for one program. It comes with four descriptors:
the program's standard input, output and error, and a socket that gets its process id, and later its exit status.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import selectors
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ds_gateway.cli
import durable_streams.cli
import faults.crashing_gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

MAINS: Final[dict[str, Callable[[], object]]] = {
    "ds-gateway": ds_gateway.cli.main,
    "durable-streams": durable_streams.cli.main,
    "faults.crashing_gateway": faults.crashing_gateway.main,
}
OF_LIBRARIES: Final = (
    "anyio._backends._asyncio",
    "encodings.idna",
    "encodings.utf_8_sig",
    "httpcore",
    "uvicorn.lifespan.off",
)
"""What libraries import no sooner than they need it. `strace` on a fork shows which files it reads."""
TESTS: Final = str(Path(__file__).parent.parent)
REQUEST_BYTES: Final = 2**17


def main() -> object:
    """Serve until the socket's other end is closed. In a fork: the program, to its end."""
    for name in (*OF_LIBRARIES, *modules_of(ds_gateway), *modules_of(durable_streams)):
        importlib.import_module(name)
    # The collector of a program need not look at what is shared with this process, nor copy it by looking.
    gc.collect()
    gc.freeze()
    program = serve(int(sys.argv[1]))
    return program() if program is not None else 0


def modules_of(package: ModuleType) -> Iterator[str]:
    """Names of all its modules: commands import theirs when they are called."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith(".__main__"):
            yield found.name


def serve(control_fd: int) -> Callable[[], object] | None:
    """Return in a fork: its program. Only numbers of descriptors are held: no object of here closes one there."""
    selector = selectors.DefaultSelector()
    selector.register(control_fd, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                pid, reply_fd = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(pid, 0)
                tell(reply_fd, os.waitstatus_to_exitcode(status))
                os.close(reply_fd)
                continue
            with socket.socket(fileno=os.dup(control_fd)) as control:
                request, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, 4)
            if not request:
                return None
            assert len(os.listdir("/proc/self/task")) == 1, "a fork has one thread only"  # noqa: PTH208 - names
            pid = os.fork()
            if pid == 0:
                selector.close()
                return become(json.loads(request), descriptors)
            for each in descriptors[:3]:
                os.close(each)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, descriptors[3]))


def become(asked: dict[str, Any], descriptors: list[int]) -> Callable[[], object]:
    """Make this fork what an interpreter would be that was started so; return its program."""
    os.setsid()
    tell(descriptors[3], os.getpid())  # whoever gets the number may kill the group at once
    for number, each in enumerate(descriptors[:3]):
        os.dup2(each, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    if TESTS not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        sys.path.remove(TESTS)
    # A program may execute itself anew, with these.
    sys.orig_argv = asked["orig_argv"]
    sys.argv = asked["argv"]
    return MAINS[asked["name"]]


def tell(descriptor: int, number: int) -> None:
    """Answer; nobody may listen any more."""
    with socket.socket(fileno=os.dup(descriptor)) as reply:
        with contextlib.suppress(BrokenPipeError):
            reply.sendall(f"{number}\n".encode())


if __name__ == "__main__":
    raise SystemExit(main())
