"""A day without a server, brokers and a port, then with a bad network: the log stays small."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from random import Random
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ds_gateway import logs
from ds_gateway.config.models import BatchSettings, ExactlyOnceSettings
from ds_gateway.config.server import ServerSettings
from ds_gateway.logs import EventHandler, JsonFormatter, event
from ds_gateway.uplink import Uplinks
from durable_streams import Backoff
from harness.memory_store import MemoryDisk, MemoryStore
from harness.virtual_time import VirtualLoop, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAY = 86400.0
STREAMS = 100
"""Of which one is looked at: what is logged of each is the same."""
MAX_BYTES = 1_000_000


@pytest.fixture
def loop() -> VirtualLoop:
    return VirtualLoop()


@pytest.fixture
def written(loop: VirtualLoop) -> Iterator[io.StringIO]:
    """All that is logged from now on, as a service does it, with the loop's time."""
    stream = io.StringIO()
    handler = EventHandler(stream, monotonic=loop.time)
    handler.setFormatter(JsonFormatter())
    ours = logging.getLogger(logs.ROOT)
    before = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False  # pytest would keep each of them
    yield stream
    ours.propagate = True
    ours.removeHandler(handler)
    ours.setLevel(before)
    handler.close()


class Unsent(MemoryStore):
    """What nobody takes."""

    async def mark_for_repair(self) -> None:
        raise AssertionError("nothing is repaired here")


class Uplink:
    """The uplink of a stream, whose server is as ``answer`` says."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        self._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        settings = ServerSettings(url="http://streams.test/v1")
        self._uplinks = Uplinks(settings, BatchSettings(), ExactlyOnceSettings(), self._client, gateway="g")

    async def live(self, seconds: float) -> None:
        store: Any = Unsent(MemoryDisk())
        await store.append(1)
        self._uplinks.add(1, "telemetry/line-7/press-shop", "http://streams.test/v1", store)
        await asyncio.sleep(seconds)
        await self._uplinks.close()


async def source(name: str, reason: str, seconds: float, log: logging.Logger, kind: str) -> None:
    """What a source logs that tries again for ever, as often as an MQTT source does."""
    backoff, random = Backoff(first_seconds=0.5, max_seconds=30.0), Random(name)
    loop = asyncio.get_running_loop()
    end, attempt = loop.time() + seconds, 0
    while loop.time() < end:
        event(log, "warning", kind, source=name, reason=reason)
        await asyncio.sleep(backoff.delay(attempt, random))
        attempt += 1


async def day(uplink: Uplink) -> None:
    mqtt, serial = logs.logger("mqtt"), logs.logger("serial")
    async with asyncio.TaskGroup() as group:
        group.create_task(uplink.live(DAY))
        for number in range(4):
            reason = f"no connection to broker-{number}.local:8883: no route to host"
            group.create_task(source(f"hall-{number}", reason, DAY, mqtt, "mqtt.disconnected"))
        reason = "/dev/serial/by-id/usb-FTDI_1234-if00-port0: no such file; plug it in"
        group.create_task(source("scale", reason, DAY, serial, "serial.port.waiting"))


def away(_request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("All connection attempts failed")


class Bad:
    """Now away, now slow, now a portal, now a proxy's error, now well for a moment."""

    def __init__(self) -> None:
        self._random = Random(1)
        self.requests = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        match self._random.randrange(5):
            case 0:
                raise httpx.ReadTimeout("")
            case 1:
                return httpx.Response(302, headers={"location": f"http://portal.test/{self.requests}"})
            case 2:
                return httpx.Response(502, text="<html>bad gateway</html>")
            case 3:
                return httpx.Response(401, headers={"stream-next-offset": "0"})
            case _:
                return away(request)


def test_of_half_a_day_without_all_of_them_and_half_a_day_with_a_bad_network_the_log_is_small(
    loop: VirtualLoop, written: io.StringIO
) -> None:
    bad, begin = Bad(), loop.time()

    def answer(request: httpx.Request) -> httpx.Response:
        return away(request) if loop.time() < begin + DAY / 2 else bad(request)

    run(day(Uplink(answer)), loop)
    assert loop.time() >= begin + DAY
    assert bad.requests > 1000
    told = sizes(written)
    assert {"uplink.waiting", "mqtt.disconnected", "serial.port.waiting"} <= told.keys()
    of_a_stream = sum(size for name, size in told.items() if name.startswith("uplink."))
    assert len(written.getvalue()) + (STREAMS - 1) * of_a_stream < MAX_BYTES, told


def sizes(written: io.StringIO) -> dict[str, int]:
    """How many bytes of each event."""
    found: dict[str, int] = {}
    for line in written.getvalue().splitlines():
        name = json.loads(line)["event"]
        found[name] = found.get(name, 0) + len(line)
    return found
