"""Records as CloudEvents 1.0: what the specification demands, and that everybody here reads both envelopes."""

from __future__ import annotations

import json
import re
from contextlib import closing
from typing import TYPE_CHECKING, Any, get_args

import pytest

from ds_gateway.records import (
    READING_TYPE,
    Envelope,
    Loss,
    control_info,
    control_tail,
    element,
    loss_tail,
    telemetry_prefix,
    telemetry_tail,
    telemetry_tail_after,
)
from durable_streams.testing import InMemoryStreamServer
from harness.audit import StreamReader
from harness.command import Command
from harness.gateway_process import GatewayProcess
from harness.pty_device import PtyDevice
from harness.wall_clock import Clocks

if TYPE_CHECKING:
    from pathlib import Path

    from harness.processes import Processes

NOW_NS = 1_772_366_400_000_123_456


def problems(event: dict[str, Any]) -> list[str]:
    """Where a message breaks CloudEvents 1.0 (sections 3.1, 3.2) in its JSON format (structured mode)."""
    found = [
        f"no {name}"
        for name in ("id", "source", "specversion", "type")
        if not isinstance(event.get(name), str) or not event[name]
    ]
    if event.get("specversion") != "1.0":
        found.append("specversion")
    for name, value in event.items():
        if not re.fullmatch(r"[a-z0-9]{1,20}", name):
            found.append(f"the name {name}")
        if name != "data" and not isinstance(value, str | bool | int):
            found.append(f"{name} is no simple value")
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", event.get("time", "")):
        found.append("time")
    if event.get("datacontenttype") != "application/json":
        found.append("datacontenttype")
    return found


def test_a_reading_is_a_cloud_event() -> None:
    tail = telemetry_tail(
        gateway="line-7",
        device="a/t1",
        time_ns=NOW_NS,
        received_ns=NOW_NS,
        data=b'{"t":21.50}',
        envelope="cloudevents",
    )
    event = json.loads(element("zuij37kv.r5amlv.2", tail))
    assert problems(event) == []
    assert event == {
        "id": "zuij37kv.r5amlv.2",
        "specversion": "1.0",
        "source": "/ds-gateway/line-7",
        "type": READING_TYPE,
        "subject": "a/t1",
        "datacontenttype": "application/json",
        "gateway": "line-7",
        "device": "a/t1",
        "time": "2026-03-01T12:00:00.000123Z",
        "received": "2026-03-01T12:00:00.000123Z",
        "data": {"t": 21.5},
    }


def test_a_control_record_is_a_cloud_event_with_a_kind() -> None:
    loss = Loss("shed_oldest", certain=True, count=2, first_ns=NOW_NS, last_ns=NOW_NS, devices={"a": 2})
    tail = loss_tail(loss, gateway="line-7", time_ns=NOW_NS, positions=(1, 2), envelope="cloudevents")
    event = json.loads(element("x.y.1", tail))
    assert problems(event) == []
    assert (event["type"], event["kind"], event["subject"]) == ("ds-gateway.loss", "loss", "@gateway")
    assert "info" not in event
    assert event["data"]["first_position"] == 1


def test_what_is_said_of_the_clock_is_attributes_of_a_cloud_event() -> None:
    clocks = Clocks()
    clocks.boot_ns = 83_412_907_000
    said = clocks.timekeeper(envelope="cloudevents").stamp()[1]
    prefix = telemetry_prefix(gateway="line-7", device="a/t1", envelope="cloudevents")
    event = json.loads(element("x.y.1", telemetry_tail_after(prefix, NOW_NS, b"{}", said)))
    assert problems(event) == []
    assert (event["clock"], event["boot"], event["mono"]) == ("unsynced", "11111111", "83.412907")


@pytest.mark.parametrize("envelope", get_args(Envelope))
def test_what_a_control_record_says_is_read_from_both(envelope: Envelope) -> None:
    tail = control_tail(
        gateway="g", device="d", time_ns=NOW_NS, kind="birth", info=b'{"epoch":3}', envelope=envelope
    )
    record = json.loads(element("b.3.x", tail))
    assert control_info(record, "birth") == {"epoch": 3}
    assert control_info(record, "loss") == {}


@pytest.mark.parametrize("envelope", get_args(Envelope))
def test_a_reading_is_no_control_record_whatever_a_device_sends(envelope: Envelope) -> None:
    data = b'{"kind":"loss","info":{"first_position":1},"specversion":"1.0","data":{"first_position":1}}'
    tail = telemetry_tail(gateway="g", device="d", time_ns=NOW_NS, data=data, envelope=envelope)
    assert control_info(json.loads(element("x.y.1", tail)), "loss") == {}


@pytest.mark.parametrize(
    "message", [None, 1, "x", [], {}, {"kind": "loss"}, {"kind": 1, "info": {}}, {"info": {}}]
)
def test_anything_in_a_stream_can_be_looked_at(message: Any) -> None:
    assert control_info(message, "loss") == {}


def test_a_gateways_stream_is_cloud_events_and_its_audit_proves_it(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(InMemoryStreamServer()) as server, PtyDevice(tmp_path / "scale") as device:
        base_url = server.url("/v1")
        settings = {
            "gateway": {"id": "line-7", "envelope": "cloudevents"},
            "server": {"url": base_url},
            "journal": {"min_free_bytes": 0},
            "serial": {
                "scale": {
                    "port": str(device.path),
                    "decode": "number",
                    "fields": {"weight": {"from": "value", "unit": "kg"}},
                    "report": {"on_change": True},
                }
            },
        }
        device.plug()
        gateway = GatewayProcess(processes, tmp_path, settings)
        gateway.start()
        gateway.wait_for(lambda status: status["sources"][0]["state"] == "open", what="the port is open")
        device.send(b"\n12.5\n12.5\n13.0\n")
        gateway.wait_delivered(3)  # two readings and what the journal says of the device
        events = StreamReader(f"{base_url}/telemetry/line-7").try_read()
        assert [problems(event) for event in events] == [[]] * 4
        assert [event["type"] for event in events] == [
            "ds-gateway.birth",
            "ds-gateway.device",
            READING_TYPE,
            READING_TYPE,
        ]
        assert [event["data"] for event in events[2:]] == [{"weight": 12.5}, {"weight": 13.0}]
        assert gateway.terminate() == 0
        done = Command(monkeypatch, capsys)("audit", "--json", "--config", gateway.config)
        assert done.code == 0, done.stdout + done.stderr
        (stream,) = json.loads(done.stdout)["streams"]
        assert (stream["accepted"], stream["appended"], stream["findings"]) == (3, 3, [])
