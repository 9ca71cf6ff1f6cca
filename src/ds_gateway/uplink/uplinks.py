"""All streams' uplinks: which stream goes where, with which credentials, and what an operator decides about it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.errors import UplinkError
from ds_gateway.logs import event, logger
from ds_gateway.mapping import stream_path
from ds_gateway.records import ledger_stream
from ds_gateway.uplink import decisions
from ds_gateway.uplink.client import ANSWER_TIMEOUT_SECONDS, request_headers
from ds_gateway.uplink.stream import Stranded, Uplink
from durable_streams import AsyncDurableStream, DurableStreamError, Policy, StoreProducer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx

    from ds_gateway.config.models import BatchSettings, ExactlyOnceSettings
    from ds_gateway.config.server import ServerSettings
    from ds_gateway.uplink.stream import Skipped, StreamStore, UplinkSnapshot

_log = logger("uplink")

LOOK_AGAIN_SECONDS: Final = 3600.0
"""How often a stream that has nothing to send is looked at: its server may have been restored from a copy."""
CONFIRMING_STREAMS: Final = 3
"""Streams that are asked for before a refusal counts which anybody on the way could have made."""


class Uplinks:
    """All streams' uplinks. Used on the event loop."""

    def __init__(
        self,
        server: ServerSettings,
        batch: BatchSettings,
        exactly_once: ExactlyOnceSettings,
        client: httpx.AsyncClient,
        *,
        gateway: str,
        on_stopped: Callable[[int, str], None] = lambda _number, _reason: None,
        fenced: str = "",
        on_claim: Callable[[], None] = lambda: None,
        look_again_seconds: float = LOOK_AGAIN_SECONDS,
    ) -> None:
        """``on_stopped`` is told why a stream stopped, and nothing (empty) when it goes on.

        ``fenced`` is the name of a stream that is claimed at every start: who else has this identity is stopped.
        ``on_claim`` is told when its claim is confirmed, or is so no more (`claimed`).
        """
        self._on_claim = on_claim
        self._fenced = fenced
        self._look_again_seconds = look_again_seconds
        self._looking: asyncio.Task[None] | None = None
        self._closed = False
        self._on_stopped = on_stopped
        self._server_url = server.url
        self._base_url = server.base_url
        self._headers = request_headers(server)
        self._policy = decisions.usual(server, exactly_once)
        self._own_url = f"{self._base_url}/{stream_path(ledger_stream(gateway))}"
        self._stores: dict[int, StreamStore] = {}
        self._max_batch_bytes = batch.max_bytes
        self._client = client
        self._slots = asyncio.Semaphore(batch.parallel)
        self._uplinks: dict[int, Uplink] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stranded: dict[int, Stranded] = {}

    def add(self, number: int, name: str, url: str, store: StreamStore, *, stream: str = "") -> None:
        """Begin to send a stream's records, if that is not going on yet.

        ``stream``: its name at the server, where that is another one: what was imported has a title of its own.

        ``url`` says which server the stream's producer belongs to; with another one than the configured, a
        batch is unresolved there, and sending it here could store it twice.
        """
        if number in self._uplinks:
            return
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_again(), name="uplinks look again")
        self._stores[number] = store
        uplink = self._uplinks[number] = Uplink(
            name,
            f"{self._base_url}/{stream_path(stream or name)}",
            lambda reason: self._on_stopped(number, reason),
            self._on_claim if name == self._fenced else lambda: None,
            stream=stream,
        )
        if url != self._server_url:
            self._stranded[number] = Stranded(uplink, store, url)
            uplink.stop("halted", decisions.why_stranded(name, url), decisions.STRANDED)
            return
        self._start(number, uplink, store)

    def _start(
        self,
        number: int,
        uplink: Uplink,
        store: StreamStore,
        policy: Policy | None = None,
        *,
        by_operator: bool = False,
    ) -> None:
        uplink.on_stopped("")
        usual = decisions.fencing(self._policy) if uplink.name == self._fenced else self._policy
        if uplink.is_import:
            usual = decisions.importing(usual)
        policies = [usual] if policy is None else [usual, policy]

        def make_producer(uplink: Uplink) -> StoreProducer:
            # What an operator decided counts for one run, not for one after a defect.
            return self._producer(uplink, store, policies.pop() if len(policies) > 1 else policies[0])

        repair = store.mark_for_repair if self._policy.recover or by_operator else None
        self._tasks[number] = asyncio.create_task(uplink.run(make_producer, repair), name=f"uplink {uplink.name}")

    async def restart(self, number: int, *, claim: bool = False, bisect: bool = False) -> None:
        """Let a stream look again at everything, as an operator decided.

        ``claim``: this gateway is the one that goes on. ``bisect``: find the record that the server refuses, and
        set it aside. Raises `UplinkError` for a stream that has not stopped; without a decision one that has
        nothing to do, or waits, will do.
        """
        uplink = self._stopped(number, decides=claim or bisect)
        event(_log, "info", "uplink.stream.resolved", stream=uplink.name, claim=claim, bisect=bisect)
        decided = decisions.decided(self._policy, claim=claim, bisect=bisect)
        uplink.last_error = ""
        await self._begin_again(number, uplink, decided, by_operator=True)

    async def _begin_again(self, number: int, uplink: Uplink, policy: Policy, *, by_operator: bool) -> None:
        """End the stream's task, if it is at work still, and begin another one."""
        # Before anything is waited for: nobody else may begin meanwhile.
        uplink.state, uplink.reason = "starting", ""
        task = self._tasks.get(number)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self._closed:
            return
        self._start(number, uplink, self._stores[number], policy, by_operator=by_operator)

    async def _look_again(self) -> None:
        """Let the streams that have nothing to send ask from time to time what the server remembers of them."""
        policy = decisions.looking_again(self._policy)
        while True:
            await asyncio.sleep(self._look_again_seconds)
            for number, uplink in list(self._uplinks.items()):
                if uplink.state == "idle":
                    event(_log, "debug", "uplink.stream.looked_at", stream=uplink.name)
                    await self._begin_again(number, uplink, policy, by_operator=False)

    @property
    def stranded(self) -> Mapping[int, Stranded]:
        """The streams that wait for `settle` or `give_up`, by their numbers."""
        return dict(self._stranded)

    async def settle(
        self, number: int, old: ServerSettings, client: httpx.AsyncClient, *, timeout_seconds: float
    ) -> None:
        """Find out at the old server what became of the stream's last batch, then go on at the configured one.

        Until it is known to be in the old stream it is sent there again, with the same number. Nothing is created
        there, and nothing claimed, unless the old server forgot or lost something and `recover` is ``auto``: then
        a repair claims a higher epoch, and what is not found there is sent to the configured server. Raises
        `UplinkError` when that cannot be had in time; all records stay, and wait as before. A crash at any point
        leaves the stream so, or moved.
        """
        stranded = self._begin_to_move(number)
        uplink = stranded.uplink
        reason = uplink.reason
        uplink.state, uplink.reason, uplink.last_error = "settling", decisions.asking(old.url), ""
        producer = StoreProducer(
            f"{old.base_url}/{stream_path(uplink.stream)}",
            stranded.store,
            client=client,
            headers=request_headers(old),
            policy=decisions.settling(self._policy),
            max_batch_bytes=self._max_batch_bytes,
            observe=uplink.observe_settling,
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                halt = await producer.run()
            if (why := decisions.why_unsettled(halt, old.url)) is not None:
                raise UplinkError(why)
            await self._move(number, stranded, give_up=False)
        except TimeoutError:
            raise UplinkError(decisions.why_not_in_time(old.url, timeout_seconds, uplink.last_error)) from None
        finally:
            if number not in self._tasks:
                self._stranded[number] = stranded
                uplink.state, uplink.reason = "halted", reason

    async def give_up(self, number: int) -> None:
        """Send the stream's last batch to the configured server, whether it arrived at the old one or not."""
        stranded = self._begin_to_move(number)
        try:
            await self._move(number, stranded, give_up=True)
        finally:
            if number not in self._tasks:
                self._stranded[number] = stranded

    def _begin_to_move(self, number: int) -> Stranded:
        stranded = self._stranded.pop(number, None)
        if stranded is None:
            raise UplinkError(decisions.MOVED_ALREADY)
        return stranded

    async def _move(self, number: int, stranded: Stranded, *, give_up: bool) -> None:
        uplink = stranded.uplink
        if not await stranded.store.move(self._server_url, give_up=give_up):
            raise UplinkError(decisions.UNRESOLVED_STILL)
        event(
            _log,
            "info",
            "uplink.stream.moved",
            stream=uplink.name,
            old=stranded.url,
            new=self._server_url,
            given_up=give_up,
        )
        uplink.state, uplink.reason, uplink.last_error = "starting", "", ""
        self._start(number, uplink, stranded.store)

    def _stopped(self, number: int, *, decides: bool) -> Uplink:
        """A stream about which an operator may decide. Raises `UplinkError`."""
        uplink = self._uplinks[number]
        if number in self._stranded:
            raise UplinkError(uplink.reason)
        if (why := decisions.why_not(uplink.state, decides=decides)) is not None:
            raise UplinkError(why)
        return uplink

    async def skip(self, number: int, position: int | None) -> Skipped:
        """Set everything before a position aside, all of it without one, and go on. See `restart`.

        Nobody else decides about the stream meanwhile. Raises `UplinkError`, and `JournalError` for records that
        cannot be written into a file: it stands as it stood, then.
        """
        uplink = self._stopped(number, decides=True)
        before = uplink.state, uplink.reason
        uplink.state, uplink.reason = "skipping", decisions.SKIPPING
        try:
            skipped = await self._stores[number].skip_to(position)
        except BaseException:
            uplink.state, uplink.reason = before
            raise
        event(
            _log, "warning", "uplink.stream.skipped", stream=uplink.name, position=position, records=skipped.count
        )
        uplink.last_error = ""
        await self._begin_again(number, uplink, self._policy, by_operator=True)
        return skipped

    async def _confirm_path(self, asking: Uplink) -> bool:
        """Whether the server answers for another stream as it should, if need be for the gateway's own."""
        others = [
            each.url for each in self._uplinks.values() if each is not asking and each.last_ok_time is not None
        ]
        for url in others[:CONFIRMING_STREAMS]:
            if await self._answers(url, create=False):
                return True
        return asking.url != self._own_url and await self._answers(self._own_url, create=self._policy.create)

    async def _answers(self, url: str, *, create: bool) -> bool:
        access: dict[str, Any] = {"client": self._client, "headers": self._headers}
        try:
            async with self._slots, asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                if create:
                    await AsyncDurableStream.create(url, content_type="application/json", **access)
                stream = AsyncDurableStream(url, **access)
                await stream.head()
                # Whoever is on the way can treat reads in another way than looks, and a read may be what failed.
                async with stream.stream(offset="now", live=False) as nothing:
                    await nothing.read_bytes()
        except (DurableStreamError, TimeoutError) as error:
            event(_log, "debug", "uplink.path.unconfirmed", url=url, error=str(error))
            return False
        return True

    def _producer(self, uplink: Uplink, store: StreamStore, policy: Policy) -> StoreProducer:
        return StoreProducer(
            uplink.url,
            store,
            client=self._client,
            headers=self._headers,
            policy=policy,
            max_batch_bytes=self._max_batch_bytes,
            slots=self._slots,
            observe=uplink.observe,
            confirm_path=lambda: self._confirm_path(uplink),
        )

    def claimed(self, name: str) -> int | None:
        """The epoch under which nobody else writes a stream under this identity; None while that is not certain.

        Certain is it from the first claim since the start on, until the stream is repaired, or stops.
        """
        uplink = self._named(name)
        return None if uplink is None else uplink.claimed

    def why_not_claimed(self, name: str) -> str:
        """Why `claimed` is None; empty if it is not."""
        uplink = self._named(name)
        return f"{name} is not claimed yet" if uplink is None else uplink.why_not_claimed()

    def is_stopped(self, name: str) -> bool:
        """Whether a stream is halted or parked."""
        uplink = self._named(name)
        return uplink is not None and uplink.state in decisions.STANDING

    def _named(self, name: str) -> Uplink | None:
        return next((each for each in self._uplinks.values() if each.name == name), None)

    def is_sending(self, number: int) -> bool:
        """Whether a stream is making progress: neither in trouble nor stopped."""
        uplink = self._uplinks.get(number)
        return uplink is None or uplink.state in {"starting", "sending", "idle"}

    def snapshots(self) -> dict[int, UplinkSnapshot]:
        """Each stream's uplink by the stream's number."""
        return {number: uplink.snapshot() for number, uplink in self._uplinks.items()}

    async def close(self) -> None:
        """End all tasks. What was on its way is ambiguous, and looked up at the next start."""
        self._closed = True
        tasks = [*self._tasks.values(), *([] if self._looking is None else [self._looking])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()
