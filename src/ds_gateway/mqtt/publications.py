"""Publications -> items: the pipeline's answer, with what the gate needs to know of the delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ds_gateway.mqtt.keys import NO_KEY
from ds_gateway.mqtt.packets import Publication, digest_of, topic_digest
from ds_gateway.mqtt.tokens import Delivery, SessionStart
from ds_gateway.records import Item, Record, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.mqtt.keyless import Keyless
    from ds_gateway.mqtt.keys import KeyReader

_MAX_TOPICS: Final = 4096
_MAX_TOPIC_BYTES: Final = 1024
"""Longer ones are legal and not remembered: 4096 of the longest would take 500 MB."""


class Pipeline(Protocol):
    """Decoding and mapping: a message becomes a record, or bytes kept aside with a reason."""

    def __call__(self, topic: str, payload: bytes, time_ns: int) -> Record | Rejected | None:
        """Return the outcome, None for what is not reported; ``time_ns`` is when it came. Does not raise."""
        ...  # pragma: no cover


class Publications:
    """Builds items. Topics are decoded and digested once as long as there are not too many of them."""

    def __init__(
        self,
        source: str,
        pipeline: Pipeline,
        clock: Callable[[], int],
        key: KeyReader | None = None,
        *,
        keyless: Keyless | None = None,
        is_answer_topic: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._source = source
        self._pipeline = pipeline
        self._clock = clock
        self._key = key
        self._keyless = keyless
        self._is_answer_topic = is_answer_topic
        """Topics of answers to commands: what comes there is acknowledged in its turn, and is no reading."""
        self._unreported = 0
        self._topics: dict[bytes, tuple[str | None, bytes, bool]] = {}

    def item(self, publication: Publication, *, acked: int, generation: int) -> Item:
        """Return the item of one publication that just came in."""
        topic, digest, is_answer = self._topics.get(publication.topic) or self._learn(publication.topic)
        payload, now = publication.payload, self._clock()
        outcome: Record | Rejected | None
        if is_answer:
            outcome = None
        elif topic is None:
            outcome = Rejected(self._source, "", "the topic is not UTF-8", payload, now)
        elif publication.missing_bytes:
            size = len(payload) + publication.missing_bytes
            reason = f"a payload of {size} bytes on {topic} is too large; only its beginning is kept"
            outcome = Rejected(self._source, "", reason, payload, now)
        else:
            outcome = self._pipeline(topic, payload, now)
            self._unreported += outcome is None
        return Item(
            outcome,
            Delivery(
                publication.mid,
                publication.dup,
                publication.qos,
                publication.retain,
                digest,
                digest_of(publication),
                acked,
                generation,
                now,
                None if is_answer else self._key_of(publication),
            ),
        )

    def take_unreported(self) -> int:
        """How many readings since the last call are not reported: they were received all the same."""
        count, self._unreported = self._unreported, 0
        return count

    def _key_of(self, publication: Publication) -> bytes | None:
        if self._key is None:
            return None
        key = self._key(publication)
        if self._keyless is not None:
            self._keyless.saw(publication.topic, key=key != NO_KEY)
        return key

    @staticmethod
    def marker(token: object) -> Item:
        """Return an item that only keeps the token's place in the order."""
        # What one connection brought and what the next one brings never share a commit: rule R1 tells connections
        # apart by their commits.
        return Item(None, token, is_barrier=isinstance(token, SessionStart))

    def _learn(self, raw: bytes) -> tuple[str | None, bytes, bool]:
        try:
            topic = raw.decode()
        except UnicodeDecodeError:
            topic = None
        if len(self._topics) >= _MAX_TOPICS:
            self._topics.clear()
        known = (topic, topic_digest(raw), topic is not None and self._is_answer_topic(topic))
        if len(raw) <= _MAX_TOPIC_BYTES:
            self._topics[raw] = known
        return known
