"""Looks at the gateway every few seconds, at its certificates too, and writes health records when they are due."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from ds_gateway import clock
from ds_gateway.certificates import Certificates, places
from ds_gateway.health import report, starts
from ds_gateway.health.pace import FREE, MOST, Pace
from ds_gateway.logs import event, logger
from ds_gateway.records import Item, Record, control_tail
from ds_gateway.timekeeping import UNWATCHED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ds_gateway.config.models import Settings
    from ds_gateway.health.pace import Reason
    from ds_gateway.journal import JournalSnapshot
    from ds_gateway.timekeeping import WallClock

_log = logger("health")

LOOK_SECONDS: Final = 5.0
"""How often it is looked for changes."""
SHARE: Final = 64
"""Which part of the journal its records may take at most, as a divisor."""
LAST_SECONDS: Final = 1.0
"""How long the last record may take into the journal when the gateway stops."""
_DEVICE: Final = "@gateway"
_SOURCE: Final = "@health"
"""Its name in the journal. No broker and no port can be called so."""


class HealthIntake(Protocol):
    """The way into the journal."""

    @property
    def uncommitted(self) -> int:
        """Items that are on their way."""
        ...  # pragma: no cover

    def offer(self, items: Sequence[Item]) -> bool:
        """Hand items over; False where there is no room."""
        ...  # pragma: no cover


class HealthJournal(Protocol):
    """What is needed of the journal."""

    def intake(self, source: str, *, max_items: int) -> HealthIntake:
        """Return the way in."""
        ...  # pragma: no cover

    def snapshot(self) -> JournalSnapshot:
        """How full it is."""
        ...  # pragma: no cover


class Health:
    """Watches one gateway. On the event loop; `start` when everything is there, `stop` before anything ends."""

    def __init__(
        self,
        settings: Settings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._settings = settings
        self._wall_clock: WallClock = UNWATCHED
        self._monotonic = monotonic
        self._look_seconds = look_seconds
        self.certificates = Certificates(places(settings))
        self._stream = settings.health.stream_name(settings.gateway.id)
        self._pace = Pace(settings.health.interval_seconds)
        self._ages = report.Ages()
        self._starts: Mapping[str, int] = {}
        self._told: Mapping[str, Any] | None = None
        self._written = 0
        self._age_seconds: float | None = None
        self.trouble = ""
        """What is wrong with certificates, for the service manager's line."""
        self._task: asyncio.Task[None] | None = None

    def start(
        self, journal: HealthJournal, wall_clock: WallClock, document: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Begin. ``document`` is the status, with or without its devices."""
        self._wall_clock = wall_clock
        self._document = document
        self._journal = journal
        if self._stream:
            counted = starts.count(Path(self._settings.data_dir), clock.boot_id())
            self._starts = {"boots": counted.boots, "starts": counted.starts}
            self._intake = journal.intake(_SOURCE, max_items=2)
            most = journal.snapshot().max_bytes // SHARE // report.MAX_INFO_BYTES
            self._pace = Pace(self._settings.health.interval_seconds, most=max(1, min(MOST, most)))
        self.certificates.look()  # what is read of files is bounded, and a status has them from the start
        self._task = asyncio.create_task(self._run(), name="health")

    async def stop(self) -> None:
        """Tell that the gateway stops, and end."""
        if not await self.end() or not self._stream:
            return
        document = self._document()
        if self._waiting(document) < FREE and self._may_write(document):
            self._write(document, "stop")
            deadline = time.monotonic() + LAST_SECONDS
            while self._intake.uncommitted and time.monotonic() < deadline:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.02)

    async def end(self) -> bool:
        """Look no more; whether that was still done. May be called at any time."""
        if self._task is None:
            return False
        task, self._task = self._task, None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return True

    async def _run(self) -> None:
        while True:
            try:
                # A file's size, its disk and what was put into it are nothing that the event loop should wait for.
                await asyncio.to_thread(self.certificates.look)
                self.look()
            except Exception as error:  # noqa: BLE001
                # Supervision boundary: telling how it goes must stop nothing.
                event(_log, "error", "health.defect", error=repr(error), exc=error)
            await asyncio.sleep(self._look_seconds)

    def look(self) -> None:
        """Look once, and write what is due."""
        document = self._document()
        self.certificates.tell(document["certificates"])
        wrong = [
            f"certificate {each['name']} {each['problem']}" for each in document["certificates"] if each["problem"]
        ]
        self.trouble = "; ".join(wrong[:3])
        others = [each for each in document["streams"] if each["name"] != self._stream]
        self._age_seconds = self._ages.see(others, self._monotonic())
        if not self._stream:
            return
        state = report.state(document, self._stream)
        has_changed = self._told is not None and state != self._told
        reason = self._pace.due(self._monotonic(), has_changed=has_changed, waiting=self._waiting(document))
        if reason is not None and self._may_write(document):
            self._write(document, reason)

    def _waiting(self, document: Mapping[str, Any]) -> int:
        return sum(each["in_journal"] for each in document["streams"] if each["name"] == self._stream)

    def _may_write(self, document: Mapping[str, Any]) -> bool:
        """Whether there is room that nobody else waits for."""
        journal = document["journal"]
        return not (journal["full"] or journal["shedding"] or self._intake.uncommitted)

    def _write(self, document: Mapping[str, Any], reason: Reason) -> None:
        state, said = self._wall_clock.stamp()
        tail = control_tail(
            gateway=self._settings.gateway.id,
            device=_DEVICE,
            time_ns=time.time_ns(),
            kind="health",
            info=report.info(
                document, self._stream, reason=reason, starts=self._starts, age_seconds=self._age_seconds
            ),
            clock=said,
            envelope=self._settings.gateway.envelope,
        )
        if self._intake.offer([Item(Record(self._stream, _DEVICE, tail, clock=state))]):
            self._written += 1
            self._told = report.state(document, self._stream)
            self._pace.told(self._monotonic(), reason)

    # -- for the status

    def summary(self) -> Mapping[str, Any] | None:
        """What the status says of it; None where there is no such stream."""
        if not self._stream:
            return None
        return {"stream": self._stream, "written": self._written, **self._starts}

    @property
    def oldest_seconds(self) -> float | None:
        """How long the oldest record that is not sent has waited; None where all are sent."""
        return None if self._age_seconds is None else round(self._age_seconds, 1)

    def certificates_now(self) -> list[dict[str, Any]]:
        """For the status: every certificate, and how long it is valid still."""
        known = self._wall_clock.state
        return self.certificates.document(is_synchronised=known is None or known.is_synchronised)
