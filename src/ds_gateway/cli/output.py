"""Files that commands write for their user."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import typer

from ds_gateway.errors import GatewayError
from ds_gateway.journal.access import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME_CHARACTERS: Final = 40
"""Of the file's name in that of the temporary one, which must not become longer than a name may be."""


class OutputError(GatewayError):
    """What a command has for its user cannot be written; the text says where, and why."""


@contextmanager
def writing(output: Path) -> Iterator[BinaryIO]:
    """A file that is there as a whole or not at all; one that is there, or comes meanwhile, is never replaced.

    An OSError in the body is taken for a failure of the file: bodies only write. Raises `OutputError`.
    """
    if str(output) == "-":
        with _standard_output() as file:
            yield file
        return
    if os.path.lexists(output):
        raise _taken(output)
    try:
        # New, under a name that nobody could foresee, and for the user alone, because payloads may be anything: a
        # link or a file of somebody else under a name that is known before would be written to.
        descriptor, name = tempfile.mkstemp(
            prefix=f"{output.name[:_NAME_CHARACTERS]}.", suffix=".tmp", dir=output.parent
        )
    except OSError as error:
        raise typer.BadParameter(f"--output {output} cannot be written: {error.strerror}") from None
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _give_name(temporary, output)
        sync_folder(output.absolute().parent)
    except OSError as error:
        raise OutputError(
            f"--output {output} cannot be written: {error.strerror or error}; nothing is left of it: make room, "
            "or name a file on another disk"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # who reads has enough: the command line's library ends without a word
        raise
    except OSError as error:
        with suppress(OSError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # the rest would fail again at the very end
        raise OutputError(
            f"standard output cannot be written: {error.strerror or error}; what is there is not complete"
        ) from None


def _give_name(temporary: Path, output: Path) -> None:
    """Only if nothing has that name. Raises OSError, `typer.BadParameter`."""
    try:
        try:
            os.link(temporary, output, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:
            _take_name(temporary, output)
    except FileExistsError:
        raise _taken(output) from None


def _take_name(temporary: Path, output: Path) -> None:
    """Where a file has one name only (vfat, exFAT): an empty file takes it, and then that one is replaced."""
    os.close(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        temporary.replace(output)
    except OSError:
        output.unlink(missing_ok=True)
        raise


def _taken(output: Path) -> typer.BadParameter:
    return typer.BadParameter(f"--output {output} is there already: name another file")
