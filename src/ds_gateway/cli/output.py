"""Files that commands write for their user."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import typer

from ds_gateway.journal.access import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def writing(output: Path) -> Iterator[BinaryIO]:
    """A file that is there as a whole or not at all; one that is there is never replaced."""
    if str(output) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if output.exists():
        raise typer.BadParameter(f"--output {output} is there already: name another file")
    temporary = output.with_name(f"{output.name}.tmp")
    try:
        # Payloads may be anything: for the user alone, until he says otherwise.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise typer.BadParameter(f"--output {output} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(output)
        sync_folder(output.absolute().parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
