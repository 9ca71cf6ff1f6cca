"""What the server allows, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from durable_streams.server._retention import Retention

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_at_least(limits: Any, least: Mapping[str, float]) -> None:
    """Raise `ValueError` for a field that is smaller than its least value; None is no limit."""
    for name, smallest in least.items():
        value = getattr(limits, name)
        if value is not None and not value >= smallest:  # NaN neither
            raise ValueError(f"{name} must be {smallest:,} or more, not {value!r}")


_LEAST: Final = {
    "long_poll_timeout_seconds": 0,
    "sse_seconds": 0,
    "max_body_bytes": 1024,
    "max_streams": 1,
    "retain_bytes": 1,
    "retain_seconds": 1,
    "compress_bytes": 0,
    "page_bytes": 1,
    "body_idle_seconds": 0,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server allows, and how long it waits. Raises `ValueError` for values that make no sense."""

    long_poll_timeout_seconds: float = 30.0
    sse_seconds: float = 60.0
    """Length of one event stream; the client then connects again (PROTOCOL section 10.2)."""
    max_body_bytes: int = 16 * 1024 * 1024
    """Of one request, packed or unpacked; beyond it: 413. At least 1 KiB."""
    max_streams: int = 100_000
    """Beyond it no stream is created: 507."""
    retain_bytes: int | None = None
    """How much of each stream is kept at most, the newest; readers of what is older get 410. None keeps all."""
    retain_seconds: float | None = None
    """How long data are kept at least, counted in time that the store is served. None keeps everything."""
    compress_bytes: int | None = 1024
    """Size from which answers to reads are compressed. None never compresses."""
    page_bytes: int = 1024 * 1024
    """Size of one answer to a read; one message alone may be larger."""
    body_idle_seconds: float = 30.0
    """Time without a byte after which an unfinished request is given up."""

    def __post_init__(self) -> None:
        check_at_least(self, _LEAST)

    @property
    def retention(self) -> Retention:
        """What each stream keeps."""
        return Retention(self.retain_bytes, self.retain_seconds)
