"""A file that remembers how far a stream was read. It is replaced as a whole, so that it is never half written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from durable_streams.cli.ending import WrongUseError, shown

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Checkpoint:
    """The file ``path``, for the stream at ``url``."""

    path: Path
    url: str

    def load(self) -> str | None:
        """Return the offset to go on from, or None before the first time."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise WrongUseError(f"cannot read the checkpoint {self.path}: {error.strerror}") from error
        try:
            saved = orjson.loads(content)
            url, offset = saved["url"], saved["offset"]
        except (ValueError, TypeError, KeyError):
            url, offset = None, None
        if not isinstance(offset, str) or not offset or not isinstance(url, str):
            raise WrongUseError(f"{self.path} is no checkpoint; without that file the read begins anew")
        if url != shown(self.url):
            raise WrongUseError(
                f"{self.path} is the checkpoint of {url}, not of {shown(self.url)}: give each stream its own"
            )
        return offset

    def save(self, offset: str) -> None:
        """Put ``offset`` there, durably."""
        # Without the query: it may be signed, and differ from time to time.
        content = orjson.dumps({"url": shown(self.url), "offset": offset}, option=orjson.OPT_APPEND_NEWLINE)
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.new")
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
