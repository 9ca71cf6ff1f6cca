"""The published client's process, in an environment of its own. Only what its documentation shows is called.

The published version has no idempotent producer yet; what it offers for many messages is a handle that batches the
appends that wait while a request is under way.
"""

from __future__ import annotations

import asyncio
from typing import Any

from clients import both
from clients.messages import value
from clients.worker import Stopwatch, serve
from durable_streams import AsyncDurableStream


def write(url: str, messages: int) -> dict[str, Any]:
    """All appends at once."""

    async def run() -> dict[str, Any]:
        data = [value(number) for number in range(messages)]
        handle = await AsyncDurableStream.create(url, content_type="application/json")
        with Stopwatch() as watch:
            await asyncio.gather(*(handle.append(each) for each in data))
        return watch.result()

    return asyncio.run(run())


def write_yielding(url: str, messages: int) -> dict[str, Any]:
    """The event loop gets its turn after every append."""

    async def run() -> dict[str, Any]:
        data = [value(number) for number in range(messages)]
        handle = await AsyncDurableStream.create(url, content_type="application/json")
        with Stopwatch() as watch:
            async with asyncio.TaskGroup() as group:
                for each in data:
                    group.create_task(handle.append(each))
                    await asyncio.sleep(0)
        return watch.result()

    return asyncio.run(run())


if __name__ == "__main__":
    serve({**both.TASKS, **{each.__name__: each for each in (write, write_yielding)}})
