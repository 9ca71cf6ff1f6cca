"""``ds-gateway try``: what the gateway would make of bytes, step by step. Exit status 0, 1 or 2."""

from __future__ import annotations

import difflib
import sys
import time
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - read by typer
from typing import TYPE_CHECKING, Annotated

import typer

from ds_gateway.captures import MAX_RAW_FILE_BYTES, CaptureReader, Chunk
from ds_gateway.cli.configuration import load_configuration
from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.steps import Tally, show
from ds_gateway.mapping import RefusedNameError, TopicPattern
from ds_gateway.mapping.routes import DeviceRule
from ds_gateway.trying import MqttTrial, SerialTrial

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ds_gateway.config.models import Settings
    from ds_gateway.config.mqtt import DeviceSettings
    from ds_gateway.trying import Step, Trial


@dataclass(frozen=True, slots=True)
class Chosen:
    """Whose payload it is."""

    source: str
    kind: str
    device: str = ""
    """Only this one of the source's devices; empty: all."""
    topic: str | None = None
    """For MQTT, where one topic is certain."""


def try_(  # noqa: PLR0917 - typer's options
    device: Annotated[
        str,
        typer.Option("--device", help="Name of the device, or of its source; a capture says it itself."),
    ] = "",
    payload: Annotated[
        str | None, typer.Option("--payload", help="Text. A serial line's delimiter is added.")
    ] = None,
    hex_: Annotated[str | None, typer.Option("--hex", help="Bytes in hex digits, as '02 54 03'.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="File with the bytes, as they are.", dir_okay=False)
    ] = None,
    capture: Annotated[
        Path | None,
        typer.Option("--capture", help="File of ds-gateway capture, or bytes of a line.", dir_okay=False),
    ] = None,
    topic: Annotated[str | None, typer.Option("--topic", help="Topic of the MQTT message.")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002 - an option, not an argument
) -> None:
    """Show what the gateway would make of a payload or a capture: frames, fields, record, stream, or why not.

    Nothing is sent, stored or opened. Exit status 1: something was refused.
    """
    given = [each for each in (payload, hex_, file, capture) if each is not None]
    if len(given) != 1:
        raise typer.BadParameter("give one of --payload, --hex, --file and --capture")
    settings = load_configuration(config).settings
    if capture is not None:
        steps = captured_steps(settings, capture, device, topic)
    else:
        chosen = choose(settings, device, topic)
        raw = _raw(payload, hex_, file)
        if payload is not None and chosen.kind == "serial":
            raw += _delimiter(settings, chosen.source, raw)
        steps = _run(
            make_trial(settings, chosen, time.time_ns(), at_boundary=True), [Chunk(0.0, raw, chosen.topic)]
        )
    tally = show(steps, as_json=json)
    if not tally.frames and not tally.refused:
        sys.stderr.write(f"ds-gateway: {_nothing(tally)}\n")
    if tally.refused or not tally.frames:
        raise typer.Exit(1)


def captured_steps(settings: Settings, path: Path, device: str, topic: str | None) -> Iterator[Step]:
    """What a capture becomes. Raises `CaptureError`, and `typer.BadParameter` if it fits no device."""
    with CaptureReader(path) as reader:
        header = reader.header
        if not header.source and not device:
            raise typer.BadParameter(f"{path} is no capture but plain bytes: say whose they are, with --device")
        chosen = choose(settings, device or header.source, topic, is_capture=True)
        if chosen.kind != header.kind:
            raise typer.BadParameter(
                f"{path} is a capture of a {header.kind} source, and {chosen.source} is {chosen.kind}: name "
                "another one with --device"
            )
        started = time.time_ns() if header.started_ns is None else header.started_ns
        trial = make_trial(settings, chosen, started, at_boundary=header.started_ns is None and not header.source)
        pattern = None if topic is None else TopicPattern(topic)
        chunks = (
            chunk
            for chunk in reader
            if pattern is None or chunk.topic is None or pattern.match(chunk.topic) is not None
        )
        for step in _run(trial, chunks):
            if not chosen.device or not step.outcomes or any(_is(each.device, chosen) for each in step.outcomes):
                yield step
        if reader.is_cut:
            sys.stderr.write(f"ds-gateway: {path}: its last line was not written to its end, and does not count\n")


def make_trial(settings: Settings, chosen: Chosen, started_ns: int, *, at_boundary: bool) -> Trial:
    """A trial of the chosen source."""
    if chosen.kind == "mqtt":
        return MqttTrial(chosen.source, settings, settings.mqtt[chosen.source], started_ns=started_ns)
    return SerialTrial(
        chosen.source,
        settings,
        settings.serial[chosen.source],
        started_ns=started_ns,
        at_boundary=at_boundary,
        device=chosen.device,
    )


def choose(settings: Settings, name: str, topic: str | None, *, is_capture: bool = False) -> Chosen:
    """Whose payload it is, by the name of a device or a source. Raises `typer.BadParameter`.

    A capture says its topics itself.
    """
    if not name and topic is None:
        raise typer.BadParameter(f"say whose payload it is, with --device: {_listed(_names(settings))}")
    if name in settings.serial:
        return Chosen(name, "serial")
    for source, port in settings.serial.items():
        names = {device.name for _, device in port.each_device(source)} | {
            each.name for each in port.asked(source)
        }
        if name in names:
            return Chosen(source, "serial", name)
    if is_capture and name in settings.mqtt:
        return Chosen(name, "mqtt")
    if topic is not None and not is_capture:
        return _by_topic(settings, name, topic)
    for source, broker in settings.mqtt.items():
        if name == source and len(broker.devices) > 1:
            raise typer.BadParameter(
                f"{name} has {len(broker.devices)} entries: say the topic of the message, with --topic"
            )
        for entry in broker.devices:
            if name in {source, entry.name, entry.topic}:
                return Chosen(source, "mqtt", "" if name == source else name, _only_topic(entry, is_capture))
    if is_capture and len(settings.mqtt) == 1:
        return Chosen(next(iter(settings.mqtt)), "mqtt", name)
    raise typer.BadParameter(_unknown(settings, name))


def _only_topic(entry: DeviceSettings, is_capture: bool) -> str | None:  # noqa: FBT001
    pattern = TopicPattern(entry.topic)
    if pattern.filter == entry.topic:
        return entry.topic
    if is_capture:
        return None
    raise typer.BadParameter(
        f"{entry.topic} stands for many topics: say which one it was, with --topic, as {_example(entry.topic)}"
    )


def _example(pattern: str) -> str:
    return "/".join("x" if part in {"+", "#"} or part.startswith("{") else part for part in pattern.split("/"))


def _by_topic(settings: Settings, name: str, topic: str) -> Chosen:
    near: list[str] = []
    for source, broker in settings.mqtt.items():
        for entry in broker.devices:
            near.append(entry.topic)
            try:
                route = DeviceRule(entry, settings.gateway.id).route(topic)
            except RefusedNameError:
                return Chosen(source, "mqtt", topic=topic)
            if route is None:
                continue
            if name in {"", source, entry.name, entry.topic, route.device}:
                return Chosen(source, "mqtt", topic=topic)
            raise typer.BadParameter(
                f"--topic {topic} is of the device {route.device!r}, not of {name!r}: leave --device out, or "
                "name that one"
            )
    if name and name not in settings.mqtt:
        raise typer.BadParameter(_unknown(settings, name))
    if not settings.mqtt:
        raise typer.BadParameter("--topic is for MQTT, and the configuration has no broker: leave it out")
    raise typer.BadParameter(f"no device has the topic {topic}; there are {_listed(near)}")


def _names(settings: Settings) -> list[str]:
    names = [*settings.mqtt, *settings.serial]
    for source, port in settings.serial.items():
        names += [device.name for _, device in port.each_device(source)]
    names += [entry.name or entry.topic for broker in settings.mqtt.values() for entry in broker.devices]
    return list(dict.fromkeys(names))


def _unknown(settings: Settings, name: str) -> str:
    names = _names(settings)
    near = difflib.get_close_matches(name, names, 3) or names
    topics = any(
        TopicPattern(entry.topic).captures for broker in settings.mqtt.values() for entry in broker.devices
    )
    hint = "; a device whose name comes from its topic is found by --topic" if topics else ""
    return f"no device or source has the name {name!r}; there are {_listed(near)}{hint}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _is(device: str, chosen: Chosen) -> bool:
    return device == chosen.device or device.startswith(f"{chosen.device}/") or chosen.kind == "serial"


def _raw(payload: str | None, digits: str | None, file: Path | None) -> bytes:
    if payload is not None:
        return payload.encode("utf-8", "surrogateescape")
    if digits is not None:
        try:
            return bytes.fromhex(digits.removeprefix("0x"))
        except ValueError:
            raise typer.BadParameter(
                f"--hex {digits!r} is no row of bytes: two hex digits each, as '02 54 03'"
            ) from None
    assert file is not None, "one of them is given"
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_RAW_FILE_BYTES + 1)
    except OSError as error:
        raise typer.BadParameter(f"--file {file} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_RAW_FILE_BYTES:
        raise typer.BadParameter(f"--file {file} has more than {MAX_RAW_FILE_BYTES} bytes: give a part of it")
    return raw


def _delimiter(settings: Settings, source: str, raw: bytes) -> bytes:
    """What nobody types: the end of the line."""
    line = settings.serial[source].framing.line
    if line is None:
        return b""
    end = line.delimiter.encode("latin-1", "replace")
    return b"" if raw.endswith(end) else end


def _run(trial: Trial, chunks: Iterable[Chunk]) -> Iterator[Step]:
    for chunk in chunks:
        yield from trial.feed(chunk)
    yield from trial.end()


def _nothing(tally: Tally) -> str:
    if tally.bytes:
        return (
            f"no frame in {tally.bytes} bytes: framing or baud rate do not fit (docs/framing.md), or more bytes "
            "are needed"
        )
    return "there is nothing in it: no byte and no message"
