"""One stream's uplink: it runs the stream's producer, and keeps what an operator wants to know of it."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ds_gateway.errors import JournalClosedError, JournalDamagedError
from ds_gateway.logs import event, logger
from ds_gateway.uplink.decisions import DAMAGED, STANDING, shown, standing, why_damaged
from durable_streams import (
    BeginRepair,
    Command,
    Pull,
    RepairStore,
    Resolve,
    SaveRepair,
    SetAside,
    Stage,
    StoreProducer,
    Wait,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

_log = logger("uplink")

DEFECT_PAUSE_SECONDS: Final = 30.0
MAX_KINDS_TOLD: Final = 8
"""In one outage: a way that fails in ever other words does not fill the log."""
_NUMBERS: Final = re.compile(r"[0-9]+")


class Skipped(Protocol):
    """What was set aside."""

    @property
    def count(self) -> int:
        """Records."""
        ...  # pragma: no cover

    @property
    def files(self) -> Sequence[Path]:
        """Where they are."""
        ...  # pragma: no cover


class StreamStore(RepairStore, Protocol):
    """What is needed of the journal for one stream."""

    async def mark_for_repair(self) -> None:
        """Commit that everything is to be read back, because the sealed batch cannot be read here."""
        ...  # pragma: no cover

    async def skip_to(self, position: int | None) -> Skipped:
        """Set everything before a position aside, in files, and begin a new epoch behind it."""
        ...  # pragma: no cover

    async def move(self, url: str, *, give_up: bool = False) -> bool:
        """Commit that the stream goes on at another server; False while a batch is unresolved at the old one."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class UplinkSnapshot:
    """One stream's uplink, for people to look at."""

    url: str
    state: str
    reason: str
    """What is wrong and what to do; empty when nothing is."""
    last_error: str
    last_ok_time: float | None
    """When the server last took a batch; seconds since 1970."""
    failures: int
    epoch: int
    stop: str = ""
    """Why it is halted or parked, as one word: `DAMAGED`, `STRANDED`, or a `durable_streams.Stop`."""


class Uplink:
    """One stream: runs its producer, and keeps what an operator wants to know."""

    def __init__(
        self,
        name: str,
        url: str,
        on_stopped: Callable[[str], None] = lambda _reason: None,
        on_claim: Callable[[], None] = lambda: None,
        *,
        stream: str = "",
    ) -> None:
        self.name = name
        self.stream = stream or name
        """What it is called at the server."""
        self.url = url
        self.on_stopped = on_stopped
        """Told why the stream stopped; told nothing (empty) when it goes on."""
        self._on_claim = on_claim
        """Called when `claimed` is another one."""
        self.state = "starting"
        self.reason = ""
        self.last_error = ""
        self.last_ok_time: float | None = None
        self.failures = 0
        self.epoch = 0
        self.claimed: int | None = None
        """The epoch that was claimed, or asked for, since the start: nobody else writes under this identity.

        None before, while a repair claims another one, and when the stream has stopped.
        """
        self.why = ""
        self._told: set[str] = set()
        """Kinds of trouble that the log has, since the last batch that was confirmed."""

    @property
    def is_import(self) -> bool:
        """Whether its records came from another journal."""
        return self.stream != self.name

    async def run(
        self,
        make_producer: Callable[[Uplink], StoreProducer],
        mark_for_repair: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """Work until cancelled. A stream that stopped stays stopped; the rest of the gateway goes on.

        ``mark_for_repair`` is for a damaged batch, if repairing is allowed.
        """
        while True:
            try:
                halt = await make_producer(self).run()
            except JournalDamagedError as error:
                if mark_for_repair is None:
                    self.stop("halted", why_damaged(error), DAMAGED)
                    return
                event(_log, "error", "uplink.batch.damaged", stream=self.name, error=str(error))
                await mark_for_repair()
                continue
            except JournalClosedError as error:
                self.state, self.reason = "waiting", str(error)
                return
            except Exception as error:  # noqa: BLE001 - supervision boundary: a defect here must not stop the others
                # Starting over is safe: whatever the producer believed is read from the journal again.
                self.state, self.last_error = "waiting", f"defect: {error!r}"
                event(_log, "error", "uplink.defect", stream=self.name, error=repr(error), exc=error)
                await asyncio.sleep(DEFECT_PAUSE_SECONDS)
                continue
            self.stop(standing(halt), halt.reason, halt.stop.value)
            return

    def stop(self, state: str, reason: str, why: str) -> None:
        """Say that the stream's uplink has stopped, and why: for people, and in a word for programs."""
        self.why = why
        self.state, self.reason, self.last_error = state, reason, reason
        self._claim(None)
        event(_log, "error", f"uplink.stream.{state}", stream=self.name, reason=reason)
        self.on_stopped(f"{state}: {reason}")

    def observe(self, state: Pull, command: Command) -> None:
        """Follow the producer."""
        self.epoch = state.stored.epoch
        if state.stage in {Stage.IDLE, Stage.SEND}:
            self._claim(state.stored.epoch)
        elif not state.stored.claimed:
            self._claim(None)
        self.failures = state.failures
        if state.trouble:
            self.last_error = state.trouble
        match command:
            case Wait():
                self._tell_trouble(state.trouble)
            case Resolve(batch=batch):
                if self.failures or self.state == "waiting":
                    event(_log, "info", "uplink.recovered", stream=self.name)
                self._told.clear()
                self.last_ok_time = time.time()
                event(_log, "debug", "uplink.batch.acked", stream=self.name, seq=batch.seq, records=batch.count)
            case BeginRepair(why=why):
                event(
                    _log,
                    "info" if state.fencing else "warning",  # it was asked for, or there is trouble
                    "uplink.repair",
                    stream=self.name,
                    reason=why,
                    epoch=state.stored.epoch,
                )
            case SaveRepair():
                event(_log, "info", "uplink.repaired", stream=self.name, epoch=state.stored.epoch)
            case SetAside(reason=reason):
                event(_log, "error", "uplink.record.set_aside", stream=self.name, reason=reason)
            case _:
                pass
        self.state, self.reason = shown(state, command, self.state, self.reason)

    def _tell_trouble(self, trouble: str) -> None:
        """Each kind once, until it is over: numbers in it, as of attempts, make no other one."""
        kind = _NUMBERS.sub("", trouble)
        if kind not in self._told and len(self._told) < MAX_KINDS_TOLD:
            self._told.add(kind)
            event(_log, "warning", "uplink.waiting", stream=self.name, reason=trouble)

    def _claim(self, epoch: int | None) -> None:
        if epoch != self.claimed:
            self.claimed = epoch
            self._on_claim()

    def why_not_claimed(self) -> str:
        """Why it is not certain that nobody else writes it under this identity; empty if it is."""
        if self.state in STANDING:
            return f"{self.name} is {self.state}: {self.reason}"
        if self.claimed is None:
            return f"{self.name} is not claimed yet" + (f": {self.reason}" if self.reason else "")
        return ""

    def observe_settling(self, state: Pull, _command: Command) -> None:
        """Follow the producer that asks the old server."""
        self.failures = state.failures
        if state.trouble:
            self.last_error = state.trouble

    def snapshot(self) -> UplinkSnapshot:
        """How it is now."""
        return UplinkSnapshot(
            url=self.url,
            state=self.state,
            reason=self.reason,
            last_error=self.last_error,
            last_ok_time=self.last_ok_time,
            failures=self.failures,
            epoch=self.epoch,
            stop=self.why if self.state in STANDING else "",
        )


@dataclass(frozen=True, slots=True)
class Stranded:
    """A stream whose last batch is unresolved at a server that is not the configured one any more."""

    uplink: Uplink
    store: StreamStore
    url: str
    """What the journal calls that server."""
