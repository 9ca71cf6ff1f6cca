"""``ds-gateway run``: the daemon."""

from __future__ import annotations

import asyncio
import os

import typer

from ds_gateway import logs
from ds_gateway.cli.configuration import load_configuration
from ds_gateway.cli.options import ConfigOption  # noqa: TC001 - read by typer
from ds_gateway.gateway import Gateway
from ds_gateway.notify import Notifier


def run(config: ConfigOption = None) -> None:
    """Run the gateway in the foreground until SIGTERM or Ctrl-C."""
    loaded = load_configuration(config)
    logs.setup(loaded.settings.log.level, loaded.settings.log.format)

    async def main() -> int:
        return await Gateway(loaded, Notifier.from_environ(os.environ)).run()

    raise typer.Exit(asyncio.run(main()))
