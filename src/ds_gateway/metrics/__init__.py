"""The status as Prometheus metrics. Pure: a status document in, text out.

How many series there are is known beforehand. Sources are in the configuration, streams are limited by it,
causes and outcomes are words of this program. Devices come from topics, that is from outside: the first
`MAX_DEVICES` have series of their own, and of all others it is only counted how many they are. No label has more
than `MAX_LABEL_CHARACTERS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from prometheus_client import PROCESS_COLLECTOR
from prometheus_client.exposition import choose_encoder

from ds_gateway.metrics.families import FAMILIES
from ds_gateway.metrics.family import MAX_LABEL_CHARACTERS
from ds_gateway.metrics.reading import MAX_DEVICES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry, Metric

    from ds_gateway.metrics.reading import Document

__all__ = ["FAMILIES", "MAX_DEVICES", "MAX_LABEL_CHARACTERS", "exposition"]


def exposition(document: Document, accept: str = "") -> tuple[bytes, str]:
    """All metrics as text, and its content type: the one that the scraper asked for with ``Accept``."""
    encode, content_type = choose_encoder(accept)
    text = encode(cast("CollectorRegistry", _Collected(document)))
    return text, content_type


class _Collected:
    """What the encoders take for a registry: they only collect."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            metric = family.metric(self._document)
            if metric.samples:
                yield metric
        yield from PROCESS_COLLECTOR.collect()
