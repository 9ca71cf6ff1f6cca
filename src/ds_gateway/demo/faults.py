"""What the demo does to its parts, and when. Pure.

    0   .08  .15     .30     .46 .50  .56  .62 .67                1
    |----|----|-------|-------|---|----|----|---|------------------|
        tare  kill -9 broker      server away --|
                      restarted   |    kill -9
                              scale holds  tare

The last third is left for catching up. Each step begins at its time at the earliest: a step that has to wait
for the parts (a gateway on a busy machine) delays those behind it, and their order stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

MIN_SECONDS: Final = 15
"""Below, the faults would come faster than the gateway starts."""

_FIRST_TARE: Final = 0.08
_FIRST_KILL: Final = 0.15
_BROKER_RESTART: Final = 0.30
_HOLD_SCALE: Final = 0.46
_SERVER_STOP: Final = 0.50
_SECOND_KILL: Final = 0.56
_SECOND_TARE: Final = 0.62
_OUTAGE: Final = 1 / 6


class Action(Enum):
    """A step of the schedule."""

    TARE = "a command to the scale"
    HOLD_SCALE = "the scale holds its line, and its last reading reaches the stream"
    KILL_GATEWAY = "kill -9 of the gateway, and its restart"
    RESTART_BROKER = "SIGTERM of the broker, and its restart"
    STOP_SERVER = "kill -9 of the stream server"
    START_SERVER = "start of the stream server"


@dataclass(frozen=True, slots=True)
class Step:
    """An action and its time: not earlier than that many seconds after the first reading."""

    at_seconds: float
    action: Action


def schedule(seconds: float, *, with_broker: bool, with_faults: bool = True) -> tuple[Step, ...]:
    """The steps for a run of ``seconds``, in their order; without faults the commands alone.

    Raises `ValueError` below `MIN_SECONDS`.
    """
    if not seconds >= MIN_SECONDS:
        raise ValueError(f"the faults need at least {MIN_SECONDS} s, not {seconds:g}")
    steps = [
        Step(_FIRST_TARE * seconds, Action.TARE),
        # Serial has no acknowledgement: what the gateway has read and not yet committed dies with it. So the scale
        # holds its line around the kills, and before the server goes away if a kill falls into that time: only
        # a reading that has reached the stream is known to be safe.
        Step(_FIRST_KILL * seconds, Action.HOLD_SCALE),
        Step(_FIRST_KILL * seconds, Action.KILL_GATEWAY),
        Step(_BROKER_RESTART * seconds, Action.RESTART_BROKER),
        Step(_HOLD_SCALE * seconds, Action.HOLD_SCALE),
        Step(_SERVER_STOP * seconds, Action.STOP_SERVER),
        Step(_SECOND_KILL * seconds, Action.KILL_GATEWAY),
        # Given while there is no server for it: it is in the stream when the gateway finds the server again.
        Step(_SECOND_TARE * seconds, Action.TARE),
        Step((_SERVER_STOP + _OUTAGE) * seconds, Action.START_SERVER),
    ]
    if not with_faults:
        return tuple(step for step in steps if step.action is Action.TARE)
    return tuple(step for step in steps if with_broker or step.action is not Action.RESTART_BROKER)
