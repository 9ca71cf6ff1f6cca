"""For readers: the times of records that were stamped while the gateway's clock was not synchronised.

    with stream(url, live=False) as res:
        for record in corrected(res.iter_json()):
            ...

It takes the records of one stream, in either envelope.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ds_gateway.records import control_info

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def corrected(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records of one stream, in their order, with what the gateway stamped wrongly set right.

    ``clock`` is "corrected" then. It stays "unsynced" where no ``clock`` record has come yet, or the boot ended
    before the clock was synchronised. `received` is what the gateway stamped, where there is one, else `time`.
    """
    bases: dict[str, datetime | None] = {}
    found: list[dict[str, Any]] = []
    for original in reversed(list(records)):
        record = dict(original)
        match control_info(record, "clock"):
            case {"boot": str(boot), "base": str(base)}:
                bases[boot] = datetime.fromisoformat(base)
            case {"boot": str(boot)}:
                bases[boot] = None
        if record.get("clock") == "unsynced" and (zero := bases.get(record["boot"])) is not None:
            instant = zero + timedelta(seconds=float(record["mono"]))
            stamped = "received" if "received" in record else "time"
            record[stamped] = instant.isoformat(timespec="microseconds").replace("+00:00", "Z")
            record["clock"] = "corrected"
        found.append(record)
    return found[::-1]
