"""Messages without the key that ``dedupe_key`` looks for: nobody would notice, because they are taken."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ds_gateway.logs import event, logger

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logger("mqtt")
TOLD_EVERY_SECONDS: Final = 3600.0
_MAX_SHOWN: Final = 256


class Keyless:
    """Tells the log of the first one, and once an hour while there are more. Network thread; `reason` from any."""

    def __init__(self, source: str, dedupe_key: str, monotonic: Callable[[], float]) -> None:
        self._source = source
        self._dedupe_key = dedupe_key
        self._monotonic = monotonic
        self._told_at = -math.inf
        self._untold = 0
        self._found = False
        self.reason = ""
        """Says, as long as no message had the key, that none had it; empty when one had."""

    def saw(self, topic: bytes, *, key: bool) -> None:
        """A message came in, with the key or without."""
        if key:
            if not self._found:
                self._found, self.reason = True, ""
            return
        self._untold += 1
        now = self._monotonic()
        if now - self._told_at < TOLD_EVERY_SECONDS:
            return
        shown = topic[:_MAX_SHOWN].decode(errors="replace")
        if not self._found:
            self.reason = (
                f"no message so far has its dedupe_key {self._dedupe_key} (looked for on {shown}): what is "
                f"repeated is taken twice; correct mqtt.{self._source}.dedupe_key or the publisher"
            )
        event(
            _log,
            "warning",
            "mqtt.without_key",
            source=self._source,
            topic=shown,
            dedupe_key=self._dedupe_key,
            messages=self._untold,
            hint="these messages are taken, and their repetitions, too; correct "
            f"mqtt.{self._source}.dedupe_key or the publisher",
        )
        self._told_at, self._untold = now, 0
