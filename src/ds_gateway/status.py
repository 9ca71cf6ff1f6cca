"""What ``ds-gateway status --json`` prints, and the service manager's line: snapshots of all parts. Pure.

The shape of the status is public: keys may be added, none is renamed or removed.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.mqtt import MqttSnapshot
from ds_gateway.rates import UNKNOWN
from ds_gateway.records import rfc3339
from ds_gateway.serial_port import SerialSnapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ds_gateway.config.last_valid import Refused
    from ds_gateway.embedded import EmbeddedSnapshot
    from ds_gateway.journal import JournalSnapshot, StreamSnapshot
    from ds_gateway.mapping import LastReading
    from ds_gateway.rates import StreamRate
    from ds_gateway.uplink import UplinkSnapshot

MAX_LINE_CHARACTERS: Final = 500
MAX_PROBLEMS: Final = 50
MANY: Final = 1000
"""Records to send that are not counted any more."""

Snapshot = MqttSnapshot | SerialSnapshot


@dataclass(frozen=True, slots=True)
class About:
    """The running program."""

    gateway: str
    version: str
    pid: int
    started_at: datetime
    started_monotonic: float
    server_url: str
    config_path: str
    config_digest: str
    data_dir: str
    refused: Refused | None = None
    """Why the configuration file does not run, and what does instead; None: it runs."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One source at one instant."""

    name: str
    snapshot: Snapshot
    waiting_bytes: int
    """Bytes that wait for the journal."""
    readings: Mapping[str, LastReading]
    alarms: tuple[str, ...] = ()
    """What an operator must see to in what it brings, beside those of the source itself."""


def document(
    about: About,
    sources: list[SourceStatus],
    journal: JournalSnapshot,
    uplinks: Mapping[int, UplinkSnapshot],
    embedded: EmbeddedSnapshot | None,
    *,
    downlink: Mapping[str, Any] | None = None,
    clock: Mapping[str, Any] | None = None,
    health: Mapping[str, Any] | None = None,
    certificates: Sequence[Mapping[str, Any]] = (),
    oldest_seconds: float | None = None,
    page: Mapping[str, Any] | None = None,
    rates: Mapping[int, StreamRate] | None = None,
) -> dict[str, Any]:
    """Return the status as JSON values.

    ``embedded`` is null where the server is elsewhere, ``downlink`` where no device takes commands, ``health``
    where it has no stream. ``oldest_seconds``: how long the oldest record that is not sent has waited. ``rates``
    are by the number of the stream.
    """
    return {
        "gateway": {
            "id": about.gateway,
            "version": about.version,
            "pid": about.pid,
            "started_at": about.started_at.isoformat(timespec="seconds"),
            "uptime_seconds": round(time.monotonic() - about.started_monotonic, 1),
            "config": about.config_path,
            "config_digest": about.config_digest,
            "data_dir": about.data_dir,
            "config_refused": None if about.refused is None else _refused(about.refused),
        },
        "clock": clock,
        "page": page,
        "server": {"url": about.server_url},
        "embedded": None if embedded is None else dataclasses.asdict(embedded),
        "sources": [_source(source) for source in sources],
        "devices": [_device(source, reading) for source in sources for reading in source.readings.values()],
        "streams": [
            _stream(stream, uplinks.get(stream.number), (rates or {}).get(stream.number, UNKNOWN))
            for stream in journal.streams
        ],
        "downlink": downlink,
        "health": health,
        "certificates": list(certificates),
        "backlog": {
            "records": sum(stream.in_journal for stream in journal.streams),
            "oldest_seconds": oldest_seconds,
        },
        "journal": {
            "bytes": journal.bytes,
            "max_bytes": journal.max_bytes,
            "free_bytes": journal.free_bytes,
            "full": journal.full,
            "why_full": journal.why_full,
            "shedding": journal.shedding or None,
            "quarantined": journal.quarantined,
            "set_aside": list(journal.set_aside),
            "lost": sum(_lost(source.snapshot) for source in sources),
            "losses": {
                cause: {"entries": entries, "records": records}
                for cause, (entries, records) in sorted(journal.losses.items())
            },
        },
    }


def line(
    sources: Sequence[tuple[str, str]],
    journal: JournalSnapshot,
    uplinks: Mapping[int, UplinkSnapshot],
    *,
    embedded: str,
    downlink: str,
    config: str = "",
    certificates: str = "",
) -> str:
    """Return the one line for the service manager.

    Each source is a name and why it waits, ``embedded`` and ``downlink`` are what is wrong there; empty is fine.
    ``config``: the first mistake of a configuration that does not run, while the last valid one does.
    ``certificates``: what is wrong with them.
    """
    waiting = [f"{name}: {reason}" for name, reason in sources if reason]
    if embedded:
        waiting.append(f"embedded server: {embedded}")
    if downlink:
        waiting.append(f"commands: {downlink}")
    if certificates:
        waiting.append(certificates)
    troubled = [
        f"{stream.name}: {uplink.reason}"
        for stream in journal.streams
        if (uplink := uplinks.get(stream.number)) is not None and uplink.reason
    ]
    troubled += [f"{stream.name}: {why}" for stream in journal.streams if (why := _moving(stream))]
    backlog = sum(stream.in_journal for stream in journal.streams)
    words = [f"{len(sources)} sources, {len(journal.streams)} streams"]
    if config:
        words.insert(0, f"THE CONFIGURATION IS INVALID, THE LAST VALID ONE RUNS: {config}")
    if journal.full:
        fullest = max(journal.streams, key=lambda stream: stream.in_journal, default=None)
        most = f" (most of it is {fullest.name})" if fullest and fullest.in_journal else ""
        words.append(f"NO ROOM, SOURCES WAIT: {journal.why_full}{most}")
    if journal.shedding:
        which = "OLDEST" if journal.shedding == "shed_oldest" else "NEWEST"
        words.append(f"NO ROOM, THE {which} RECORDS ARE LOST: {journal.why_full}")
    words += [f"RECORDS OF {stream.name} ARE LOST" for stream in journal.streams if stream.shedding]
    if waiting or troubled:
        # Not with a count that changes every second: the line would be told as often.
        words.append(f"{backlog} records to send" if backlog < MANY else "catching up")
        words += [*waiting, *troubled]
    return "; ".join(words)[:MAX_LINE_CHARACTERS]


def _refused(refused: Refused) -> dict[str, Any]:
    return {
        "problems": [str(problem) for problem in refused.problems[:MAX_PROBLEMS]],
        "count": len(refused.problems),
        "running": str(refused.kept.at),
        "saved_at": refused.kept.saved_at,
    }


def _lost(snapshot: Snapshot) -> int:
    return snapshot.lost_qos0 if isinstance(snapshot, MqttSnapshot) else snapshot.overflow_lost


def _source(source: SourceStatus) -> dict[str, Any]:
    snapshot = source.snapshot
    values = {key: _plain(value) for key, value in dataclasses.asdict(snapshot).items()}
    is_mqtt = isinstance(snapshot, MqttSnapshot)
    values.pop("repeated", None)  # told of each device
    return {
        **values,
        "name": source.name,
        "kind": "mqtt" if is_mqtt else "serial",
        "received": snapshot.received if isinstance(snapshot, MqttSnapshot) else snapshot.received_frames,
        "lost": _lost(snapshot),
        "waiting_bytes": source.waiting_bytes,
        "alarms": [*(() if isinstance(snapshot, MqttSnapshot) else snapshot.alarms), *source.alarms],
    }


def _plain(value: object) -> object:
    return value.astimezone(UTC).isoformat(timespec="milliseconds") if isinstance(value, datetime) else value


def _device(source: SourceStatus, reading: LastReading) -> dict[str, Any]:
    snapshot = source.snapshot
    repeated = snapshot.repeated.get(reading.device, 0) if isinstance(snapshot, MqttSnapshot) else 0
    return {
        "name": reading.device,
        "stream": reading.stream,
        "source": source.name,
        "last_time": None if reading.time_ns is None else rfc3339(reading.time_ns),
        "last_data": None if reading.data is None else orjson.loads(reading.data),
        "units": dict(reading.units),
        # A reading is counted when it comes in; that it came before is known with the next commit.
        "count": max(reading.count - repeated, 0),
        "repeated": repeated,
        "rejected": reading.rejected,
        "last_rejection": reading.last_rejection,
        "suppressed": reading.suppressed,
        "untimed": reading.untimed,
        "last_untimed": reading.last_untimed,
    }


def _moving(stream: StreamSnapshot) -> str:
    """What somebody has begun and not ended."""
    if stream.exporting:
        return (
            f"{stream.exporting} records are marked for an export that did not end, and nobody sends them: run "
            "ds-gateway journal export again, or take them back with --cancel"
        )
    if stream.importing:
        return (
            "a half import, of which nothing is sent: run ds-gateway journal import again with its file, or give "
            "it up with --cancel"
        )
    return ""


def _stream(stream: StreamSnapshot, uplink: UplinkSnapshot | None, rate: StreamRate) -> dict[str, Any]:
    last_ok = None if uplink is None or uplink.last_ok_time is None else int(uplink.last_ok_time * 1e9)
    return {
        "name": stream.name,
        "url": stream.url if uplink is None else uplink.url,
        "state": "starting" if uplink is None else uplink.state,
        "reason": "; ".join(
            filter(None, ("" if uplink is None else uplink.reason, stream.shedding, _moving(stream)))
        ),
        "stop": "" if uplink is None else uplink.stop,
        "accepted": stream.accepted,
        "in_journal": stream.in_journal,
        "in_stream": stream.in_stream,
        "lost": stream.lost,
        "exported": stream.exported,
        "exporting": stream.exporting,
        "import": stream.imported or None,
        "in_flight": stream.in_flight,
        "epoch": stream.epoch,
        "failures": 0 if uplink is None else uplink.failures,
        "last_error": "" if uplink is None else uplink.last_error,
        "last_ok_time": None if last_ok is None else rfc3339(last_ok),
        **dataclasses.asdict(rate),
    }
