"""From the claim of the receipts stream to the first command: what others did under this identity.

    life committed -> claim -> read the receipts to their end -> what others had is known -> commands are read

Whoever executes a command has its `accepted` in the receipts stream before, under a claim. From our claim on no
other gateway can write there. So what another one may have executed, or may be executing still, is in the stream
as we read it after the claim, and is never executed here: one gateway executes a command, whoever comes when.

It is done again after every claim, also when this process had to claim once more.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, Protocol

from ds_gateway.downlink.ageing import MAX_AGE_SECONDS, MAX_AHEAD_SECONDS
from ds_gateway.downlink.book import START_OFFSET, Looked
from ds_gateway.downlink.executor import LOOK_AGAIN_SECONDS
from ds_gateway.downlink.ids import Done
from ds_gateway.downlink.others import Others, records
from ds_gateway.downlink.reception import Write
from ds_gateway.errors import DownlinkError
from ds_gateway.logs import event, logger
from ds_gateway.records import NANOSECONDS
from durable_streams import AsyncDurableStream, DurableStreamError, InvalidOffsetError, RetentionGoneError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ds_gateway.commands import Status
    from ds_gateway.downlink.ageing import Now
    from ds_gateway.downlink.book import Book, Rows
    from ds_gateway.downlink.executor import Bell
    from ds_gateway.downlink.others import Told
    from ds_gateway.downlink.surroundings import Options, Surroundings

_log = logger("downlink")

FIRST_PAUSE_SECONDS: Final = 0.25
MAX_PAUSE_SECONDS: Final = 30.0
_YIELD_EVERY: Final = 64
_KEEP_NS: Final = int((MAX_AGE_SECONDS + 2 * MAX_AHEAD_SECONDS) * NANOSECONDS)


class Heir(Protocol):
    """Whose commands they are from then on."""

    book: Book

    def now(self) -> Now:
        """Both clocks."""
        ...  # pragma: no cover

    def write(self, write: Write) -> asyncio.Future[int]:
        """Let something be committed."""
        ...  # pragma: no cover

    def why_no_clock(self) -> str:
        """Why nobody knows how old anything is; empty if that is known."""
        ...  # pragma: no cover

    def inherit(self, ended: Mapping[str, Status], *, was_there: bool) -> None:
        """Everything is known of others; ``ended`` is what became there of commands that are open here."""
        ...  # pragma: no cover


class Takeover:
    """Used on the event loop."""

    def __init__(self, options: Options, around: Surroundings, heir: Heir, bell: Bell) -> None:
        self._options = options
        self._around = around
        self._heir = heir
        self._bell = bell
        self._epoch: int | None = None
        """Under which everything of others is known."""
        self._anchor: tuple[int, str] | None = None
        self._trouble = ""
        self._stream = AsyncDurableStream(
            options.receipts_url,
            client=around.client,
            headers={**around.headers, "cache-control": lambda: "no-cache"},
        )

    def why_not(self) -> str:
        """Why a command may be another gateway's; empty if none is."""
        epoch = self._around.claimed()
        if epoch is None:
            return self._around.why_not_claimed()
        if epoch != self._epoch:
            name = self._options.receipts
            return self._trouble or f"{name} is read, for what another gateway with this gateway.id may have done"
        return ""

    async def run(self, life: str) -> None:
        """Claim, and look through the receipts after each claim, until cancelled."""
        # As of before the claim: what lies behind an offset that the claim itself set is not known.
        self._anchor = self._around.journal.anchor(self._options.receipts)
        await self._heir.write(Write(self._heir.book.begin_life(life)))
        self._around.claim(life)
        failures = 0
        while True:
            epoch = self._around.claimed()
            if epoch is None or epoch == self._epoch or self._heir.why_no_clock():
                await self._bell.wait(LOOK_AGAIN_SECONDS)
                continue
            try:
                await self._look_through(epoch)
                failures, self._trouble = 0, ""
                self._bell.ring()
                continue
            except (DurableStreamError, DownlinkError) as error:
                if not self._trouble:
                    event(_log, "warning", "downlink.waiting", stream=self._options.receipts, reason=str(error))
                self._trouble = str(error)
            except Exception as error:  # noqa: BLE001 - supervision boundary: nothing is executed without it
                self._trouble = f"defect: {error!r}"
                event(_log, "error", "downlink.defect", error=repr(error), exc=error)
            pause_seconds = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures, 10))
            failures += 1
            await asyncio.sleep(pause_seconds * random.uniform(0.5, 1))  # noqa: S311 - spreads retries

    async def _look_through(self, epoch: int) -> None:
        """Read what others did. Raises `DownlinkError` and the client's errors."""
        start = self._start()
        try:
            looked = await self._read(start, epoch)
        except (InvalidOffsetError, RetentionGoneError):
            if start == START_OFFSET:
                raise
            looked = await self._read(START_OFFSET, epoch)  # trimmed to behind it, or made anew
        if looked is None:
            looked = await self._read(START_OFFSET, epoch)  # it went back
        assert looked is not None, "the beginning lies behind no end"

    def _start(self) -> str:
        looked, anchor = self._heir.book.looked, self._anchor
        if looked is None or looked.url != self._options.receipts_url:
            return START_OFFSET
        self._anchor = None
        # Under the epoch of the last look, what came before the anchor is that, or this journal's own.
        return anchor[1] if anchor is not None and anchor[0] == looked.epoch else looked.offset

    async def _read(self, start: str, epoch: int) -> Looked | None:
        """Read from an offset to the end; None if the stream ends before it."""
        heir, book = self._heir, self._heir.book
        if start != START_OFFSET and (await self._stream.head()).offset < start:
            return None
        now_ns = heir.now().wall_ns
        is_whole = start == START_OFFSET
        others = Others(
            install=self._around.install,
            accepted=self._around.journal.accepted(self._options.receipts),
            lives=book.lives,
            since_ns=now_ns - _KEEP_NS if is_whole else 0,
        )
        ended: dict[str, Status] = {}
        offset = start
        async with self._stream.stream(offset=start, live=False) as response:
            async for page in response.iter_events("bytes"):
                rows: Rows = {}
                for place, record in enumerate(records(page.data)):
                    if place % _YIELD_EVERY == 0:
                        await asyncio.sleep(0)
                    told = others.take(record)
                    if told is not None:
                        # From where we left off everything is news, whatever the other one's clock says.
                        time_ns = min(told.time_ns, now_ns) if is_whole else now_ns
                        rows |= book.told_by_another(
                            told.command_id, Done(told.status, told.number, time_ns), is_final=told.is_final
                        )
                        self._keep(told, ended)
                if rows:
                    await heir.write(Write(rows))
                offset = page.next_offset
        if not others.is_ours_now:
            raise DownlinkError(
                f"the claim of {self._options.receipts} is not the last one there: another gateway with this "
                "gateway.id has claimed it since, or a cache answers"
            )
        if self._around.claimed() != epoch:
            raise DownlinkError(f"{self._options.receipts} is claimed anew")
        looked = Looked(self._options.receipts_url, offset, epoch)
        await heir.write(Write(book.look_through(looked)))
        self._epoch = epoch
        heir.inherit(ended, was_there=others.was_there)
        event(_log, "info", "downlink.claimed", epoch=epoch, offset=offset, others=others.was_there)
        return looked

    def _keep(self, told: Told, ended: dict[str, Status]) -> None:
        """Remember what became of a command that is open here; there are not many of those."""
        if told.is_final and self._heir.book.is_open(told.command_id):
            ended[told.command_id] = told.status
