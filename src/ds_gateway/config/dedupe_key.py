"""``dedupe_key``: where a publisher puts its own message id.

/id                    a JSON pointer (RFC 6901) into the payload
user_property:NAME     a user property of MQTT 5
correlation_data       the correlation data of MQTT 5
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

_USER_PROPERTY: Final = "user_property:"
_CORRELATION_DATA: Final = "correlation_data"
_BAD_ESCAPE = re.compile(r"~(?![01])")
_FORMS: Final = (
    "must be a JSON pointer into the payload (/id is the member id), user_property:NAME or correlation_data"
)


@dataclass(frozen=True, slots=True)
class DedupeKey:
    """Where the id is. ``path``: the pointer's parts, or the property's name alone."""

    place: Literal["payload", "user_property", "correlation_data"]
    path: tuple[str, ...] = ()

    @property
    def is_property(self) -> bool:
        """Whether it needs MQTT 5."""
        return self.place != "payload"

    @classmethod
    def parse(cls, text: str) -> DedupeKey:
        """Read the setting. Raises ValueError that says what is wrong, and how it is written."""
        if text == _CORRELATION_DATA:
            return cls("correlation_data")
        if text.startswith(_USER_PROPERTY):
            name = text.removeprefix(_USER_PROPERTY)
            if not name or name != name.strip():
                raise ValueError(_FORMS)
            return cls("user_property", (name,))
        if not text.startswith("/"):
            raise ValueError(_FORMS)
        if _BAD_ESCAPE.search(text):
            raise ValueError("must have a ~ only in ~0, which stands for ~, and in ~1, which stands for /")
        if "" in text[1:].split("/"):
            raise ValueError("must name a member behind each slash; the member id is /id")
        # In this order: ~01 is ~1, not a slash.
        parts = (part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/"))
        return cls("payload", tuple(parts))
