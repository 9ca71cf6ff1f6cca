"""``ds-gateway run`` under a wall clock that a test sets: ``python -m faults.steered_clock --config F``.

The file that ``STEERED_CLOCK`` names says how many seconds the clock is off, and whether it is synchronised.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE: Final = "STEERED_CLOCK"


class Steering:
    """The test's side."""

    def __init__(self, file: Path, *, off_seconds: float, synchronised: bool) -> None:
        self._file = file
        self.set(off_seconds=off_seconds, synchronised=synchronised)

    def set(self, *, off_seconds: float, synchronised: bool) -> None:
        """Both change at once."""
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps({"off_seconds": off_seconds, "synchronised": synchronised}))
        new.replace(self._file)

    @property
    def program(self) -> list[str]:
        """What to run instead of ``ds-gateway run``."""
        return [sys.executable, "-m", "faults.steered_clock"]

    @property
    def environ(self) -> dict[str, str]:
        """What it needs to know."""
        tests = str(Path(__file__).parent.parent)
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), tests]))
        return {"PYTHONPATH": path, VARIABLE: str(self._file)}


def main() -> None:
    """Exchange the clock before anything of the gateway is imported, which may keep the function itself."""
    file = Path(os.environ[VARIABLE])
    real = time.time_ns

    def steered() -> Mapping[str, Any]:
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    def time_ns() -> int:
        return real() + int(steered()["off_seconds"]) * 10**9

    time.time_ns, time.time = time_ns, lambda: time_ns() / 1e9
    from ds_gateway import clock  # noqa: PLC0415 - after the clock

    clock.is_synchronised = lambda **_: bool(steered()["synchronised"])
    sys.argv = ["ds-gateway", "run", *sys.argv[1:]]
    runpy.run_module("ds_gateway", run_name="__main__")


if __name__ == "__main__":
    main()
