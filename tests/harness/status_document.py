"""Status documents as `ds_gateway.status.document` makes them: what readers of them look at."""

from __future__ import annotations

from typing import Any

OWN = "health/line-7"
"""The health stream."""


def stream(name: str, **more: Any) -> dict[str, Any]:
    usual = {"state": "idle", "reason": "", "stop": "", "accepted": 10, "in_journal": 0, "in_stream": 10}
    return {"name": name, **usual, **more}


def source(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "state": "connected", "reason": "", "alarms": [], **more}


def document(**more: Any) -> dict[str, Any]:
    """A status document: what is read of it."""
    return {
        "gateway": {
            "version": "0.1.0",
            "config_digest": "abc",
            "config_refused": None,
            "uptime_seconds": 12.34,
        },
        "clock": {"synchronised": True, "steps": 0},
        "embedded": None,
        "sources": [source("hall")],
        "streams": [stream("telemetry/line-7"), stream(OWN, in_journal=3)],
        "downlink": None,
        "certificates": [],
        "journal": {
            "bytes": 1,
            "max_bytes": 2,
            "free_bytes": 3,
            "full": False,
            "why_full": "",
            "shedding": None,
            "quarantined": 0,
            "set_aside": [],
            "losses": {},
        },
        **more,
    }
