"""Finds out what became of batches that were sent and not answered, and sends nothing else."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from ds_gateway.errors import JournalError
from ds_gateway.mapping import stream_path
from ds_gateway.uplink import decisions
from ds_gateway.uplink.client import request_headers
from durable_streams import DurableStreamError, StoreProducer

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

    from ds_gateway.config.models import Settings
    from ds_gateway.uplink.stream import StreamStore


async def settle(
    settings: Settings, client: httpx.AsyncClient, stores: Mapping[str, StreamStore], timeout_seconds: float
) -> None:
    """Settle streams by their names, at the same time. What the server does not say in time stays as it was."""
    policy = decisions.settling(decisions.usual(settings.server, settings.exactly_once))

    async def one(name: str, store: StreamStore) -> None:
        producer = StoreProducer(
            f"{settings.server.base_url}/{stream_path(name)}",
            store,
            client=client,
            headers=request_headers(settings.server),
            policy=policy,
            max_batch_bytes=settings.batch.max_bytes,
        )
        with suppress(TimeoutError, DurableStreamError, JournalError):
            async with asyncio.timeout(timeout_seconds):
                await producer.run()

    await asyncio.gather(*(one(name, store) for name, store in stores.items()))
