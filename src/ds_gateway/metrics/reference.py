"""The metrics as a page of the documentation: generated from the table, so that it cannot be wrong.

python -m ds_gateway.metrics.reference > docs/metrics.md
"""

from __future__ import annotations

import sys
from typing import Final

from ds_gateway.metrics.families import FAMILIES
from ds_gateway.metrics.family import MAX_LABEL_CHARACTERS, Family
from ds_gateway.metrics.reading import MAX_DEVICES

_HEAD: Final = f"""\
# Metrics

`GET /metrics` on the [status page's](status-page.md) address, in Prometheus' text format or OpenMetrics, whichever
the scraper asks for. Rules for alerts are in [alerts.yml](alerts.yml). This page is generated.

```yaml
# prometheus.yml
rule_files: [alerts.yml]
scrape_configs:
  - job_name: ds-gateway
    authorization: {{credentials_file: /etc/prometheus/ds-gateway.token}}   # where status.token is set
    static_configs: [{{targets: ["line-7.example:8437"]}}]
```

How many series a gateway has is bounded: names of sources are from the configuration, streams are limited by
`limits.max_streams`, and of devices the first {MAX_DEVICES} that spoke have series of their own. A label has at
most {MAX_LABEL_CHARACTERS} characters; a longer name ends with `~` and a piece of its digest. Counters of streams
go on after a restart, all others begin at 0. The gateway's own process is in the usual `process_*`.

| metric | kind | labels | |
|---|---|---|---|
"""


def page() -> str:
    """The table of all metrics, as Markdown."""
    return _HEAD + "".join(map(_row, FAMILIES))


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.shown_name}` | {family.kind} | {labels} | {family.help} |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
