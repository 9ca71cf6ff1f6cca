"""What callers hold of a message that a producer has taken, wherever the producer keeps it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

    from durable_streams._types import IdempotentAppendResult


class Acknowledgement(ABC):
    """Awaitable: the server's confirmation of one message."""

    __slots__ = ()

    @property
    @abstractmethod
    def settled(self) -> bool:
        """Whether the message is confirmed or has failed."""

    def __await__(self) -> Generator[Any, None, IdempotentAppendResult]:
        return self._wait().__await__()

    @abstractmethod
    async def _wait(self) -> IdempotentAppendResult: ...


class Appended(ABC):
    """A message that the producer has taken.

    Nothing more needs to be done. Awaiting it waits until the producer has room again (back-pressure) and gives
    the `Acknowledgement`, which can be awaited in turn.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def acknowledgement(self) -> Acknowledgement:
        """What tells when the server has it."""

    @abstractmethod
    def __await__(self) -> Generator[Any, None, Acknowledgement]: ...


class SyncAcknowledgement(ABC):
    """The server's confirmation of one message."""

    __slots__ = ()

    @property
    @abstractmethod
    def settled(self) -> bool:
        """Whether the message is confirmed or has failed."""

    @abstractmethod
    def result(self, timeout_seconds: float | None = None) -> IdempotentAppendResult:
        """Wait for the confirmation. Raises what went wrong, and TimeoutError when it takes too long."""
