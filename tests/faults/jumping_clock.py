"""``ds-gateway run`` under a wall clock that jumps by years: ``python -m faults.jumping_clock --config F``."""

from __future__ import annotations

import random
import runpy
import sys
import time
from typing import Final

_YEAR_NS: Final = 365 * 24 * 3600 * 10**9
_JUMP_EVERY: Final = 20
"""Readings of the clock between two jumps, on average."""


class JumpingClock:
    """Nanoseconds since 1970, off by up to twenty years."""

    def __init__(self) -> None:
        self._real = time.time_ns
        self._random = random.Random()
        self._offset_ns = 0

    def time_ns(self) -> int:
        """As `time.time_ns`."""
        if self._random.randrange(_JUMP_EVERY) == 0:
            self._offset_ns = self._random.randint(-20, 20) * _YEAR_NS
        return self._real() + self._offset_ns

    def time(self) -> float:
        """As `time.time`."""
        return self.time_ns() / 1e9


def main() -> None:
    """Exchange the clock before anything of the gateway is imported, which may keep the function itself."""
    clock = JumpingClock()
    time.time_ns, time.time = clock.time_ns, clock.time
    sys.argv = ["ds-gateway", "run", *sys.argv[1:]]
    runpy.run_module("ds_gateway", run_name="__main__")


if __name__ == "__main__":
    main()
