"""The adapter's benchmark operations: what is timed is the call, not the line protocol."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

from conformance.fronts import following, settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from conformance.fronts import Front

Metrics = dict[str, Any]
_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz"


async def measure(front: Front, server: str, operation: Mapping[str, Any]) -> tuple[int, Metrics]:
    """Perform one operation; return its nanoseconds, and what there is to say about them."""
    benchmark = _BENCHMARKS[operation["op"]]
    url = f"{server}{operation['path']}"
    started = time.perf_counter_ns()
    metrics = await benchmark(front, url, operation)
    nanoseconds = time.perf_counter_ns() - started
    if "messagesProcessed" in metrics:
        metrics["opsPerSecond"] = metrics["messagesProcessed"] * 1e9 / nanoseconds
        metrics["bytesPerSecond"] = metrics["bytesTransferred"] * 1e9 / nanoseconds
    return nanoseconds, metrics


async def _append(front: Front, url: str, operation: Mapping[str, Any]) -> Metrics:
    await settle(front.handle(url, client=front.client).append(os.urandom(operation["size"])))
    return {"bytesTransferred": operation["size"]}


async def _read(front: Front, url: str, operation: Mapping[str, Any]) -> Metrics:
    offset = operation.get("offset") or "-1"
    response = await settle(front.stream(url, offset=offset, live=False, client=front.client))
    try:
        return {"bytesTransferred": len(await settle(response.read_bytes()))}
    finally:
        await settle(response.close())


async def _roundtrip(front: Front, url: str, operation: Mapping[str, Any]) -> Metrics:
    content_type = operation.get("contentType") or "application/octet-stream"
    handle = await settle(front.handle.create(url, content_type=content_type, client=front.client))
    start = await settle(handle.head())
    text = (_LETTERS * (operation["size"] // len(_LETTERS) + 1))[: operation["size"]].decode()
    await settle(handle.append(json.dumps(text) if "json" in content_type else text))
    live = operation.get("live", "long-poll")
    response = await settle(front.stream(url, offset=start.offset, live=live, client=front.client))
    try:
        events = response.iter_events("bytes")
        received = 0
        while received < len(text):
            received += len((await following(events)).data)
    finally:
        await settle(response.close())
    return {"bytesTransferred": 2 * len(text)}


async def _create(front: Front, url: str, operation: Mapping[str, Any]) -> Metrics:
    content_type = operation.get("contentType")
    await settle(front.handle.create(url, content_type=content_type, client=front.client))
    return {}


async def _throughput_append(front: Front, url: str, operation: Mapping[str, Any]) -> Metrics:
    count, size = operation["count"], operation["size"]
    # An identity of its own: a second run must not be taken for a repetition of the first.
    identity = f"benchmark-{time.time_ns()}"
    message = json.dumps("x" * max(size - 2, 0))
    producer = front.producer(url, identity, max_in_flight=operation["concurrency"], client=front.client)
    try:
        for _ in range(count):
            await settle(producer.append(message))
    finally:
        await settle(producer.close())
    return {"messagesProcessed": count, "bytesTransferred": count * len(message)}


async def _throughput_read(front: Front, url: str, _: Mapping[str, Any]) -> Metrics:
    response = await settle(front.stream(url, live=False, client=front.client))
    try:
        messages = await settle(response.read_json())
    finally:
        await settle(response.close())
    transferred = sum(len(json.dumps(message)) for message in messages)
    return {"messagesProcessed": len(messages), "bytesTransferred": transferred}


_BENCHMARKS: Final[dict[str, Callable[[Front, str, Mapping[str, Any]], Awaitable[Metrics]]]] = {
    "append": _append,
    "read": _read,
    "roundtrip": _roundtrip,
    "create": _create,
    "throughput_append": _throughput_append,
    "throughput_read": _throughput_read,
}
