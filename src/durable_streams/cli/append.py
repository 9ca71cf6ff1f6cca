"""``append``: from arguments, a file or standard input to a stream."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path  # noqa: TC003 - read by typer
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from durable_streams import DurableStream, DurableStreamError, MessageError
from durable_streams.cli.connection import connection, handle_on
from durable_streams.cli.ending import WrongUseError, reporting
from durable_streams.cli.manage import DEFAULT_CONTENT_TYPE, print_line
from durable_streams.cli.messages import messages_in
from durable_streams.cli.options import (
    DEFAULT_TIMEOUT_SECONDS,
    ContentTypeOption,
    HeaderOption,
    JsonTypeOption,
    TimeoutOption,
    TokenFileOption,
    UrlArgument,
    content_type_of,
)
from durable_streams.cli.sending import DEFAULT_MAX_BATCH_BYTES, Producer, takes
from durable_streams.cli.sizes import size_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def append(
    url: UrlArgument,
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA...]", help="Messages; a single - is standard input.", show_default=False),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append what is in a file, of any size.", show_default=False),
    ] = None,
    content_type: ContentTypeOption = None,
    json: JsonTypeOption = False,
    seq: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Your own order (Stream-Seq) of one DATA: the server refuses it unless it is greater, as text, "
            "than the last one.",
            show_default=False,
        ),
    ] = None,
    producer_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Append as this idempotent producer: of all with one id, only the last to claim it writes.",
            show_default=False,
        ),
    ] = None,
    epoch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="The producer's epoch. The same input appended again in the same epoch is stored once; any other "
            "input needs a higher one. Default: each run claims the next.",
            min=0,
            show_default=False,
        ),
    ] = None,
    auto_claim: Annotated[
        bool,
        typer.Option("--auto-claim", help="Claim the next epoch if --epoch was used already.", show_default=False),
    ] = False,
    max_batch_bytes: Annotated[
        int,
        typer.Option(parser=size_from(64), metavar="SIZE", help="Largest request of --file, - and --producer-id."),
    ] = DEFAULT_MAX_BATCH_BYTES,
    token_file: TokenFileOption = None,
    header: HeaderOption = [],  # noqa: B006 - typer copies it
    timeout: TimeoutOption = DEFAULT_TIMEOUT_SECONDS,
) -> None:
    """Append messages to a stream; print the offset behind the last one when the server has them all.

    Each DATA is one message: JSON on a stream of JSON, bytes as they are on any other. With - or --file a stream
    of JSON takes one message a line, a stream of text its lines, any other the bytes; requests are sent again
    after a lost connection, without storing anything twice. A second run of the same command appends again,
    unless it has the same --producer-id and --epoch.
    """
    with reporting("append to", url):
        to = connection(url, token_file, header, timeout)
        as_producer = Producer(producer_id, epoch, auto_claim=auto_claim, max_batch_bytes=max_batch_bytes)
        texts = _check(data or [], file, seq, as_producer)
        chosen = content_type_of(content_type, json=json)
        with ExitStack() as stack:
            source = None if texts is not None else _open(file, stack)
            handle = stack.enter_context(handle_on(to, content_type=chosen))
            if handle.content_type is None:
                handle.head()
            kind = handle.content_type or DEFAULT_CONTENT_TYPE
            if source is not None:
                offset = as_producer.send(handle, messages_in(source, kind, max_batch_bytes))
            elif producer_id is not None:
                offset = as_producer.send(handle, _numbered(texts or ()))
            else:
                offset = _append_each(handle, texts or (), seq)
        print_line(offset.encode())


def _append_each(handle: DurableStream, texts: Sequence[str], seq: str | None) -> str:
    offset = ""
    for number, text in enumerate(texts):
        try:
            offset = handle.append(os.fsencode(text), seq=seq).next_offset
        except DurableStreamError as error:
            if isinstance(error, MessageError):
                error.add_note(takes(handle))
            if len(texts) > 1:
                error.add_note(f"{number} of {len(texts)} messages are stored")
            raise
    return offset


def _check(data: Sequence[str], file: Path | None, seq: str | None, producer: Producer) -> Sequence[str] | None:
    """Return the messages given as arguments, or None if they come from a file; raise for what cannot be meant."""
    from_stdin = list(data) == ["-"]
    if file is not None and data:
        raise WrongUseError("--file and DATA exclude each other: give one of them")
    if file is None and not data:
        raise WrongUseError("nothing to append: give DATA, --file FILE, or - for standard input")
    if producer.id is None and (producer.epoch is not None or producer.auto_claim):
        raise WrongUseError("--epoch and --auto-claim belong to a producer: give --producer-id, too")
    if producer.id == "":
        raise WrongUseError("--producer-id is empty: give it a name")
    if seq is not None and (len(data) != 1 or from_stdin or producer.id is not None):
        raise WrongUseError("--seq is the order of one message: give one DATA, and no --producer-id")
    return None if file is not None or from_stdin else data


def _open(file: Path | None, stack: ExitStack) -> BinaryIO:
    if file is None:
        return sys.stdin.buffer
    try:
        return stack.enter_context(file.open("rb"))
    except OSError as error:
        raise WrongUseError(f"cannot read {file}: {error.strerror}") from error


def _numbered(texts: Sequence[str]) -> Iterable[tuple[str, bytes]]:
    return ((f"message {number}", os.fsencode(text)) for number, text in enumerate(texts, 1))
