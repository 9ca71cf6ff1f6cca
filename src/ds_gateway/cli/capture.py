"""``ds-gateway capture``: what comes from a port or a broker, into a file. Exit status 0, 1 or 2."""

from __future__ import annotations

import difflib
import logging
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 - read by typer
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ds_gateway.captures import CaptureWriter
from ds_gateway.cli.configuration import load_configuration
from ds_gateway.cli.options import ConfigOption  # noqa: TC001 - read by typer
from ds_gateway.cli.printing import count
from ds_gateway.config.loader import find_control_sockets
from ds_gateway.errors import GatewayError
from ds_gateway.listening import GatewayListener, PortListener, running_gateway
from ds_gateway.logs import ROOT
from ds_gateway.mapping import MappingError, MqttPipeline, topic_filter
from ds_gateway.mqtt.listening import BrokerListener
from ds_gateway.records import rfc3339
from ds_gateway.trying import MqttTrial, SerialTrial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ds_gateway.config.models import Settings
    from ds_gateway.listening import Listener
    from ds_gateway.trying import Trial

_TURN_SECONDS: Final = 0.2
_PROGRESS_SECONDS: Final = 0.5


def capture(  # noqa: PLR0917 - typer's options
    source: Annotated[str, typer.Argument(help="Name of a port or a broker, as the configuration has it.")],
    output: Annotated[Path, typer.Option("--output", help="File to write.", dir_okay=False)],
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="End after so many seconds; default: at Ctrl-C.", min=0.1)
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", help="End after so many frames or messages.", min=1)
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option("--topic", help="Topic filter for a broker; default: those of the configuration."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,  # noqa: FBT002
    config: ConfigOption = None,
) -> None:
    """Record what a port or a broker sends, to a file for ds-gateway try.

    A port that a running gateway holds is heard through it; a broker by a client of its own, without a session.
    """
    settings = load_configuration(config).settings
    _check(settings, source, topic)
    ended, has_all = "", False
    with opened(settings, source, topic, config) as listener:
        at = settings.serial[source].where if source in settings.serial else settings.mqtt[source].url
        with CaptureWriter(
            output,
            source=source,
            kind="serial" if source in settings.serial else "mqtt",
            at=at,
            started=rfc3339(time.time_ns()),
            replace=force,
        ) as writer:
            try:
                has_all = _record(listener, writer, counting(settings, source), seconds, frames)
            except KeyboardInterrupt:
                sys.stderr.write("\n")
            except GatewayError as error:
                ended = str(error)
            is_away = listener.is_away and not has_all
    sys.stdout.write(f"{count(writer.chunks, 'chunk')}, {count(writer.bytes, 'byte')} in {output}\n")
    if ended:
        sys.stderr.write(f"ds-gateway: {source}: {ended}\n")
    if ended or is_away:
        raise typer.Exit(1)


@contextmanager
def opened(settings: Settings, source: str, topic: str | None, config: Path | None) -> Iterator[Listener]:
    """What hears the source. Raises `GatewayError` that says why it cannot be heard."""
    # What a source logs is told here in words of the command.
    logging.getLogger(ROOT).addHandler(logging.NullHandler())
    if source in settings.mqtt:
        broker = settings.mqtt[source]
        filters = [topic] if topic is not None else filters_of(settings, source)
        with BrokerListener(broker, filters) as listener:
            for each, reason in listener.refused.items():
                sys.stderr.write(f"ds-gateway: {source}: the broker refuses the filter {each}: {reason}\n")
            yield listener
        return
    _, sockets = find_control_sockets(config, os.environ)
    running = running_gateway(sockets)
    if running is not None:
        with GatewayListener(running, source) as tap:
            yield tap
        return
    with PortListener(source, settings.serial[source]) as port:
        yield port


def filters_of(settings: Settings, source: str) -> list[str]:
    """What the gateway subscribes to."""
    return MqttPipeline(source, settings.gateway.id, settings.mqtt[source].devices, settings.limits).filters


def counting(settings: Settings, source: str) -> Trial:
    """What finds the frames in the bytes."""
    now = time.time_ns()
    if source in settings.mqtt:
        return MqttTrial(source, settings, settings.mqtt[source], started_ns=now)
    return SerialTrial(source, settings, settings.serial[source], started_ns=now, at_boundary=False)


def _check(settings: Settings, source: str, topic: str | None) -> None:
    names = [*settings.mqtt, *settings.serial]
    if source not in names:
        near = difflib.get_close_matches(source, names, 3) or names
        raise typer.BadParameter(f"no source has the name {source!r}; there are {', '.join(near)}")
    if topic is None:
        return
    if source in settings.serial:
        raise typer.BadParameter(f"--topic is for brokers, and {source} is a serial port: leave it out")
    try:
        topic_filter(topic)
    except MappingError as error:
        raise typer.BadParameter(f"--topic: {error}") from None


def _record(
    listener: Listener, writer: CaptureWriter, trial: Trial, seconds: float | None, frames: int | None
) -> bool:
    """Until its time is over; whether so many frames were there before. Tells what is wrong, each time once."""
    begun = told_at = time.monotonic()
    found, trouble = 0, _tell(listener, "")
    is_terminal = sys.stderr.isatty()
    while True:
        left = _TURN_SECONDS if seconds is None else begun + seconds - time.monotonic()
        if left <= 0:
            break
        chunks = listener.take(min(left, _TURN_SECONDS))
        for chunk in chunks:
            writer.add(chunk)
            if frames is None:
                continue
            found += sum(len(step.outcomes) for step in trial.feed(chunk))
            if found >= frames:
                return True
        if frames is not None and not chunks:
            found += sum(len(step.outcomes) for step in trial.quiet(time.monotonic() - begun))
            if found >= frames:
                return True
        trouble = _tell(listener, trouble)
        if is_terminal and time.monotonic() - told_at >= _PROGRESS_SECONDS:
            told_at = time.monotonic()
            sys.stderr.write(f"\r{count(writer.chunks, 'chunk')}, {count(writer.bytes, 'byte')}; Ctrl-C ends ")
            sys.stderr.flush()
    if is_terminal:
        sys.stderr.write("\n")
    return False


def _tell(listener: Listener, before: str) -> str:
    trouble = listener.trouble
    if trouble and trouble != before:
        sys.stderr.write(f"ds-gateway: {trouble}\n")
    return trouble
