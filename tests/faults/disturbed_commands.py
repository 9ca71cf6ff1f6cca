"""Commands while the gateway is killed and its connections are cut: to the broker around a command, to the stream
server at any byte of an event or of an answer.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import ExitStack
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Literal, Self

from faults.command_plant import DEVICES, CommandPlant
from harness.mqtt_proxy import MqttProxy
from harness.stream_relay import StreamRelay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from ds_gateway.commands import Delivery
    from harness.command_audit import CommandFindings
    from harness.mosquitto import Mosquitto
    from harness.mqtt_proxy import Cut
    from harness.processes import Processes

Happening = Literal["kill", "before", "after", "stream"]
_CUTS: Sequence[Happening] = ("before", "after", "stream")
_SHARE_BYTES = 1000
"""Less than what the stream server sends for one portion of commands."""


class DisturbedCommands:
    """A plant with what stands between the gateway and its broker, and its stream server."""

    def __init__(self, processes: Processes, folder: Path, server_url: str) -> None:
        self._pending: deque[Cut] = deque()
        self._stack = ExitStack()
        self._proxy: MqttProxy | None = None
        self.relay = StreamRelay(server_url)
        self.plant = CommandPlant(
            processes, folder, server_url, gateway_url=self.relay.base_url, broker_url=self._url_of
        )

    def __enter__(self) -> Self:
        self._stack.enter_context(self.relay)
        self._stack.enter_context(self.plant)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def cuts(self) -> int:
        """How often a connection was cut."""
        return self.relay.cuts + (self._proxy.cuts if self._proxy is not None else 0)

    def run(self, random: Random, delivery: Delivery, *, count: int, kills: int, cuts: int) -> CommandFindings:
        """Give commands in portions, and let something happen in the midst of each."""
        plant = self.plant
        kill: Happening = "kill"
        happenings = [kill] * kills + [_CUTS[each % len(_CUTS)] for each in range(cuts)]
        random.shuffle(happenings)
        plant.gateway.start()
        for place, happening in enumerate(happenings):
            share = count * (place + 1) // len(happenings) - len(plant.sent)
            before = plant.progress
            if happening == "stream":
                self.relay.cut(random.randrange(1, _SHARE_BYTES))
            elif happening != "kill":
                self._pending.append(happening)
            plant.send([random.choice(DEVICES) for _ in range(share)], delivery=delivery)
            plant.wait_progress(random.randint(before + 1, len(plant.sent)))
            if happening == "kill":
                plant.gateway.kill()
                plant.gateway.start()
        return plant.finish()

    def _url_of(self, broker: Mosquitto) -> str:
        if self._proxy is None:
            self._proxy = self._stack.enter_context(MqttProxy(broker.port, self._judge))
        return self._proxy.url

    def _judge(self, _packet: bytes) -> Cut:
        return self._pending.popleft() if self._pending else "pass"


def disturb(
    processes: Processes, folder: Path, server_url: str, delivery: Delivery, *, count: int, kills: int, cuts: int
) -> CommandFindings:
    """Run it, and print what came of it."""
    seed = SystemRandom().randrange(10**9)
    started = time.monotonic()
    with DisturbedCommands(processes, folder, server_url) as commands:
        findings = commands.run(Random(seed), delivery, count=count, kills=kills, cuts=cuts)
        assert commands.cuts == cuts
    print(f"{delivery}, seed {seed}: {kills} kills and {cuts} cuts in {time.monotonic() - started:.1f} s")
    return findings
