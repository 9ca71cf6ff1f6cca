"""``read`` and ``tail``: from a stream to standard output."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from durable_streams.cli.checkpoint import Checkpoint
from durable_streams.cli.connection import Connection, connection, handle_on
from durable_streams.cli.ending import WrongUseError, reporting, say, shown
from durable_streams.cli.options import (
    DEFAULT_TIMEOUT_SECONDS,
    HeaderOption,
    TimeoutOption,
    TokenFileOption,
    UrlArgument,
)
from durable_streams.cli.printing import Form, Output, form_for, printed

if TYPE_CHECKING:
    from durable_streams import DurableStream, LiveMode


class Live(StrEnum):
    """How ``tail`` waits for what is new."""

    AUTO = "auto"
    LONG_POLL = "long-poll"
    SSE = "sse"


_LIVE_MODES: Final[dict[Live, LiveMode]] = {Live.AUTO: True, Live.LONG_POLL: "long-poll", Live.SSE: "sse"}

OffsetOption = Annotated[
    str,
    typer.Option(
        "--offset",
        help="Where to begin: -1 is the start, now is the end, or an offset that the stream has named.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON message a line, whatever the type.", show_default=False)
]
RawOption = Annotated[bool, typer.Option("--raw", help="Print the bytes as they are.", show_default=False)]
EventsOption = Annotated[
    bool,
    typer.Option(
        "--events",
        help="Print the server's responses, one JSON object a line: offset, up_to_date, cursor, and data "
        "(or base64, of bytes).",
        show_default=False,
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="Go on from the offset in this file, and keep it up to date behind what was written. The first time "
        "--offset counts. A crash repeats at most the messages of one response, and skips none.",
        show_default=False,
    ),
]


def read(
    url: UrlArgument,
    *,
    offset: OffsetOption = "-1",
    json: JsonOption = False,
    raw: RawOption = False,
    events: EventsOption = False,
    checkpoint: CheckpointOption = None,
    token_file: TokenFileOption = None,
    header: HeaderOption = [],  # noqa: B006 - typer copies it
    timeout: TimeoutOption = DEFAULT_TIMEOUT_SECONDS,
) -> None:
    """Print a stream up to its end, and stop.

    A stream of JSON is printed as one message a line, any other as its bytes.
    """
    with reporting("read", url):
        to = connection(url, token_file, header, timeout)
        form = _form(json=json, raw=raw, events=events)
        _copy(to, offset, live=False, form=form, checkpoint=checkpoint)


def tail(
    url: UrlArgument,
    *,
    offset: OffsetOption = "-1",
    live: Annotated[
        Live, typer.Option(help="How to wait: auto takes server-sent events where they can be had.")
    ] = Live.AUTO,
    json: JsonOption = False,
    raw: RawOption = False,
    events: EventsOption = False,
    checkpoint: CheckpointOption = None,
    token_file: TokenFileOption = None,
    header: HeaderOption = [],  # noqa: B006 - typer copies it
    timeout: TimeoutOption = DEFAULT_TIMEOUT_SECONDS,
) -> None:
    """Print a stream and go on as it grows, until it is closed or Ctrl-C. Broken connections are made again.

    It begins at the start; --offset now prints only what is new.
    """
    with reporting("tail", url):
        to = connection(url, token_file, header, timeout)
        form = _form(json=json, raw=raw, events=events)
        _copy(to, offset, live=_LIVE_MODES[live], form=form, checkpoint=checkpoint)
        say(f"{shown(url)} is closed: nothing more will come")


def _form(*, json: bool, raw: bool, events: bool) -> Form | None:
    chosen = [form for form, wanted in ((Form.JSON, json), (Form.RAW, raw), (Form.EVENTS, events)) if wanted]
    if len(chosen) > 1:
        raise WrongUseError(f"--{chosen[0]} and --{chosen[1]} exclude each other: give one of them")
    return chosen[0] if chosen else None


def _copy(to: Connection, offset: str, *, live: LiveMode, form: Form | None, checkpoint: Path | None) -> None:
    keeper = None if checkpoint is None else Checkpoint(checkpoint, to.url)
    output = Output(live=live is not False)
    with handle_on(to) as handle:
        start = offset if keeper is None else _resume(keeper, offset, handle)
        if live == "sse" and form in {None, Form.EVENTS}:
            handle.head()  # an event stream does not tell the content type
        with handle.stream(offset=start, live=live) as response:
            content_type = response.content_type or handle.content_type
            chosen = form or form_for(content_type)
            reached = start
            for piece in printed(response, chosen, content_type):
                output.write(piece, chosen)
                # The offset moves with the last item of a response; only then is there something new to save.
                if response.offset != reached:
                    reached = response.offset
                    _settle(output, keeper, reached)
            _settle(output, keeper, response.offset)


def _settle(output: Output, keeper: Checkpoint | None, offset: str) -> None:
    if keeper is None:
        output.flush()
    else:
        output.settle()
        keeper.save(offset)


def _resume(keeper: Checkpoint, offset: str, handle: DurableStream) -> str:
    """Return where to begin. It is saved at once: a file that cannot be written is noticed before the work."""
    start = keeper.load()
    if start is None:
        start = offset
        if offset == "now":
            # Saved as `now`, a second start would skip what came in between.
            start = handle.head().offset
        keeper.save(start)
    return start
