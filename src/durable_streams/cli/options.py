"""Options and arguments that several commands have, and how their text is read."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from durable_streams.cli.ending import WrongUseError

UrlArgument = Annotated[
    str, typer.Argument(metavar="URL", help="The stream: http://HOST:PORT/PATH.", show_default=False)
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File with the bearer token. It is read again for each request, so a renewed token is taken up.",
        show_default=False,
    ),
]
HeaderOption = Annotated[
    list[str],
    typer.Option(
        "--header",
        metavar="'NAME: VALUE'",
        help="A header for every request; repeatable. @FILE reads headers from a file, one a line: the place for "
        "secrets, because other users see the command line.",
        show_default=False,
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        help="How long one request may take. Waiting for new data never times out.",
        min=0.001,
    ),
]
ContentTypeOption = Annotated[
    str | None, typer.Option("--content-type", metavar="TYPE", help="The content type.", show_default=False)
]
JsonTypeOption = Annotated[
    bool, typer.Option("--json", help="Short for --content-type application/json.", show_default=False)
]

DEFAULT_TIMEOUT_SECONDS: Final = 30.0

_DURATION: Final = re.compile(r"([0-9]{1,12})(s|m|h|d)?")
_UNIT_SECONDS: Final = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def content_type_of(content_type: str | None, *, json: bool) -> str | None:
    """Return the content type that the two options ask for together."""
    if not json:
        return content_type
    if content_type not in {None, "application/json"}:
        raise WrongUseError(f"--json and --content-type {content_type} exclude each other: give one of them")
    return "application/json"


def seconds_of(duration: str) -> int:
    """Return the seconds of a duration: a whole number, with s, m, h or d if it is not in seconds."""
    match = _DURATION.fullmatch(duration.strip())
    if match is None:
        raise WrongUseError(f"--ttl {duration!r} is no duration: write whole seconds, or 90s, 15m, 1h, 7d")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def moment_of(text: str) -> str:
    """Return an instant as it is sent; raise `WrongUseError` unless it is RFC 3339 with a time zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise WrongUseError(
            f"--expires-at {text!r} is no instant: write it as 2030-01-31T12:00:00Z, with its zone"
        )
    return moment.isoformat()
