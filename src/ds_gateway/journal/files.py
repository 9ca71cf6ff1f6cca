"""The database and its write-ahead log as files: for whoever cannot rely on SQLite. Reads only."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from ds_gateway.journal import wal
from ds_gateway.journal.disk import DATABASE
from ds_gateway.journal.pages import MAGIC, page_bytes

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_HEADER_BYTES: Final = 100


class JournalFiles:
    """What is committed, page by page (`pages.Pages`): the log's newest content of a page before the database's.

    A file that is missing, or is no file, counts as empty; what the disk does not read counts as missing and in
    ``failed_reads``. Raises OSError where reading is not allowed.
    """

    def __init__(self, folder: Path) -> None:
        self.failed_reads = 0
        with ExitStack() as stack:
            self._database, self._database_bytes = _open(folder / DATABASE, stack)
            self._log, log_bytes = _open(folder / f"{DATABASE}-wal", stack)
            header = self._read(self._database, 0, min(_HEADER_BYTES, self._database_bytes)) or b""
            self.wal = wal.read_wal(
                lambda start, length: self._read(self._log, start, length), log_bytes, page_bytes(header)
            )
            self._files = stack.pop_all()
        self.page_bytes = self.wal.page_bytes or page_bytes(header)
        in_file = -(-self._database_bytes // self.page_bytes)
        highest = max(in_file, *self.wal.frames, 0)
        self.count = min(self.wal.page_count or highest, highest)
        said = int.from_bytes(header[28:32], "big") if header[: len(MAGIC)] == MAGIC else 0
        self.is_short = (self.wal.page_count or said) > self.count
        """Whether the end is missing."""

    def read(self, number: int) -> bytes | None:
        """The page's newest committed content; None where it is not there or not readable."""
        start = self.wal.frames.get(number)
        if start is not None:
            return self._read(self._log, start, self.page_bytes)
        return self._read(self._database, (number - 1) * self.page_bytes, self.page_bytes)

    def _read(self, descriptor: int, start: int, length: int) -> bytes | None:
        try:
            data = os.pread(descriptor, length, start) if descriptor >= 0 else b""
        except OSError:
            self.failed_reads += 1
            return None
        return data if len(data) == length else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()


def _open(path: Path, stack: ExitStack) -> tuple[int, int]:
    """Descriptor and size; (-1, 0) where there is no such file."""
    if not path.is_file():
        return -1, 0
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor, os.fstat(descriptor).st_size
