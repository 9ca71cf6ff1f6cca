"""Our client's process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from clients import both
from clients.messages import text, value
from clients.worker import Stopwatch, serve
from durable_streams import AsyncDurableStream, IdempotentProducer, SyncIdempotentProducer

if TYPE_CHECKING:
    from collections.abc import Sequence

PRODUCER_ID = "ours"


def write(url: str, messages: int) -> dict[str, Any]:
    """A tight loop over JSON text: nothing is awaited until the end."""
    return asyncio.run(_write(url, [text(number) for number in range(messages)], yielding=False))


def write_values(url: str, messages: int) -> dict[str, Any]:
    """A tight loop over values."""
    return asyncio.run(_write(url, [value(number) for number in range(messages)], yielding=False))


def write_yielding(url: str, messages: int) -> dict[str, Any]:
    """The event loop gets its turn after every append, as in a service that has other things to do."""
    return asyncio.run(_write(url, [text(number) for number in range(messages)], yielding=True))


def write_awaiting(url: str, messages: int) -> dict[str, Any]:
    """Every append is awaited, which waits for room."""

    async def run() -> dict[str, Any]:
        data = [text(number) for number in range(messages)]
        handle = await AsyncDurableStream.connect(url)
        async with handle, IdempotentProducer(handle, PRODUCER_ID) as producer:
            with Stopwatch() as watch:
                for each in data:
                    await producer.append(each)
                await producer.flush()
        return watch.result()

    return asyncio.run(run())


async def _write(url: str, data: Sequence[Any], *, yielding: bool) -> dict[str, Any]:
    handle = await AsyncDurableStream.connect(url)
    async with handle, IdempotentProducer(handle, PRODUCER_ID) as producer:
        with Stopwatch() as watch:
            for each in data:
                producer.append(each)
                if yielding:
                    await asyncio.sleep(0)
            await producer.flush()
    return watch.result()


def write_sync(url: str, messages: int) -> dict[str, Any]:
    """A tight loop over JSON text, without async."""
    return _write_sync(url, [text(number) for number in range(messages)])


def write_sync_values(url: str, messages: int) -> dict[str, Any]:
    """A tight loop over values, without async."""
    return _write_sync(url, [value(number) for number in range(messages)])


def _write_sync(url: str, data: Sequence[Any]) -> dict[str, Any]:
    with SyncIdempotentProducer(url, PRODUCER_ID) as producer:
        with Stopwatch() as watch:
            for each in data:
                producer.append(each)
            producer.flush()
    return watch.result()


if __name__ == "__main__":
    own = (write, write_values, write_yielding, write_awaiting, write_sync, write_sync_values)
    serve({**both.TASKS, **{each.__name__: each for each in own}})
