"""What ``ds-gateway check --live`` does: every source is heard for a while, the server is asked; nothing is sent.

Sources are heard beside one another, so that it takes as long as the slowest.
"""

from __future__ import annotations

import asyncio
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ds_gateway.audit.reading_back import is_served
from ds_gateway.cli.capture import counting, opened
from ds_gateway.cli.checked import Checked
from ds_gateway.cli.printing import count
from ds_gateway.cli.steps import Tally
from ds_gateway.config.server import STREAMS_FOLDER
from ds_gateway.errors import GatewayError
from ds_gateway.listening import GatewayListener
from ds_gateway.mapping import stream_path
from ds_gateway.mqtt.listening import BrokerListener
from ds_gateway.uplink import probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ds_gateway.config.models import Settings
    from ds_gateway.trying import Step

_MAX_SHOWN: Final = 3
"""Steps of each source that are shown and told: as much as one can read."""
_MAX_AT_ONCE: Final = 16
_TURN_SECONDS: Final = 0.2
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


def check_live(settings: Settings, config: Path | None, seconds: float) -> Iterator[Checked]:
    """Try everything; each result as soon as those before it are there."""
    names = [*settings.mqtt, *settings.serial]
    streams: list[str] = []
    with ThreadPoolExecutor(min(len(names), _MAX_AT_ONCE) or 1, "check") as pool:
        for checked in pool.map(partial(_source, settings, config, seconds), names):
            streams += checked.streams
            yield checked
    yield asyncio.run(_server(settings, next(iter(streams), None) or _some_stream(settings)))


def _source(settings: Settings, config: Path | None, seconds: float, name: str) -> Checked:
    is_broker = name in settings.mqtt
    kind: Literal["broker", "port"] = "broker" if is_broker else "port"
    at = settings.mqtt[name].url if is_broker else settings.serial[name].where
    tally = Tally()
    sample: list[Step] = []
    streams: list[str] = []
    trial = counting(settings, name)
    trouble, how, is_away = "", "", False
    problems: list[str] = []
    try:
        with opened(settings, name, None, config) as listener:
            if isinstance(listener, BrokerListener):
                problems = [
                    f"the broker refuses the filter {each}: {reason}; give this user the right to read it"
                    for each, reason in listener.refused.items()
                ]
            elif isinstance(listener, GatewayListener):
                how = "held by the running gateway, and heard through it; "
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                for chunk in listener.take(min(left, _TURN_SECONDS)):
                    for step in trial.feed(chunk):
                        tally.add(step)
                        streams += [each.stream for each in step.outcomes if each.stream]
                        if len(sample) < _MAX_SHOWN and not step.is_sent:
                            sample.append(step)
            trouble, is_away = listener.trouble, listener.is_away
    except GatewayError as error:
        return Checked(kind, name, at, is_ok=False, message=str(error), sample=sample)
    for step in trial.end():
        tally.add(step)
        streams += [each.stream for each in step.outcomes if each.stream]
        sample += [step] if len(sample) < _MAX_SHOWN else []
    is_ok, message = judge_sample(tally, seconds, is_broker=is_broker)
    problems += [trouble] if trouble else []
    if is_away and not tally.bytes:
        # It was never open, and whoever holds it has nothing to be heard.
        is_ok, how, message = False, "", trouble
    elif problems:
        is_ok, message = False, "; ".join([*problems, message])
    return Checked(kind, name, at, is_ok, how + message, sample, streams)


def judge_sample(tally: Tally, seconds: float, *, is_broker: bool) -> tuple[bool, str]:
    """Whether what was heard is well."""
    refused = tally.frames - tally.records - tally.unreported
    if refused and refused == tally.frames:
        return False, f"nothing of it can be read ({count(refused, 'payload')}): see decode, with ds-gateway try"
    if tally.frames:
        return True, str(tally)
    if tally.bytes:
        return False, (
            f"{count(tally.bytes, 'byte')} and no frame within {seconds:g} s: framing, baud rate or parity do not "
            "fit (docs/framing.md)"
        )
    if is_broker:
        return True, f"connected and subscribed; no message within {seconds:g} s"
    return (
        True,
        f"open; not a byte within {seconds:g} s: if the device speaks more often, see its cable, else --seconds",
    )


async def _server(settings: Settings, stream: str) -> Checked:
    server = settings.server
    if server.is_embedded and not is_served(Path(settings.data_dir) / STREAMS_FOLDER):
        return Checked("server", "embedded", server.base_url, is_ok=True, message="it starts with the gateway")
    try:
        is_ok, message = await probe(server, f"{server.base_url}/{stream_path(stream)}")
    except GatewayError as error:
        is_ok, message = False, str(error)
    return Checked("server", "embedded" if server.is_embedded else stream, server.base_url, is_ok, message)


def _some_stream(settings: Settings) -> str:
    """A stream that records may go to; where its name is captured, one that is never made."""
    templates = [each.stream or "" for name, port in settings.serial.items() for _, each in port.each_device(name)]
    templates += [device.stream for broker in settings.mqtt.values() for device in broker.devices]
    names = [each.replace("{gateway}", settings.gateway.id) for each in templates]
    return min((_PLACEHOLDER.sub("check", name) for name in names), default=f"telemetry/{settings.gateway.id}")
