"""How commands print what machines read."""

from __future__ import annotations

import sys

import orjson


def print_json(document: object) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
