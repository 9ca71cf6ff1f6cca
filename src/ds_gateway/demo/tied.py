"""Run a program that the kernel kills when the process that started it ends, however that ended.

``python tied.py PARENT-PID PROGRAM ARGUMENT...`` becomes the program: same process id, same descriptors. It is
a program of its own because the code between fork and exec of a process with threads can do next to nothing
safely, and it imports nothing of this package, so that it starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, then become the program."""
    parent, *program = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG is refused")
    if os.getppid() != int(parent):
        return  # it ended before the tie was made
    os.execv(program[0], program)  # noqa: S606 - the demo's own parts, by absolute path


if __name__ == "__main__":
    main(sys.argv[1:])
