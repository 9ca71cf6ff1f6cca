"""The publisher's own id of a message (rule R3): found in the payload or the properties, and digested.

Digested together with the topic, because a publisher's ids are its own, and with the setting, so that ids from
another place are other ids.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.config.dedupe_key import DedupeKey
from ds_gateway.mqtt.packets import correlation_data, user_property

if TYPE_CHECKING:
    from ds_gateway.mqtt.packets import Publication

KEY_BYTES: Final = 16
"""Two keys with one digest would lose a message, and publishers could look for such keys: no fewer bytes."""
NO_KEY: Final = b""
MAX_JSON_BYTES: Final = 1024 * 1024
"""Larger payloads are not read for their key: they are refused anyway."""


class KeyReader:
    """Reads the key of each publication. Network thread only."""

    def __init__(self, setting: str) -> None:
        self._key = DedupeKey.parse(setting)
        self._base = blake2b(b"%b\0" % setting.encode(), digest_size=KEY_BYTES)

    def __call__(self, publication: Publication) -> bytes:
        """Return the digest of topic and key; `NO_KEY` if the message has no key. Raises `ProtocolError`."""
        found = self._find(publication)
        if not found:
            return NO_KEY
        digest = self._base.copy()
        digest.update(b"%d\0%b%b" % (len(publication.topic), publication.topic, found))
        return digest.digest()

    def _find(self, publication: Publication) -> bytes:
        match self._key.place:
            case "payload":
                return id_in_json(self._key.path, publication)
            case "user_property":
                return user_property(publication.properties, self._key.path[0].encode())
            case "correlation_data":
                return correlation_data(publication.properties)


def id_in_json(path: tuple[str, ...], publication: Publication) -> bytes:
    """The text or whole number at a JSON pointer, and which of the two it is."""
    payload = publication.payload
    if publication.missing_bytes or len(payload) > MAX_JSON_BYTES:
        return NO_KEY
    try:
        value: Any = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return NO_KEY
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isascii() and part.isdigit() and len(part) < 8:
            value = value[int(part)] if int(part) < len(value) else None
        else:
            return NO_KEY
    # Not a number with a fraction, nor one of more than 64 bits: two ids could become the same number.
    if isinstance(value, int) and not isinstance(value, bool):
        return b"n%d" % value
    if isinstance(value, str) and value:
        return b"s%b" % value.encode(errors="surrogatepass")
    return NO_KEY
