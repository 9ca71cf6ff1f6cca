"""``ds-gateway schema``: the configuration as JSON Schema, for editors."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - read by typer
from typing import Annotated

import typer

from ds_gateway.config import json_schema


def schema(
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Write it to this file instead of standard output.", dir_okay=False),
    ] = None,
    included: Annotated[  # noqa: FBT002 - an option, not an argument
        bool, typer.Option("--included", help="For files that another one includes: nothing is required in them.")
    ] = False,
) -> None:
    """Print the JSON Schema (2020-12) of the configuration: editors complete and check with it.

    The first line of a configuration file names it: # yaml-language-server: $schema=gateway.schema.json
    """
    text = json_schema.text(fragment=included)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"--output {output} cannot be written: {error.strerror}") from None
