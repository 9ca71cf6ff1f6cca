"""A durable producer: drains a `ProducerStore` into one stream, exactly once and in order.

What is done, and in which order, is the flow of `_drain`. Here its effects are performed on an event loop.
"""

from __future__ import annotations

import random
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import anyio

from durable_streams import _http, _pull
from durable_streams._drain import Ask, BeginSurvey, Confirm, Drain, Effect, Load, Pause, Repairing, Seal
from durable_streams._exchange import RetryPolicy
from durable_streams._http_async import AsyncCarrier
from durable_streams._retry import Backoff, RandomSource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    from durable_streams._store import ProducerStore, RepairStore
    from durable_streams._types import HeadersLike, ParamsLike

DEFAULT_BACKOFF: Final = Backoff(first_seconds=0.2, max_seconds=30.0)


async def _nothing_to_renew() -> None:
    """The credentials are whatever the headers say; there is nothing to read again."""


async def _nothing_to_ask() -> bool:
    """Nothing else of this server is known."""
    return False


class StoreProducer:
    """Drains one store into one stream, until it must stop or is cancelled.

    ``client`` is used for every request and never closed. ``slots`` is entered around every request, so that many
    producers can share a few. ``observe`` is told every state with its next command. ``renew_credentials`` is
    awaited when the server refused the present ones. ``missing_after`` so many answers 404 in a row the stream is
    taken for gone; by default a 404 must be proved to be a stream server's. ``confirm_path`` says whether the
    server answers something else as it should: only then refusals count that anybody could have made.

    ``policy.recover``, ``fence_on_start``, ``claim`` and ``bisect`` need a `RepairStore`.
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
        confirm_path: Callable[[], Awaitable[bool]] = _nothing_to_ask,
        missing_after: int | None = None,
    ) -> None:
        self._store = store
        self._confirm_path = confirm_path
        self._drain = Drain(
            url=url,
            store=store,
            policy=policy or _pull.Policy(),
            max_batch_bytes=max_batch_bytes,
            retry=RetryPolicy(
                random=random_source or random.SystemRandom(),
                utc_now=lambda: datetime.now(UTC),
                monotonic=time.monotonic,
                backoff=backoff,
            ),
            observe=observe or (lambda _state, _command: None),
            missing_after=missing_after,
        )
        self._carrier = AsyncCarrier(client, _http.Extras(headers, params))
        self._slots = slots or nullcontext()
        self._renew_credentials = renew_credentials

    async def run(self) -> _pull.Halt:
        """Work until the stream must stop; return why. Cancelling is safe at every point."""
        flow = self._drain.flow()
        outcome = None
        try:
            while True:
                try:
                    effect = flow.send(outcome)
                except StopIteration as done:
                    halt: _pull.Halt = done.value
                    return halt
                outcome = await self._perform(effect)
        finally:
            flow.close()

    async def _perform(self, effect: Effect) -> Any:
        store = self._store
        match effect:
            case Ask(request, max_reply_bytes, seconds):
                async with self._slots:
                    return await self._carrier.exchange_bounded(
                        request, max_reply_bytes=max_reply_bytes, seconds=seconds
                    )
            case Pause(seconds, renew_credentials):
                if renew_credentials:
                    await self._renew_credentials()
                return await anyio.sleep(seconds)
            case Load():
                return await store.load()
            case Seal(max_bytes):
                return await store.next_batch(max_bytes)
            case _pull.Resolve(batch, offset):
                return await store.resolve(batch, offset)
            case _pull.SaveAnchor(offset):
                return await store.save_anchor(offset)
            case _pull.SaveEpoch(epoch):
                return await store.save_epoch(epoch)
            case _pull.SaveClaim(epoch):
                return await store.save_claim(epoch)
            case Confirm():
                return await self._confirm_path()
            case _:
                return await self._repair(effect)

    async def _repair(self, effect: Repairing) -> Any:
        store = cast("RepairStore", self._store)  # as the policy says
        match effect:
            case _pull.BeginRepair(epoch):
                return await store.begin_repair(epoch)
            case BeginSurvey():
                return await store.begin_survey()
            case _pull.SaveRepair(survey, end, adopt):
                return await store.save_repair(survey, end, adopt=adopt)
            case _pull.Reseal(max_records):
                return await store.reseal(max_records)
            case _pull.SetAside(reason):
                return await store.set_aside(reason)
