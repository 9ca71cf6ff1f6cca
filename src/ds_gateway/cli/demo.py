"""``ds-gateway demo``: the whole way on one machine, with faults. Exit status 0 only if the audit is clean."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import orjson
import typer
from rich.console import Console

from ds_gateway.cli.options import JsonOption  # noqa: TC001 - read by typer
from ds_gateway.demo import MIN_SECONDS, LiveShow, PlainShow, find_mosquitto, result, run_demo


def _long_enough(seconds: int) -> int:
    if seconds < MIN_SECONDS:
        raise typer.BadParameter(
            f"{seconds} is too short, at least {MIN_SECONDS}: the faults would come faster than the gateway starts"
        )
    return seconds


def demo(
    seconds: Annotated[
        int,
        typer.Option(
            callback=_long_enough, help="How long the devices send; the faults scale with it, at least 15."
        ),
    ] = 60,
    no_faults: Annotated[bool, typer.Option("--no-faults", help="Do nothing to it.")] = False,  # noqa: FBT002 - an option
    json: JsonOption = False,  # noqa: FBT002 - an option
) -> None:
    """Run sensors, a scale, a broker, a gateway and a stream server; do things to them; audit what arrived."""
    try:
        mosquitto = find_mosquitto(os.environ)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    console = Console()
    show = LiveShow(console) if console.is_terminal and not json else PlainShow(sys.stderr)
    try:
        report, kept = run_demo(seconds, faults=not no_faults, mosquitto=mosquitto, show=show)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if kept is not None:
        sys.stderr.write(f"logs and data are kept in {kept}\n")
    if json:
        sys.stdout.write(f"{orjson.dumps(report.document()).decode()}\n")
    else:
        console.print(result(report))
    raise typer.Exit(0 if report.ok else 1)
