"""What our client and the published one do with the same calls: the documented reads and appends.

Run in each one's own environment. Nothing but the standard library and the documented API of ``durable_streams``.
"""

from __future__ import annotations

import asyncio
import platform
import time
from importlib.metadata import version
from typing import Any, Literal

import httpx

from clients.memory import PeakMemory
from clients.messages import value
from clients.worker import Stopwatch, tell
from durable_streams import AsyncDurableStream, DurableStream, astream, stream


def versions() -> dict[str, Any]:
    """What is measured."""
    return {"python": platform.python_version(), "httpx": version("httpx")}


def catch_up_read(url: str, messages: int) -> dict[str, Any]:
    """`read_json`, sync."""
    with Stopwatch() as watch:
        with stream(url, live=False) as response:
            read = len(response.read_json())
    assert read == messages, f"{read} messages"
    return watch.result()


def catch_up_iterate(url: str, messages: int) -> dict[str, Any]:
    """`iter_json`, sync."""
    read = 0
    with Stopwatch() as watch:
        with stream(url, live=False) as response:
            for _ in response.iter_json():
                read += 1
    assert read == messages, f"{read} messages"
    return watch.result()


def catch_up_read_async(url: str, messages: int) -> dict[str, Any]:
    """`read_json`, async."""

    async def run() -> int:
        async with astream(url, live=False) as response:
            return len(await response.read_json())

    with Stopwatch() as watch:
        read = asyncio.run(run())
    assert read == messages, f"{read} messages"
    return watch.result()


def catch_up_iterate_async(url: str, messages: int) -> dict[str, Any]:
    """`iter_json`, async."""

    async def run() -> int:
        read = 0
        async with astream(url, live=False) as response:
            async for _ in response.iter_json():
                read += 1
        return read

    with Stopwatch() as watch:
        read = asyncio.run(run())
    assert read == messages, f"{read} messages"
    return watch.result()


def memory(url: str, messages: int, small_url: str) -> dict[str, Any]:
    """`iter_json`, sync, after a small read that loads and caches what every read needs."""
    catch_up_iterate(small_url, 1)
    read = 0
    with PeakMemory() as peak:
        with stream(url, live=False) as response:
            for _ in response.iter_json():
                read += 1
    assert read == messages, f"{read} messages"
    return peak.result()


def memory_async(url: str, messages: int, small_url: str) -> dict[str, Any]:
    """`iter_json`, async."""

    async def run(url: str) -> int:
        read = 0
        async with astream(url, live=False) as response:
            async for _ in response.iter_json():
                read += 1
        return read

    asyncio.run(run(small_url))
    with PeakMemory() as peak:
        read = asyncio.run(run(url))
    assert read == messages, f"{read} messages"
    return peak.result()


def live(url: str, samples: int, mode: Literal["long-poll", "sse"]) -> dict[str, Any]:
    """`iter_json` of a live read, sync. There is one message to begin with, so that the read begins at once."""
    with stream(url, offset="-1", live=mode) as response:
        for message in response.iter_json():
            tell(latency_ns=time.monotonic_ns() - message["sent"])
            samples -= 1
            if not samples:
                break
    return {}


def live_async(url: str, samples: int, mode: Literal["long-poll", "sse"]) -> dict[str, Any]:
    """`iter_json` of a live read, async."""

    async def run() -> None:
        left = samples
        async with astream(url, offset="-1", live=mode) as response:
            async for message in response.iter_json():
                tell(latency_ns=time.monotonic_ns() - message["sent"])
                left -= 1
                if not left:
                    break

    asyncio.run(run())
    return {}


def append(url: str, messages: int) -> dict[str, Any]:
    """`append` of a handle, sync: one request after the other."""
    values = [value(number) for number in range(messages)]
    with httpx.Client() as client:
        handle = DurableStream(url, content_type="application/json", client=client)
        with Stopwatch() as watch:
            for each in values:
                handle.append(each)
    return watch.result()


def append_async(url: str, messages: int) -> dict[str, Any]:
    """`append` of a handle, async: one request after the other."""
    values = [value(number) for number in range(messages)]

    async def run() -> dict[str, Any]:
        async with httpx.AsyncClient() as client:
            handle = AsyncDurableStream(url, content_type="application/json", client=client)
            with Stopwatch() as watch:
                for each in values:
                    await handle.append(each)
        return watch.result()

    return asyncio.run(run())


TASKS = {
    each.__name__: each
    for each in (
        versions,
        catch_up_read,
        catch_up_iterate,
        catch_up_read_async,
        catch_up_iterate_async,
        memory,
        memory_async,
        live,
        live_async,
        append,
        append_async,
    )
}
