"""What a health record says: the status document, in short, and bounded. Pure.

`info`    what is told
`state`   what of it counts as a change: how things are, not how many they are
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_INFO_BYTES: Final = 8 * 1024
MAX_NAMED: Final = 64
"""Sources, streams and troubles that are told by name, those in trouble first; fewer where names are long."""
MAX_REASON_CHARACTERS: Final = 300
_FINE: Final = frozenset({"connected", "open", "ok"})
_TRYING: Final = frozenset({"connecting", "waiting"})
"""States that a source goes through with every attempt while it is away: they count as one."""
_BUSY: Final = frozenset({"starting", "idle", "sending"})
"""States that a stream goes through all day while nothing is wrong: they are told as one."""
_MAX_SAMPLES: Final = 64


class Ages:
    """How long the oldest record that is not sent has waited, as far as that was seen since the start."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def see(self, streams: Sequence[Mapping[str, Any]], now: float) -> float | None:
        """Look at all streams (``now`` is monotonic); return the age in seconds of the oldest, or None.

        Of what waited at the start nobody knows for how long: it counts from then on.
        """
        oldest: float | None = None
        for stream in streams:
            seen = self._seen.setdefault(stream["name"], deque())
            done = stream["accepted"] - stream["in_journal"]
            while seen and seen[0][1] <= done:
                seen.popleft()
            if not seen or seen[-1][1] < stream["accepted"]:
                seen.append((now, stream["accepted"]))
                if len(seen) > _MAX_SAMPLES:
                    seen = self._seen[stream["name"]] = _half(seen)
            if stream["in_journal"]:
                age = now - seen[0][0]
                oldest = age if oldest is None else max(oldest, age)
            else:
                seen.clear()
        return oldest


def _half(seen: deque[tuple[float, int]]) -> deque[tuple[float, int]]:
    """Half as many samples: of two the time of the first and the position of the second. None looks younger."""
    pairs = list(seen)
    return deque(
        (first[0], second[1]) for first, second in zip(pairs[::2], [*pairs[1::2], pairs[-1]], strict=False)
    )


def state(document: Mapping[str, Any], own: str) -> dict[str, Any]:
    """What counts as a change, from a status document; ``own`` is the health stream."""
    gateway, journal = document["gateway"], document["journal"]
    return {
        "version": gateway["version"],
        "config": gateway["config_digest"],
        "refused": gateway["config_refused"] is not None,
        "synchronised": (document["clock"] or {}).get("synchronised"),
        "full": bool(journal["full"] or journal["shedding"]),
        "lost": {cause: losses["entries"] > 0 for cause, losses in journal["losses"].items()},
        "set_aside": list(journal["set_aside"]),
        "embedded": bool((document["embedded"] or {}).get("reason")),
        "sources": {
            each["name"]: "away" if each["state"] in _TRYING else each["state"] for each in document["sources"]
        },
        "streams": {each["name"]: _of_stream(each) for each in document["streams"] if each["name"] != own},
        "certificates": sorted(each["name"] for each in document["certificates"] if each["problem"]),
    }


def info(
    document: Mapping[str, Any], own: str, *, reason: str, starts: Mapping[str, int], age_seconds: float | None
) -> bytes:
    """The ``info`` of a record, as JSON, `MAX_INFO_BYTES` at most."""
    named = MAX_NAMED
    while True:
        said = orjson.dumps(_info(document, own, reason, starts, age_seconds, named=named))
        if len(said) <= MAX_INFO_BYTES or named == 0:
            return said
        named //= 2


def _info(
    document: Mapping[str, Any],
    own: str,
    reason: str,
    starts: Mapping[str, int],
    age_seconds: float | None,
    *,
    named: int,
) -> dict[str, Any]:
    gateway, journal, clock = document["gateway"], document["journal"], document["clock"] or {}
    streams = [each for each in document["streams"] if each["name"] != own]
    said: dict[str, Any] = {
        "reason": reason,
        "version": gateway["version"],
        "config": gateway["config_digest"],
        "uptime_seconds": round(gateway["uptime_seconds"]),
        **starts,
        "clock": {"synchronised": clock.get("synchronised"), "steps": clock.get("steps", 0)},
        "disk": {key: journal[key] for key in ("bytes", "max_bytes", "free_bytes")},
        "backlog": {
            "records": sum(each["in_journal"] for each in streams),
            "oldest_seconds": None if age_seconds is None else round(age_seconds),
        },
        "lost": {cause: losses["records"] for cause, losses in journal["losses"].items()},
        "quarantined": journal["quarantined"],
        "sources": _some({each["name"]: each["state"] for each in document["sources"]}, named),
        "streams": _some({each["name"]: _of_stream(each) for each in streams}, named),
    }
    if document["certificates"]:
        said["certificates"] = _certificates(document["certificates"], named)
    troubles = _troubles(document, streams)
    if troubles:
        said["troubles"] = troubles[:named]
        if len(troubles) > named:
            said["more_troubles"] = len(troubles) - named
    return said


def _of_stream(stream: Mapping[str, Any]) -> str:
    """A stream's state, all the usual ones as one; of one that has stopped with the word for it."""
    if stream["state"] in _BUSY and not stream["reason"]:
        return "ok"
    return f"{stream['state']}: {stream['stop']}" if stream["stop"] else str(stream["state"])


def _some(states: Mapping[str, str], named: int) -> dict[str, str | int]:
    """So many of them, those first that are not fine; how many of the others there are as ``""``."""
    chosen: dict[str, str | int] = dict(sorted(states.items(), key=lambda each: each[1] in _FINE)[:named])
    if len(states) > len(chosen):
        chosen[""] = len(states) - len(chosen)
    return chosen


def _certificates(certificates: Sequence[Mapping[str, Any]], named: int) -> dict[str, str | None]:
    """When each ends, the first of them first."""
    ends = {each["name"]: each["not_after"] for each in certificates}
    return dict(sorted(ends.items(), key=lambda each: each[1] or "")[: max(named, 1)])


def _troubles(document: Mapping[str, Any], streams: Sequence[Mapping[str, Any]]) -> list[str]:
    """What an operator should know, the worst first."""
    gateway, journal = document["gateway"], document["journal"]
    found: list[str] = []
    if gateway["config_refused"] is not None:
        first = next(iter(gateway["config_refused"]["problems"]), "")
        found.append(f"the configuration is invalid, and the last valid one runs: {first}")
    if journal["full"]:
        found.append(f"the journal takes nothing, and the sources wait: {journal['why_full']}")
    if journal["shedding"]:
        found.append(f"records are lost ({journal['shedding']}): {journal['why_full']}")
    if (document["clock"] or {}).get("synchronised") is False:
        found.append("the clock is not synchronised: records say so, and commands wait")
    found += [f"a damaged journal was set aside: {name}" for name in journal["set_aside"]]
    found += [f"{each['name']}: {each['state']}: {each['reason']}" for each in streams if each["reason"]]
    for source in document["sources"]:
        found += [f"{source['name']}: {each}" for each in (source["reason"], *source["alarms"]) if each]
    if document["embedded"] and document["embedded"].get("reason"):
        found.append(f"embedded server: {document['embedded']['reason']}")
    downlink = document["downlink"] or {}
    if downlink.get("reason"):
        found.append(f"commands: {downlink['reason']}")
    found += [
        f"certificate {each['name']} {each['problem']}" for each in document["certificates"] if each["problem"]
    ]
    return list(dict.fromkeys(text[:MAX_REASON_CHARACTERS] for text in found))
