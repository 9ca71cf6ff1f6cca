"""How commands end: one line about what went wrong, where and what to do about it, and an exit code.

0     fine
1     failed: the server, the network, the data or the disk
2     the command line, or a file it names, is wrong: nothing was tried
130   ended by Ctrl-C
141   nobody reads the output any more, as in ``durable-streams read URL | head``
"""

from __future__ import annotations

import logging
import os
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

import typer

from durable_streams._wire import Reply
from durable_streams.errors import (
    ContentTypeMismatchError,
    DurableStreamError,
    FetchError,
    InvalidOffsetError,
    ParseError,
    PayloadTooLargeError,
    RetentionGoneError,
    SeqConflictError,
    SSENotSupportedError,
    StaleEpochError,
    StreamExistsError,
    StreamNotFoundError,
    UnauthorizedError,
)

if TYPE_CHECKING:
    from collections.abc import Generator

FAILED: Final = 1
WRONG_USE: Final = 2
INTERRUPTED: Final = 130
OUTPUT_CLOSED: Final = 141

EXIT_CODES: Final = (
    "Exit codes: 0 fine; 1 failed; 2 the command line or a file it names is wrong; 130 ended by Ctrl-C; "
    "141 nobody reads the output any more."
)

# The first match is the way out; a subclass stands before its base.
_WAYS_OUT: Final[tuple[tuple[type[DurableStreamError], str], ...]] = (
    (StreamNotFoundError, "check the URL, or make the stream with: durable-streams create URL"),
    (StreamExistsError, "see what it is with: durable-streams head URL"),
    (UnauthorizedError, "give --token-file or --header, or the right ones"),
    (RetentionGoneError, "--offset -1 begins at what is still there"),
    (InvalidOffsetError, "--offset takes -1, now, or an offset that this stream has named"),
    (SeqConflictError, "--seq must be greater than every one before it, compared as text"),
    (ContentTypeMismatchError, "leave --content-type and --json out: the stream knows its own"),
    (PayloadTooLargeError, "give --max-batch-bytes, smaller"),
    (StaleEpochError, "somebody else writes with this producer id: give a higher --epoch, or --auto-claim"),
    (SSENotSupportedError, "give --live auto or --live long-poll"),
    (ParseError, "--raw prints what is there as it is"),
    (FetchError, "check that the server runs and that the URL is right"),
)

_ROOM: Final = (
    "at the server delete streams, free space on its disk, or start it with larger --max-bytes or --max-streams"
)

# The client's messages begin with the request, which the line names by its URL already.
_REQUEST: Final = re.compile(r"(?:GET|PUT|POST|HEAD|DELETE) \S+: ")


class WrongUseError(Exception):
    """The command line, or a file that it names, cannot be used; nothing was tried."""


class InputError(Exception):
    """What was to be appended cannot be."""


@contextmanager
def reporting(action: str, url: str) -> Generator[None]:
    """Turn what goes wrong while doing ``action`` to a stream into one line and an exit code.

    The first failure that is tried again is told, too: who waits should know for what.
    """
    retries, told = logging.getLogger("durable_streams.client"), _TellOnce(url)
    retries.addHandler(told)
    retries.setLevel(logging.DEBUG)
    try:
        yield
    except WrongUseError as error:
        fail(str(error), code=WRONG_USE)
    except DurableStreamError as error:
        fail(f"cannot {action} {shown(url)}: {in_words(error)}")
    except ValueError as error:  # what the client refuses before it sends anything
        fail(str(error), code=WRONG_USE)
    except InputError as error:
        fail(f"cannot {action} {shown(url)}: {error}")
    except BrokenPipeError:
        _silence_output()
        raise typer.Exit(OUTPUT_CLOSED) from None
    except OSError as error:
        fail(f"cannot {action} {shown(url)}: {error.filename or 'input or output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        retries.removeHandler(told)
        retries.setLevel(logging.NOTSET)


class _TellOnce(logging.Handler):
    """Says that a request failed and is tried again, the first time."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url: str | None = url

    def emit(self, record: logging.LogRecord) -> None:
        url, self._url = self._url, None
        if url is not None:
            say(f"{shown(url)}: {record.getMessage()}")


def in_words(error: DurableStreamError) -> str:
    """Return the error, what is known beside it, and the way out."""
    text = _REQUEST.sub("", str(error), count=1)
    notes = [_in_a_line(note) for note in getattr(error, "__notes__", ())]
    way_out = [way for kind, way in _WAYS_OUT if isinstance(error, kind)][:1]
    if error.status == 507 and Reply(507, error.headers).from_stream_server:
        way_out = [_ROOM]
    return "; ".join([text, *notes, *way_out])


def _in_a_line(note: str) -> str:
    """A note is a sentence of its own; here it is a part of one."""
    is_word = note[1:2].islower() or note[1:2] == " "
    return (note[:1].lower() if is_word else note[:1]) + note[1:].rstrip(".")


def shown(url: str) -> str:
    """Return a URL without what may be secret in it: user, password and query."""
    scheme, found, rest = url.partition("://")
    if not found:
        return "(no URL)" if "@" in url else repr(url.partition("?")[0])
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def fail(message: str, *, code: int = FAILED) -> NoReturn:
    """Say what went wrong on one line of standard error, and end."""
    say(message)
    raise typer.Exit(code)


def say(message: str) -> None:
    """Print one line on standard error. Parts of it come from servers: none is a command to the terminal."""
    line = " ".join(message.split())
    safe = "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)
    typer.echo(f"durable-streams: {safe}", err=True)


def _silence_output() -> None:
    """Let the interpreter's last flush go nowhere: it would complain about the closed pipe."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
