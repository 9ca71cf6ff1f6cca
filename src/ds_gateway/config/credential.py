"""A secret that can be read again: a password file may change while the gateway runs.

Knows nothing of files: `references` gives it a function that reads its source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

if TYPE_CHECKING:
    from collections.abc import Callable


class Credential(SecretStr):
    """A `SecretStr` with a source. ``str`` and ``repr`` show stars, equality compares the values.

    ``read`` returns the present value, or None when the source cannot be read now. An empty one, or one of blanks
    alone, is none: it is no secret, and who compares with it would let everybody in.
    """

    def __init__(self, value: str, read: Callable[[], str | None] | None = None) -> None:
        super().__init__(value)
        self._read = read

    def get(self) -> str:
        """The value now. Ask at every reconnect and after a refusal; never keep the answer.

        While the source cannot be read or is empty (a file being replaced), the value read last is returned: the
        refusal of the other side is the alarm, not this call. Reads a small file, so it may be called in an event
        loop.
        """
        value = self._read() if self._read is not None else None
        if value is not None and value.strip():
            self._secret_value = value
        return self._secret_value

    def get_secret_value(self) -> str:
        """As `get`: there is no second meaning."""
        return self.get()
