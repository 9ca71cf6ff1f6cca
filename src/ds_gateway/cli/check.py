"""``ds-gateway check``: is the configuration right? With --live: does it work here? Exit status 0, 1 or 2."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ds_gateway.cli.checked import show_live, told_live
from ds_gateway.cli.configuration import load_configuration
from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.printing import print_json
from ds_gateway.errors import ConfigError
from ds_gateway.mapping.commands import CommandRoutes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ds_gateway.cli.checked import Checked
    from ds_gateway.config.loader import Loaded
    from ds_gateway.config.models import Settings

_LISTEN_SECONDS: Final = 5.0


def check(
    live: Annotated[  # noqa: FBT002 - an option, not an argument
        bool, typer.Option("--live", help="Also connect to brokers, open ports, and ask the server; send nothing.")
    ] = False,
    seconds: Annotated[
        float,
        typer.Option("--seconds", help="With --live: how long each source is listened to.", min=0.1, max=3600),
    ] = _LISTEN_SECONDS,
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Check the configuration: tell every mistake with file, line and way out.

    Exit status: 0 fine, 1 something failed with --live, 2 the file is invalid.
    """
    if not json:
        loaded = load_configuration(config)
        print_summary(summary(loaded))
        failed = live and show_live(_check_live(loaded.settings, config, seconds), loaded.redact)
        if failed:
            raise typer.Exit(1)
        return
    found: list[dict[str, Any]] = []
    try:
        loaded = load_configuration(config)
        answer = {"ok": True, "problems": [], **summary(loaded)}
        if live:
            found = [told_live(each, loaded.redact) for each in _check_live(loaded.settings, config, seconds)]
            answer["live"] = found
    except ConfigError as error:
        problems = [
            {"file": each.file, "line": each.line, "key": each.key, "message": each.message}
            for each in error.problems
        ]
        answer = {"ok": False, "problems": problems}
    print_json(answer)
    if not answer["ok"]:
        raise typer.Exit(2)
    if not all(each["ok"] for each in found):
        raise typer.Exit(1)


def _check_live(settings: Settings, config: Path | None, seconds: float) -> Iterator[Checked]:
    # It is most of the gateway, and whoever has a file checked does not need it: half a second less.
    from ds_gateway.cli.live import check_live  # noqa: PLC0415

    return check_live(settings, config, seconds)


def summary(loaded: Loaded) -> dict[str, Any]:
    """What the configuration says, in short; references instead of what they gave."""
    settings = loaded.settings
    devices = [device for broker in settings.mqtt.values() for device in broker.devices]
    lines = [each for name, port in settings.serial.items() for _, each in port.each_device(name)]
    streams = {device.stream for device in devices} | {each.stream or "" for each in lines}
    text = loaded.redact
    return {
        "config": str(loaded.path),
        "gateway": text(settings.gateway.id),
        "sources": [
            *({"name": name, "kind": "mqtt", "at": text(source.url)} for name, source in settings.mqtt.items()),
            *(
                {"name": name, "kind": "serial", "at": text(source.where)}
                for name, source in settings.serial.items()
            ),
        ],
        "devices": len(devices) + len(lines),
        "commands": [
            {
                "device": text(each.template),
                "source": each.source,
                "to": text(each.target),
                "delivery": each.delivery,
                "expires_after_seconds": each.expires_after_seconds,
            }
            for each in CommandRoutes(settings).rules
        ],
        "streams": sorted(text(stream) for stream in streams),
        "server": text(settings.server.url),
        "base_url": text(settings.server.base_url),
        "data_dir": text(settings.data_dir),
        "journal_max_bytes": settings.journal.max_bytes,
        "digest": loaded.digest,
    }


def _command(each: Mapping[str, Any]) -> str:
    return (
        f"{each['device']} by {each['source']}, {each['to']}; {each['delivery']}, expires after "
        f"{each['expires_after_seconds']:g} s"
    )


def print_summary(said: dict[str, Any]) -> None:
    """Print the summary for people."""
    limit = said["journal_max_bytes"]
    server = dict.fromkeys((said["server"], said["base_url"]))
    rows = [
        ("gateway", said["gateway"]),
        *(("source", f"{source['name']} ({source['kind']} {source['at']})") for source in said["sources"]),
        ("devices", f"{said['devices']} configured"),
        *(("command", _command(each)) for each in said["commands"]),
        *(("stream", stream) for stream in said["streams"]),
        ("server", ", ".join(server)),
        ("data_dir", said["data_dir"]),
        (
            "journal",
            "2 GiB or 10 % of the file system, the smaller" if limit is None else f"{limit} bytes at most",
        ),
    ]
    lines = [f"ok: {said['config']}", *(f"  {label:9}{value}" for label, value in rows)]
    sys.stdout.write("\n".join(lines) + "\n")
