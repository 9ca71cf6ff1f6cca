"""Peak memory of this process while it reads. Nothing but the standard library: every environment imports it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, Self

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class PeakMemory:
    """How far the resident memory rises above the start inside it."""

    def __init__(self) -> None:
        self._start = 0.0
        self.rise_mib = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        _CLEAR_REFS.write_text("5")  # the peak begins anew, at what there is now
        self._start = _status_mib("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.rise_mib = max(0.0, _status_mib("VmHWM") - self._start)

    def result(self, **more: Any) -> dict[str, Any]:
        """What is sent back."""
        return {"rise_mib": self.rise_mib, "start_mib": self._start, **more}


def _status_mib(name: str) -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{_STATUS} has no {name}: this measurement needs Linux")
