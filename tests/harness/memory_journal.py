"""Stand-in for the journal's writer: a thread that takes from a real intake and "commits" to memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from ds_gateway.journal.intake import Intake
from ds_gateway.records import Loss, Record, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from ds_gateway.journal.intake import Gate
    from ds_gateway.records import Item


@dataclass
class Disk:
    """What survives a kill."""

    rows: dict[str, bytes] = field(default_factory=dict)
    commit: int = 0
    accepted: list[Record | Rejected | Loss] = field(default_factory=list)

    @property
    def tails(self) -> list[bytes]:
        """The tails of all records, in order."""
        return [each.tail for each in self.accepted if isinstance(each, Record)]

    @property
    def losses(self) -> list[Loss]:
        """The losses, in order."""
        return [each for each in self.accepted if isinstance(each, Loss)]


class MemoryJournal:
    """One intake and its writer. Use as a context; `hold` makes it stand still, `mute` loses its reports."""

    def __init__(self, disk: Disk, *, max_items: int = 100_000, group_items: int = 5000) -> None:
        self.disk = disk
        self.mute = False
        self.held = threading.Event()
        self.failures_to_come = 0
        self._max_items = max_items
        self._group_items = group_items
        self._intake: Intake | None = None
        self._work = threading.Event()
        self._open = threading.Event()
        self._open.set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="memory-journal")

    def intake(self, *, gate: Gate, on_committed: Callable[[Sequence[Item], int], None]) -> Intake:
        """Make the intake (`ds_gateway.mqtt.source.IntakeFactory`)."""
        gate.restore(dict(self.disk.rows))
        self._intake = Intake(
            "mqtt",
            max_items=self._max_items,
            max_bytes=1 << 24,
            wake=self._work.set,
            gate=gate,
            on_committed=on_committed,
        )
        return self._intake

    def hold(self) -> None:
        """Commit nothing from now on; returns when the writer stands still."""
        self._open.clear()
        self._work.set()
        assert self.held.wait(10)

    def release(self) -> None:
        """Go on."""
        self._open.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._open.set()
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._work.wait()
            if not self._open.is_set():
                self.held.set()
                self._open.wait()
                self.held.clear()
            self._work.clear()
            while self._open.is_set() and not self._stopping and self._turn():
                pass
            if not self._open.is_set():
                self._work.set()

    def _turn(self) -> bool:
        intake = self._intake
        items = [] if intake is None else intake.take(self._group_items, 1 << 22)
        if intake is None or not items:
            return False
        gate = intake.gate
        assert gate is not None
        commit = self.disk.commit + 1
        admitted = gate.admit(items, commit)
        losses = gate.losses()
        changes = gate.changes()
        if self.failures_to_come:
            self.failures_to_come -= 1
            gate.restore(dict(self.disk.rows))
            intake.give_back(items)
            return True
        for name, row in changes.items():
            if row is None:
                self.disk.rows.pop(name, None)
            else:
                self.disk.rows[name] = row
        self.disk.commit = commit
        payloads = [item.payload for item in admitted]
        self.disk.accepted += [each for each in payloads if isinstance(each, Record | Rejected | Loss)]
        self.disk.accepted += losses
        if intake.on_committed is not None and not self.mute:
            intake.on_committed(items, commit)
        return True
