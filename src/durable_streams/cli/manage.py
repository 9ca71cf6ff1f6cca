"""``create``, ``head``, ``close`` and ``delete``: a stream as a whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import orjson
import typer

from durable_streams.cli.connection import connection, handle_on
from durable_streams.cli.ending import WrongUseError, reporting, shown
from durable_streams.cli.options import (
    DEFAULT_TIMEOUT_SECONDS,
    ContentTypeOption,
    HeaderOption,
    JsonTypeOption,
    TimeoutOption,
    TokenFileOption,
    UrlArgument,
    content_type_of,
    moment_of,
    seconds_of,
)

if TYPE_CHECKING:
    from durable_streams import HeadResult

DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"

YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.", show_default=False)]


def create(
    url: UrlArgument,
    *,
    content_type: ContentTypeOption = None,
    json: JsonTypeOption = False,
    ttl: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Delete the stream this long after its last use: seconds, or 15m, 1h, 7d.",
            show_default=False,
        ),
    ] = None,
    expires_at: Annotated[
        str | None,
        typer.Option(metavar="INSTANT", help="Delete the stream then: 2030-01-31T12:00:00Z.", show_default=False),
    ] = None,
    closed: Annotated[
        bool, typer.Option("--closed", help="Create it closed: nothing is ever appended.", show_default=False)
    ] = False,
    token_file: TokenFileOption = None,
    header: HeaderOption = [],  # noqa: B006 - typer copies it
    timeout: TimeoutOption = DEFAULT_TIMEOUT_SECONDS,
) -> None:
    """Create a stream, or make sure that it exists like this. Prints the offset of its end.

    Without --content-type it is a stream of bytes (application/octet-stream). --json makes one of JSON messages.
    """
    with reporting("create", url):
        if ttl is not None and expires_at is not None:
            raise WrongUseError("--ttl and --expires-at exclude each other: give one of them")
        chosen = content_type_of(content_type, json=json) or DEFAULT_CONTENT_TYPE
        to = connection(url, token_file, header, timeout)
        with handle_on(to, content_type=chosen) as handle:
            made = handle.create_stream(
                ttl_seconds=None if ttl is None else seconds_of(ttl),
                expires_at=None if expires_at is None else moment_of(expires_at),
                closed=closed,
            )
        print_line(made.offset.encode())


def head(
    url: UrlArgument,
    *,
    token_file: TokenFileOption = None,
    header: HeaderOption = [],  # noqa: B006 - typer copies it
    timeout: TimeoutOption = DEFAULT_TIMEOUT_SECONDS,
) -> None:
    """Print what a stream is: one JSON object with content_type, offset (its end), closed, etag."""
    with reporting("look at", url):
        with handle_on(connection(url, token_file, header, timeout)) as handle:
            print_line(orjson.dumps(_description(handle.head())))


def close(
    url: UrlArgument,
    *,
    yes: YesOption = False,
    token_file: TokenFileOption = None,
    header: HeaderOption = [],  # noqa: B006 - typer copies it
    timeout: TimeoutOption = DEFAULT_TIMEOUT_SECONDS,
) -> None:
    """Close a stream for good: nothing can be appended any more, and readers come to its end.

    Prints the offset of its end.
    """
    with reporting("close", url):
        to = connection(url, token_file, header, timeout)
        _ask(f"Close {shown(url)} for good?", yes=yes)
        with handle_on(to) as handle:
            print_line(handle.close_stream().final_offset.encode())


def delete(
    url: UrlArgument,
    *,
    yes: YesOption = False,
    token_file: TokenFileOption = None,
    header: HeaderOption = [],  # noqa: B006 - typer copies it
    timeout: TimeoutOption = DEFAULT_TIMEOUT_SECONDS,
) -> None:
    """Delete a stream and all that is in it."""
    with reporting("delete", url):
        to = connection(url, token_file, header, timeout)
        _ask(f"Delete {shown(url)} and all that is in it?", yes=yes)
        with handle_on(to) as handle:
            handle.delete()


def print_line(line: bytes) -> None:
    """Print a line on standard output, now."""
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def _description(result: HeadResult) -> dict[str, str | bool | None]:
    return {
        "content_type": result.content_type,
        "offset": result.offset,
        "closed": result.stream_closed,
        "etag": result.etag,
        "cache_control": result.cache_control,
    }


def _ask(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise WrongUseError("nobody is there to ask: --yes does it without asking")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)
