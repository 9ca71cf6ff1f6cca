"""What `ds-gateway status --json` prints."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ds_gateway.journal import JournalSnapshot, StreamSnapshot
from ds_gateway.mapping import LastReading
from ds_gateway.mqtt import MqttSnapshot
from ds_gateway.status import About, SourceStatus, document
from ds_gateway.uplink import UplinkSnapshot

ABOUT = About("line-7", "1", 1, datetime.now(UTC), 0.0, "http://h", "gateway.yaml", "0", "/data")
STREAM = StreamSnapshot(
    1, "t", "http://h/t", accepted=5, in_journal=5, in_stream=0, lost=0, shedding="", in_flight=0, epoch=0
)
JOURNAL = JournalSnapshot(0, 1, 1, full=False, shedding="", quarantined=0, losses={}, streams=(STREAM,))


def source(repeated: dict[str, int]) -> SourceStatus:
    snapshot = MqttSnapshot(
        name="hall",
        state="connected",
        reason="",
        connected_since=None,
        received=9,
        duplicates_dropped=3,
        repeated=repeated,
        without_key=0,
        unacked=0,
        lost_qos0=0,
        last_message_time=None,
        reconnects=0,
        session_present=False,
        packet_ids="unknown",
        sessions_lost=0,
        ids_missing=0,
        orders_waiting=2,
        orders_unacknowledged=1,
    )
    readings = {name: LastReading(name, "t", None, None, {}, count=4, rejected=1) for name in ("a", "b")}
    return SourceStatus("hall", snapshot, 0, readings, alarms=("too many devices",))


def status(uplinks: dict[int, UplinkSnapshot], repeated: dict[str, int]) -> dict[str, Any]:
    return document(ABOUT, [source(repeated)], JOURNAL, uplinks, None)


def test_a_reading_that_was_there_before_is_not_an_accepted_one() -> None:
    said = status({}, {"a": 3})
    assert [(each["name"], each["count"], each["repeated"]) for each in said["devices"]] == [
        ("a", 1, 3),
        ("b", 4, 0),
    ]
    assert "repeated" not in said["sources"][0]
    assert said["sources"][0]["alarms"] == ["too many devices"]


@pytest.mark.parametrize("stop", ["fenced", ""])
def test_a_stream_has_the_word_for_its_stop(stop: str) -> None:
    uplink = UplinkSnapshot("http://h/t", "halted", "why", "", None, 0, 1, stop)
    assert status({1: uplink}, {})["streams"][0]["stop"] == stop


def test_a_stream_that_begins_has_none_yet() -> None:
    assert status({}, {})["streams"][0]["stop"] == ""
