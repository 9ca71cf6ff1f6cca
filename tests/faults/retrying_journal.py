"""Tries again what is in a journal's quarantine, and kills itself at the commit that it is told: run by a test."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

from ds_gateway.config.models import LimitSettings
from ds_gateway.config.mqtt import DeviceSettings
from ds_gateway.journal import Journal, JournalLimits
from ds_gateway.mapping import MqttPipeline
from ds_gateway.quarantine import Quarantine, Wanted, steps


def main(directory: Path, when: str, number: int) -> None:
    """Kill this process ``when`` (before, after) the commit of this number is made; 0: never."""
    commits: dict[str, int] = {"before": 0, "after": 0}

    def on_point(point: str, parts: frozenset[str]) -> None:
        if not any(part.startswith("salvage") for part in parts):
            commits[point] += 1
            if point == when and commits[point] == number:
                os.kill(os.getpid(), signal.SIGKILL)

    limits = JournalLimits(min_free_bytes=0, batch_max_bytes=2048)
    journal = Journal.open(directory, gateway="g", url="http://streams.test/v1", limits=limits, on_point=on_point)
    device = DeviceSettings.model_validate({"topic": "sensors/{name}", "decode": "text"})
    quarantine = Quarantine(
        directory,
        lambda: {"hall": MqttPipeline("hall", "g", [device], LimitSettings())},
        partial(journal.intake, "@quarantine", max_items=1000),
    )
    journal.start()
    for answer in steps(partial(quarantine.retry, Wanted())):
        assert answer["kept"] == answer["impossible"] == []
    journal.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
