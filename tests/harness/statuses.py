"""Status documents as a gateway makes them: by its own function, from snapshots that a test chooses."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.journal import JournalSnapshot, StreamSnapshot
from ds_gateway.mapping import LastReading
from ds_gateway.mqtt import MqttSnapshot
from ds_gateway.rates import StreamRate
from ds_gateway.serial_port import SerialSnapshot
from ds_gateway.status import About, SourceStatus, document
from ds_gateway.uplink import UplinkSnapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GATEWAY: Final = "line-7"
_MIB: Final = 1024 * 1024


def about() -> About:
    """The program."""
    return About(
        gateway=GATEWAY,
        version="0.1.0",
        pid=412,
        started_at=datetime.now(UTC) - timedelta(days=3, hours=4),
        started_monotonic=time.monotonic() - 3 * 86400 - 4 * 3600,
        server_url="https://streams.example.com/v1/stream",
        config_path="/etc/ds-gateway/gateway.yaml",
        config_digest="5f0c21d2a9b4",
        data_dir="/var/lib/ds-gateway",
    )


def reading(device: str, data: bytes | None = b'{"temperature":21.4,"humidity":48}', **more: Any) -> LastReading:
    """The newest reading of a device, three seconds old."""
    given = {"count": 18234, "rejected": 0, "units": {"temperature": "Cel", "humidity": "%"}, **more}
    return LastReading(device, "telemetry/line-7/hall-a", time.time_ns() - 3_000_000_000, data, **given)


def mqtt(name: str = "hall-broker", *, readings: Iterable[LastReading] = (), **more: Any) -> SourceStatus:
    """A broker, connected unless told otherwise."""
    values = {
        "state": "connected",
        "reason": "",
        "connected_since": datetime.now(UTC) - timedelta(hours=4),
        "received": 54_702,
        "duplicates_dropped": 3,
        "repeated": {},
        "without_key": 0,
        "unacked": 0,
        "lost_qos0": 0,
        "last_message_time": datetime.now(UTC) - timedelta(seconds=1),
        "reconnects": 1,
        "session_present": True,
        "packet_ids": "sequential",
        "sessions_lost": 0,
        "ids_missing": 0,
        "orders_waiting": 0,
        "orders_unacknowledged": 0,
        **more,
    }
    return SourceStatus(name, MqttSnapshot(name=name, **values), 0, {each.device: each for each in readings})


def serial(name: str = "scale-1", *, readings: Iterable[LastReading] = (), **more: Any) -> SourceStatus:
    """A port, open unless told otherwise."""
    values = {
        "state": "open",
        "reason": "",
        "received_frames": 8_120,
        "received_bytes": 97_440,
        "last_frame_time_ns": time.time_ns() - 500_000_000,
        **more,
    }
    return SourceStatus(name, SerialSnapshot(**values), 0, {each.device: each for each in readings})


def stream(number: int, name: str, **more: Any) -> StreamSnapshot:
    """A stream, all of it sent unless told otherwise."""
    values = {"accepted": 54_702, "in_journal": 0, "in_stream": 54_702, "lost": 0, "in_flight": 0, "epoch": 1}
    url = f"https://streams.example.com/v1/stream/{name}"
    return StreamSnapshot(number, name, url, **{**values, "shedding": "", **more})


def uplink(**more: Any) -> UplinkSnapshot:
    """The uplink of a stream, idle unless told otherwise."""
    values = {
        "url": "https://streams.example.com/v1/stream/t",
        "state": "idle",
        "reason": "",
        "last_error": "",
        "last_ok_time": time.time() - 2,
        "failures": 0,
        "epoch": 1,
    }
    return UplinkSnapshot(**{**values, **more})


def journal(*streams: StreamSnapshot, **more: Any) -> JournalSnapshot:
    """A journal, with room unless told otherwise."""
    values = {
        "bytes": 81 * _MIB,
        "max_bytes": 2048 * _MIB,
        "free_bytes": 9500 * _MIB,
        "full": False,
        "shedding": "",
        "quarantined": 0,
        "losses": {},
    }
    return JournalSnapshot(streams=streams, **{**values, **more})


CLOCK: Final[Mapping[str, Any]] = {
    "synchronised": True,
    "trusted": False,
    "since": "2026-03-01T08:00:04Z",
    "boot": "9c0f1a2b",
    "steps": 0,
    "last_step": None,
}


def well(
    sources: Iterable[SourceStatus] = (),
    snapshot: JournalSnapshot | None = None,
    uplinks: Mapping[int, UplinkSnapshot] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """What a gateway says to which nothing has happened, unless told otherwise."""
    kept = snapshot or journal(stream(1, "telemetry/line-7/hall-a"))
    rates = {each.number: StreamRate(2.5, 2.5, 0.0 if not each.in_journal else 95.0) for each in kept.streams}
    given = {"clock": CLOCK, "rates": rates, **more}
    return document(
        about(),
        list(sources) or [mqtt(readings=[reading("hall-a/t1"), reading("hall-a/t2")])],
        kept,
        uplinks or {each.number: uplink() for each in kept.streams},
        None,
        **given,
    )


def troubled() -> dict[str, Any]:
    """What a gateway says that has every trouble at once."""
    names = ("telemetry/line-7/hall-a", "telemetry/line-7/scales", "receipts/line-7")
    streams = (
        stream(1, names[0], accepted=60_000, in_stream=54_702, in_journal=5_298, in_flight=400),
        stream(2, names[1], accepted=8_120, in_stream=8_000, in_journal=117, lost=3),
        stream(3, names[2], accepted=12, in_stream=12),
    )
    refused = uplink(
        state="waiting",
        reason="HTTP 503: busy; the same bytes are sent again",
        last_error="HTTP 503: busy",
        failures=4,
    )
    halted = uplink(
        state="halted",
        reason="it is gone (404): `ds-gateway resolve telemetry/line-7/scales` shows what can be done",
        stop="lost",
        last_ok_time=time.time() - 7_300,
    )
    hall = [
        reading("hall-a/t1"),
        reading("hall-a/t2", b'{"temperature":-3.25,"humidity":71}'),
        reading("hall-a/door", b'{"open":true}', units={}, rejected=2, last_rejection="field temp is missing"),
    ]
    said = well(
        [
            mqtt(readings=hall),
            serial(
                state="waiting",
                reason="/dev/serial/by-id/usb-FTDI_1234: no such device; plug it in, it is opened then",
                readings=[reading("scale-1", b'{"weight":12.04}', units={"weight": "kg"})],
            ),
            serial("meter", alarms=("no answer from 2 of 4 devices: check addresses and wiring",), state="alarm"),
        ],
        journal(*streams, losses={"session_lost": (1, 0), "shed_newest": (2, 3)}, quarantined=2),
        {1: refused, 2: halted, 3: uplink()},
        clock={
            **CLOCK,
            "synchronised": False,
            "steps": 1,
            "last_step": {"time": "2026-03-01T08:00:04Z", "seconds": 3.5},
        },
        downlink={
            "state": "reading",
            "reason": "",
            "offset": "0_1",
            "number": 12,
            "stream": "commands/line-7",
            "receipts": "receipts/line-7",
            "up_to_date": True,
            "open": 1,
            "counts": {"delivered": 11, "failed": 1},
        },
    )
    said["certificates"] = [
        {
            "name": "server.tls.cert",
            "path": "/etc/ds-gateway/client.pem",
            "subject": "CN=line-7",
            "not_after": "2026-03-20T00:00:00Z",
            "days_left": 12.4,
            "problem": "ends in 12 days: renew it, the file is read again at the next connection",
        }
    ]
    return said
