"""Opens a damaged journal, and kills itself (SIGKILL) after one step of the salvage: run by a test.

python -m faults.salvaging_journal FOLDER STEP
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ds_gateway.journal import Journal
from harness.damaged_journal import GATEWAY, LIMITS, URL


def main(directory: Path, step: str) -> None:
    """Open it; end when that is done if the step never comes."""

    def on_point(_when: str, parts: frozenset[str]) -> None:
        if f"salvage: {step}" in parts:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.open(directory, gateway=GATEWAY, url=URL, limits=LIMITS, on_point=on_point).stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
