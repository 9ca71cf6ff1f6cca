"""A durable producer: drains a `ProducerStore` into one stream, exactly once and in order.

Nothing is decided here: the machine of `_pull` gives commands, they are executed, their outcome is fed back. That
the process may be killed between any two lines is the point; what must survive is in the store before the next
command starts.
"""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio

from durable_streams import _http, _pull
from durable_streams._http_async import AsyncCarrier
from durable_streams._producer import Attempt, producer_request
from durable_streams._retry import Backoff, RandomSource, retry_after_seconds
from durable_streams._wire import STREAM_NEXT_OFFSET, Answer, Failure, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    from durable_streams._store import ProducerStore
    from durable_streams._types import HeadersLike, ParamsLike

ANSWER_SECONDS: Final = 30.0
SLOWEST_BYTES_PER_SECOND: Final = 4096
"""A link that is slower than this is taken for a broken one."""
MAX_REPLY_BYTES: Final = 64 * 1024
MAX_PAGE_BYTES: Final = 32 * 1024 * 1024
PAGE_SECONDS: Final = 600.0
DEFAULT_BACKOFF: Final = Backoff(first_seconds=0.2, max_seconds=30.0)


async def _nothing_to_renew() -> None:
    """The credentials are whatever the headers say; there is nothing to read again."""


class StoreProducer:
    """Drains one store into one stream, until it must stop or is cancelled.

    ``client`` is used for every request and never closed. ``slots`` is entered around every request, so that many
    producers can share a few. ``observe`` is told every state with its next command. ``renew_credentials`` is
    awaited when the server refused the present ones.
    """

    def __init__(
        self,
        url: str,
        store: ProducerStore,
        *,
        client: httpx.AsyncClient,
        headers: HeadersLike | None = None,
        params: ParamsLike | None = None,
        policy: _pull.Policy | None = None,
        max_batch_bytes: int = 512 * 1024,
        backoff: Backoff = DEFAULT_BACKOFF,
        random_source: RandomSource | None = None,
        slots: AbstractAsyncContextManager[object] | None = None,
        observe: Callable[[_pull.Pull, _pull.Command], None] | None = None,
        renew_credentials: Callable[[], Awaitable[None]] = _nothing_to_renew,
    ) -> None:
        self._url = url
        self._store = store
        self._carrier = AsyncCarrier(client, _http.Extras(headers, params))
        self._policy = policy or _pull.Policy()
        self._max_batch_bytes = max_batch_bytes
        self._backoff = backoff
        self._random = random_source or random.SystemRandom()
        self._slots = slots or nullcontext()
        self._observe = observe or (lambda _state, _command: None)
        self._renew_credentials = renew_credentials

    async def _exchange(self, request: Request) -> Answer:
        size = len(request.body or b"")
        reading = request.method == "GET"
        patient = replace(
            request,
            # A gateway reads what others may have filled: no decompression bombs, and never a cached tail.
            headers={**request.headers, "accept-encoding": "identity", "cache-control": "no-cache"},
            timeout_seconds=ANSWER_SECONDS + size / SLOWEST_BYTES_PER_SECOND,
        )
        async with self._slots:
            return await self._carrier.exchange_bounded(
                patient,
                max_reply_bytes=MAX_PAGE_BYTES if reading else MAX_REPLY_BYTES,
                seconds=PAGE_SECONDS if reading else 2 * (ANSWER_SECONDS + size / SLOWEST_BYTES_PER_SECOND),
            )

    async def run(self) -> _pull.Halt:
        """Work until the stream must stop; return why. Cancelling is safe at every point."""
        state, command = _pull.start(await self._store.load(), self._policy)
        while True:
            self._observe(state, command)
            if isinstance(command, _pull.Halt):
                return command
            event = await self._execute(state, command)
            state, command = _pull.react(state, event)

    async def _execute(self, state: _pull.Pull, command: _pull.Command) -> _pull.Event:
        store = self._store
        match command:
            case _pull.Head():
                return _pull.Answered(await self._exchange(Request("HEAD", self._url)))
            case _pull.Put():
                headers = {"content-type": state.stored.content_type}
                return _pull.Answered(await self._exchange(Request("PUT", self._url, headers=headers)))
            case _pull.PostClaim(attempt):
                return await self._post(state, attempt, store.claim_body(attempt.epoch))
            case _pull.PostProbe(attempt):
                return await self._post(state, attempt, store.probe_body())
            case _pull.PostBatch(attempt, batch):
                return await self._post(state, attempt, batch.body)
            case _pull.ReadBack():
                return await self._read_back(command)
            case _pull.NextBatch():
                return _pull.Sealed(await store.next_batch(self._max_batch_bytes))
            case _pull.SaveAnchor(offset):
                await store.save_anchor(offset)
            case _pull.SaveEpoch(epoch):
                await store.save_epoch(epoch)
            case _pull.SaveClaim(epoch):
                await store.save_claim(epoch)
            case _pull.Resolve(batch, offset):
                await store.resolve(batch, offset)
            case _pull.Wait():
                await self._wait(command)
            case _pull.Halt():  # pragma: no cover - `run` returns before
                raise _pull.IllegalEventError("a stopped producer executes nothing")
        return _pull.Done()

    async def _post(self, state: _pull.Pull, attempt: Attempt, body: bytes) -> _pull.Answered:
        stored = state.stored
        request = producer_request(self._url, stored.producer_id, attempt, body, content_type=stored.content_type)
        return _pull.Answered(await self._exchange(request))

    async def _read_back(self, command: _pull.ReadBack) -> _pull.Event:
        finder = self._store.finder(command.batch)
        offset = command.anchor
        while offset < command.tail:
            answer = await self._exchange(Request("GET", self._url, params=(("offset", offset),)))
            if isinstance(answer, Failure) or answer.status != 200:
                return _pull.Answered(answer)
            if len(answer.body) >= MAX_PAGE_BYTES:
                return _pull.Answered(Failure(f"a read from {offset} has more than {MAX_PAGE_BYTES} bytes"))
            end = answer.headers.get(STREAM_NEXT_OFFSET, "")
            if end <= offset:
                # A page that does not advance would be read for ever.
                return _pull.Answered(Failure(f"a read from {offset} ended at {end!r}"))
            try:
                finder.feed(answer.body)
            except ValueError as error:
                return _pull.Answered(Failure(f"a read from {offset} is not a JSON array: {error}"))
            offset = end
        return _pull.Found(finder.verdict(), offset)

    async def _wait(self, command: _pull.Wait) -> None:
        if command.renew_credentials:
            await self._renew_credentials()
        seconds = self._backoff.delay(command.failures, self._random)
        if isinstance(command.reply, Reply):
            asked = retry_after_seconds(command.reply.headers, datetime.now(UTC))
            seconds = max(seconds, asked or 0.0)
        await anyio.sleep(seconds)
