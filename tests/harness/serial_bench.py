"""A serial source with its pipeline and queue; the test is what is behind the port, and the journal's writer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

import orjson

from ds_gateway.config.serial_port import SerialSettings
from ds_gateway.journal.intake import Intake
from ds_gateway.mapping import SerialPipeline
from ds_gateway.records import Loss, Record, Rejected
from ds_gateway.serial_port import SerialSource
from harness.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from ds_gateway.serial_port import SerialSnapshot
    from ds_gateway.serial_port.polls import PollCounters


class NoWait:
    """A random source that asks for no wait at all."""

    def uniform(self, _a: float, _b: float) -> float:
        return 0.0


class Ahead:
    """The monotonic clock, which the test can put forward."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.seconds


class SerialBench:
    """Started when it is entered. ``settings`` are those of the configuration file."""

    def __init__(self, port: Path | str | None, settings: dict[str, Any], **more: Any) -> None:
        given = {} if port is None else {"port": str(port)}
        self.settings = SerialSettings.model_validate(given | settings)
        self.clock = Ahead()
        self.intake = Intake("line", max_items=100_000, max_bytes=100_000_000, wake=lambda: None)
        self.readings: list[tuple[str, dict[str, Any]]] = []
        """Device and data of each record, so far."""
        self.rejected: list[Rejected] = []
        self.losses: list[Loss] = []
        self.pipeline = SerialPipeline("line", "line-7", self.settings)
        self.source = SerialSource(
            "line",
            self.settings,
            pipeline=self.pipeline,
            intake=self.intake,
            random=NoWait(),
            monotonic=self.clock,
            **more,
        )

    def __enter__(self) -> Self:
        self.source.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.source.stop(20), "the source did not stop"

    def snapshot(self) -> SerialSnapshot:
        return self.source.snapshot()

    def forward(self, seconds: float) -> None:
        """Put the source's clock forward, and let it see that at once."""
        self.clock.seconds += seconds
        assert self.source._wake is not None
        self.source._wake.set()

    def let_time_out(self, seconds: float) -> None:
        """Put the clock forward once an answer is waited for: a request that comes is not noted as written yet."""
        polls = self.source._polls
        wait_until(
            lambda: (exchange := polls._exchange) is not None and exchange.phase == "listening",
            what="an answer is waited for",
        )
        self.forward(seconds)

    def polls(self) -> PollCounters:
        found = self.snapshot().polls
        assert found is not None
        return found

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """All readings so far."""
        for item in self.intake.take(10_000, 10_000_000):
            match item.payload:
                case Record(device=device, tail=tail):
                    self.readings.append((device, orjson.loads(b"{" + tail)["data"]))
                case Rejected() as rejected:
                    self.rejected.append(rejected)
                case Loss() as loss:
                    self.losses.append(loss)
        return self.readings

    def wait_open(self, reopens: int = 0) -> None:
        wait_until(
            lambda: self.snapshot().state == "open" and self.snapshot().reopens == reopens,
            what=f"the port is open, with {reopens} reopens",
        )

    def wait_readings(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        wait_until(lambda: len(self.take()) >= count, what=f"there are {count} readings")
        return self.readings

    def wait_reason(self, words: str, state: str) -> str:
        wait_until(
            lambda: self.snapshot().state == state and words in self.snapshot().reason,
            what=f"the port is {state} because {words!r}",
        )
        return self.snapshot().reason
