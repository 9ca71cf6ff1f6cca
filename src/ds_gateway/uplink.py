"""From the journal to the streams: one durable producer for each stream, all over one HTTP client.

What an answer means and what comes next is decided in `durable_streams`; here is what the gateway adds: which
stream goes where, with which credentials, and what an operator is told about it.

| state    | means                                                                                     |
|----------|-------------------------------------------------------------------------------------------|
| starting | looking for the stream, claiming it, or asking the server what it remembers               |
| idle     | everything accepted is in the stream                                                      |
| sending  | a batch is on its way                                                                     |
| waiting  | the server or the way to it is in trouble; tried again for ever                           |
| repairing | the server forgot or lost something: everything kept is read back, what is missing is sent  |
| halted   | only this stream stopped: sending on could lose or repeat records. Its records are kept   |
| skipping | an operator skips records: they are being set aside, into files                          |
| settling | an operator moves it: what became of its last batch is being found out at the old server  |
| parked   | the stream itself has ended (closed, deleted)                                             |
"""

from __future__ import annotations

import asyncio
import shlex
import ssl
import time
from dataclasses import dataclass, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpx

from ds_gateway.errors import JournalDamagedError, UplinkError
from ds_gateway.logs import event, logger
from ds_gateway.mapping import stream_path
from ds_gateway.records import ledger_stream
from durable_streams import (
    AsyncDurableStream,
    BeginRepair,
    Command,
    DurableStreamError,
    Halt,
    Policy,
    PostBatch,
    Pull,
    RepairStore,
    Resolve,
    SaveRepair,
    SetAside,
    Stage,
    Stop,
    StoreProducer,
    Wait,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from ds_gateway.config.models import BatchSettings, ExactlyOnceSettings, ServerSettings

_log = logger("uplink")

CONNECT_TIMEOUT_SECONDS: Final = 10.0
ANSWER_TIMEOUT_SECONDS: Final = 30.0
DEFECT_PAUSE_SECONDS: Final = 30.0
LOOK_AGAIN_SECONDS: Final = 3600.0
"""How often a stream that has nothing to send is looked at: its server may have been restored from a copy."""
CONFIRMING_STREAMS: Final = 3
"""Streams that are asked for before a refusal counts which anybody on the way could have made."""


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
    """Why it is halted or parked, as one word (`durable_streams.Stop`)."""


def http_client(settings: ServerSettings, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """Return the client for all streams of one server. Raises `UplinkError` for certificates that cannot be used.

    ``transport`` leads to the embedded server. The environment's proxy variables do not count: what the gateway
    does is in its configuration.
    """
    timeout = httpx.Timeout(ANSWER_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
    if transport is not None:
        return httpx.AsyncClient(transport=transport, trust_env=False, timeout=timeout)
    try:
        context = ssl.create_default_context(cafile=settings.tls.ca)
        if settings.tls.cert is not None:
            context.load_cert_chain(settings.tls.cert, settings.tls.key)
    except (OSError, ssl.SSLError) as error:
        raise UplinkError(f"server.tls: the certificates cannot be used: {error}") from error
    return httpx.AsyncClient(
        verify=context,
        proxy=settings.proxy,
        trust_env=False,
        # Kept cookies would be sent back, and a proxy that sets a new one each time fills the request's headers.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=timeout,
    )


def request_headers(settings: ServerSettings) -> Mapping[str, Callable[[], str]]:
    """Return the headers of every request, read again for each: a credential's file may change."""
    headers: dict[str, Callable[[], str]] = {
        name: (lambda secret=secret: secret.get_secret_value())  # type: ignore[misc]
        for name, secret in settings.headers.items()
    }
    token = settings.token
    if token is not None:
        headers["authorization"] = lambda: f"Bearer {token.get_secret_value()}"
    return headers


class Uplink:
    """One stream: runs its producer, and keeps what an operator wants to know."""

    def __init__(self, name: str, url: str, on_stopped: Callable[[str], None] = lambda _reason: None) -> None:
        self.name = name
        self.url = url
        self.on_stopped = on_stopped
        """Told why the stream stopped; told nothing (empty) when it goes on."""
        self.state = "starting"
        self.reason = ""
        self.last_error = ""
        self.last_ok_time: float | None = None
        self.failures = 0
        self.epoch = 0
        self.why = ""

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
                    self.stop("halted", f"{error}; ds-gateway resolve shows what can be done")
                    return
                event(_log, "error", "uplink.batch.damaged", stream=self.name, error=str(error))
                await mark_for_repair()
                continue
            except Exception as error:  # noqa: BLE001 - supervision boundary: a defect here must not stop the others
                # Starting over is safe: whatever the producer believed is read from the journal again.
                self.state, self.last_error = "waiting", f"defect: {error!r}"
                event(_log, "error", "uplink.defect", stream=self.name, error=repr(error), exc=error)
                await asyncio.sleep(DEFECT_PAUSE_SECONDS)
                continue
            self.stop("parked" if halt.stop.parked else "halted", halt.reason, halt.stop)
            return

    def stop(self, state: str, reason: str, stop: Stop | None = None) -> None:
        """Say that the stream's uplink has stopped, and why."""
        self.why = "" if stop is None else stop.value
        self.state, self.reason, self.last_error = state, reason, reason
        event(_log, "error", f"uplink.stream.{state}", stream=self.name, reason=reason)
        self.on_stopped(f"{state}: {reason}")

    def observe(self, state: Pull, command: Command) -> None:
        """Follow the producer."""
        self.epoch = state.stored.epoch
        self.failures = state.failures
        if state.trouble:
            self.last_error = state.trouble
        match command:
            case Halt():
                pass  # told when the run ends
            case Wait(failures=failures):
                if failures == 0:
                    event(_log, "warning", "uplink.waiting", stream=self.name, reason=state.trouble)
                self.state, self.reason = "waiting", state.trouble
            case Resolve(batch=batch):
                if self.failures or self.state == "waiting":
                    event(_log, "info", "uplink.recovered", stream=self.name)
                self.last_ok_time = time.time()
                self.state, self.reason = "idle", ""
                event(_log, "debug", "uplink.batch.acked", stream=self.name, seq=batch.seq, records=batch.count)
            case BeginRepair(why=why):
                event(_log, "warning", "uplink.repair", stream=self.name, reason=why, epoch=state.stored.epoch)
                self.state, self.reason = "repairing", why
            case SaveRepair():
                event(_log, "info", "uplink.repaired", stream=self.name, epoch=state.stored.epoch)
                self.state, self.reason = "starting", ""
            case SetAside(reason=reason):
                event(_log, "error", "uplink.record.set_aside", stream=self.name, reason=reason)
            case _ if state.stored.repairing and not state.trouble:
                self.state = "repairing"
            case PostBatch() if not state.trouble:
                self.state, self.reason = "sending", ""
            case _ if not state.trouble:
                self.state = "idle" if state.stage is Stage.IDLE else "starting"
                self.reason = ""

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
            stop=self.why if self.state in {"halted", "parked"} else "",
        )


@dataclass(frozen=True, slots=True)
class Stranded:
    """A stream whose last batch is unresolved at a server that is not the configured one any more."""

    uplink: Uplink
    store: StreamStore
    url: str
    """What the journal calls that server."""


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
        look_again_seconds: float = LOOK_AGAIN_SECONDS,
    ) -> None:
        """``on_stopped`` is told why a stream stopped, and nothing (empty) when it goes on."""
        self._look_again_seconds = look_again_seconds
        self._looking: asyncio.Task[None] | None = None
        self._closed = False
        self._on_stopped = on_stopped
        self._server_url = server.url
        self._base_url = server.base_url
        self._headers = request_headers(server)
        self._policy = Policy(
            create=server.create,
            read_back=exactly_once.read_back,
            halt_if_used=True,
            recover=exactly_once.recover == "auto",
            fence_on_start=exactly_once.fence_on_start,
        )
        self._own_url = f"{self._base_url}/{stream_path(ledger_stream(gateway))}"
        self._stores: dict[int, StreamStore] = {}
        self._max_batch_bytes = batch.max_bytes
        self._client = client
        self._slots = asyncio.Semaphore(batch.parallel)
        self._uplinks: dict[int, Uplink] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stranded: dict[int, Stranded] = {}

    def add(self, number: int, name: str, url: str, store: StreamStore) -> None:
        """Begin to send a stream's records, if that is not going on yet.

        ``url`` says which server the stream's producer belongs to; with another one than the configured, a
        batch is unresolved there, and sending it here could store it twice.
        """
        if number in self._uplinks:
            return
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_again(), name="uplinks look again")
        self._stores[number] = store
        uplink = self._uplinks[number] = Uplink(
            name, f"{self._base_url}/{stream_path(name)}", lambda reason: self._on_stopped(number, reason)
        )
        if url != self._server_url:
            self._stranded[number] = Stranded(uplink, store, url)
            uplink.stop("halted", _why_stranded(name, url))
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
        policies = [self._policy] if policy is None else [self._policy, policy]

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
        decides = claim or bisect
        uplink = self._stopped(number) if decides else self._stopped(number, "idle", "waiting")
        event(_log, "info", "uplink.stream.resolved", stream=uplink.name, claim=claim, bisect=bisect)
        decided = replace(self._policy, claim=claim, bisect=bisect, recover=self._policy.recover or claim)
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
        # Nothing says that somebody else wrote meanwhile: no reason to fence anybody.
        policy = replace(self._policy, fence_on_start=False)
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

        Until it is known to be in the old stream it is sent there again, with the same number. Raises
        `UplinkError` when that cannot be had in time; nothing is changed then. A crash at any point leaves the
        stream as it was, or moved.
        """
        stranded = self._begin_to_move(number)
        uplink = stranded.uplink
        reason = uplink.reason
        uplink.state, uplink.reason, uplink.last_error = "settling", f"asking {old.url}", ""
        producer = StoreProducer(
            f"{old.base_url}/{stream_path(uplink.name)}",
            stranded.store,
            client=client,
            headers=request_headers(old),
            policy=replace(self._policy, create=False, settle=True),
            max_batch_bytes=self._max_batch_bytes,
            observe=uplink.observe_settling,
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                halt = await producer.run()
            if halt.stop is not Stop.SETTLED:
                raise UplinkError(f"{old.url} does not settle it: {halt.reason}")
            await self._move(number, stranded, give_up=False)
        except TimeoutError:
            seen = uplink.last_error or "no answer yet"
            raise UplinkError(f"{old.url} did not settle it within {timeout_seconds:g} s: {seen}") from None
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
            raise UplinkError("it is being moved already; ds-gateway status shows how far that is")
        return stranded

    async def _move(self, number: int, stranded: Stranded, *, give_up: bool) -> None:
        uplink = stranded.uplink
        if not await stranded.store.move(self._server_url, give_up=give_up):
            raise UplinkError("a batch is unresolved still; try again")
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

    def _stopped(self, number: int, *others: str) -> Uplink:
        """A stream that has stopped, or is in another of these states. Raises `UplinkError`."""
        uplink = self._uplinks[number]
        if number in self._stranded:
            raise UplinkError(uplink.reason)
        if uplink.state not in {"halted", "parked", *others}:
            raise UplinkError(f"it is {uplink.state}, not halted")
        return uplink

    async def skip(self, number: int, position: int | None) -> Skipped:
        """Set everything before a position aside, all of it without one, and go on. See `restart`.

        Nobody else decides about the stream meanwhile. Raises `UplinkError`, and `JournalError` for records that
        cannot be written into a file: it stands as it stood, then.
        """
        uplink = self._stopped(number)
        before = uplink.state, uplink.reason
        uplink.state, uplink.reason = "skipping", "an operator skips records: they are being set aside"
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
                await AsyncDurableStream(url, **access).head()
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


def _why_stranded(name: str, url: str) -> str:
    """Why a stream of another server than the configured one is not sent, and the ways out."""
    return (
        f"a batch is unresolved at {url}: nobody knows whether it arrived there. `ds-gateway resolve "
        f"{shlex.quote(name)} --retarget` finds out there, then goes on at the server that is configured now; "
        "or set server.url back"
    )
