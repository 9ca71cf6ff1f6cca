"""What can be wrong with a mapping: in the configuration, or in a name or a payload that came from outside."""

from __future__ import annotations

from typing import Final


class MappingError(ValueError):
    """A mistake in the configuration. ``key`` is the setting it is in, as ``topic`` or ``commands.reply.topic``.

    ``index`` is the place of the device in its source's list, where the mistake concerns one of several.
    """

    def __init__(self, message: str, *, key: str, index: int | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.index = index


class RefusedNameError(ValueError):
    """A name is refused; the text is what the quarantine or the receipt shows, ``code`` the receipt's."""

    def __init__(self, message: str, *, code: str = "unknown_device") -> None:
        super().__init__(message)
        self.code = code


class RefusedPayloadError(ValueError):
    """What a command brings does not fit its device; the text is the reason that the receipt shows."""

    code: Final = "bad_payload"
