"""One metric, and what keeps its labels short."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from prometheus_client import Metric

    from ds_gateway.metrics.reading import Document, Samples

MAX_LABEL_CHARACTERS: Final = 128
_DIGEST_CHARACTERS: Final = 8


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: what it is called, what it says, and how it is read from a status document."""

    name: str
    """A counter's without the ``_total`` that its samples have."""
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...]
    samples: Samples

    @property
    def shown_name(self) -> str:
        """As it stands in the text."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    def metric(self, document: Document) -> Metric:
        """It, with its samples."""
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = make(self.name, self.help, labels=self.labels)
        for labels, value in self.samples(document):
            if value is not None:
                metric.add_metric([bounded(label) for label in labels], value)
        return metric


def bounded(label: str) -> str:
    """The label, if it is not too long; otherwise its beginning, and enough of its digest to stay different."""
    if len(label) <= MAX_LABEL_CHARACTERS:
        return label
    digest = hashlib.sha256(label.encode(errors="surrogatepass")).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{label[: MAX_LABEL_CHARACTERS - _DIGEST_CHARACTERS - 1]}~{digest}"
