"""``ds-gateway identity``: whose the journal is, and giving it to another id. Exit status 0, 1 or 2."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ds_gateway import control
from ds_gateway.cli.asking import ask_journal
from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.printing import print_json
from ds_gateway.config.loader import find_control_sockets, load_server
from ds_gateway.errors import ControlError
from ds_gateway.journal.adopting import adopt as adopt_journal

app = typer.Typer(
    help="Show who the journal belongs to, or give it to another gateway id.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command()
def show(config: ConfigOption = None, json: JsonOption = False) -> None:  # noqa: FBT002 - an option, not an argument
    """Show the gateway's id, and what servers, brokers and readers know it by."""
    answer = ask_journal(config, {"action": "identity"})
    if json:
        print_json(answer)
        return
    lines = (
        ("gateway", answer["gateway"]),
        ("install", answer["install"]),
        ("record ids", answer["ids"]),
        ("producer", answer["producer"]),
        ("MQTT client", f"{answer['mqtt_client']} (unless mqtt.NAME.client_id is set)"),
        ("data_dir", answer["data_dir"]),
        *(("stream", f"{each['name']}, incarnation {each['incarnation']}") for each in answer["streams"]),
    )
    sys.stdout.write("".join(f"{key:12} {_safe(value)}\n" for key, value in lines))


@app.command()
def adopt(
    yes: Annotated[  # noqa: FBT002
        bool, typer.Option("--yes", help="Do it; without, it is only told what would be done.")
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Let the journal belong to the gateway.id of the configuration. The gateway must not run.

    What is in the journal keeps its streams, ids and producers, and is sent as before. Brokers keep knowing the
    gateway by its first client id, so that what they hold for it is not left behind. New records say the new id.
    """
    data_dir, sockets = find_control_sockets(config, os.environ)
    for path in sockets:
        try:
            control.call(path, "status")
        except control.NobodyThereError:
            continue
        raise ControlError(
            f"a gateway is running on {data_dir}: it has the id that its configuration says; stop it before "
            "another id is adopted"
        )
    settings = load_server(config, os.environ, with_token=False)
    told = adopt_journal(Path(settings.data_dir), settings.gateway.id, write=yes)
    answer = {"old": told.old, "new": told.new, "adopted": yes and told.old != told.new}
    if json:
        print_json(answer)
    elif told.old == told.new:
        sys.stdout.write(f"nothing to do: the journal belongs to {_safe(told.new)}\n")
    elif yes:
        sys.stdout.write(f"the journal of {_safe(told.old)} belongs to {_safe(told.new)} now\n")
    else:
        sys.stdout.write(
            f"the journal belongs to {_safe(told.old)}, the configuration says {_safe(told.new)}; --yes gives it "
            "that id. Streams with {gateway} in their names begin anew under new names; commands are read from "
            "the new id's stream, and those of the old one are not any more\n"
        )
    if told.old != told.new and not yes:
        raise typer.Exit(1)


def _safe(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
