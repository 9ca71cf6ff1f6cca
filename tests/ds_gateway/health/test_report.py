"""What a health record says: short, bounded, those in trouble first; and what of it is a change."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest

from ds_gateway.health.report import MAX_INFO_BYTES, Ages, info, state
from harness.status_document import OWN, document, source, stream


def said(status: dict[str, Any], *, age_seconds: float | None = None) -> dict[str, Any]:
    starts = {"boots": 2, "starts": 5}
    rendered = info(status, OWN, reason="interval", starts=starts, age_seconds=age_seconds)
    assert len(rendered) <= MAX_INFO_BYTES
    found: dict[str, Any] = orjson.loads(rendered)
    return found


class TestARecord:
    def test_of_a_gateway_that_is_well(self) -> None:
        assert said(document()) == {
            "reason": "interval",
            "version": "0.1.0",
            "config": "abc",
            "uptime_seconds": 12,
            "boots": 2,
            "starts": 5,
            "clock": {"synchronised": True, "steps": 0},
            "disk": {"bytes": 1, "max_bytes": 2, "free_bytes": 3},
            "backlog": {"records": 0, "oldest_seconds": None},
            "lost": {},
            "quarantined": 0,
            "sources": {"hall": "connected"},
            "streams": {"telemetry/line-7": "ok"},
        }

    def test_of_one_that_is_not_says_what_is_wrong_and_with_what(self) -> None:
        halted = stream("t/a", state="halted", stop="forgotten", reason="the server forgot", in_journal=7)
        status = document(
            sources=[source("hall", state="waiting", reason="no route"), source("scale", alarms=["silent"])],
            streams=[halted, stream("t/b", state="waiting", reason="refused"), stream(OWN, in_journal=99)],
            certificates=[
                {"name": "server", "not_after": "2030-01-01T00:00:00Z", "problem": ""},
                {"name": "server.tls.cert", "not_after": "2026-01-01T00:00:00Z", "problem": "expires in 3 days"},
            ],
        )
        status["journal"].update(full=True, why_full="the disk", losses={"qos0": {"entries": 1, "records": 12}})
        found = said(status, age_seconds=61.7)
        assert found["backlog"] == {"records": 7, "oldest_seconds": 62}
        assert found["streams"] == {"t/a": "halted: forgotten", "t/b": "waiting"}
        assert found["sources"] == {"hall": "waiting", "scale": "connected"}
        assert found["lost"] == {"qos0": 12}
        assert list(found["certificates"]) == ["server.tls.cert", "server"]
        assert found["troubles"] == [
            "the journal takes nothing, and the sources wait: the disk",
            "t/a: halted: the server forgot",
            "t/b: waiting: refused",
            "hall: no route",
            "scale: silent",
            "certificate server.tls.cert expires in 3 days",
        ]

    def test_of_a_clock_that_is_not_synchronised(self) -> None:
        (told,) = said(document(clock={"synchronised": False, "steps": 0}))["troubles"]
        assert told.startswith("the clock is not synchronised")

    def test_of_very_many_streams_names_those_in_trouble_first(self) -> None:
        many = [stream(f"telemetry/line-7/{'long' * 20}/{number}") for number in range(500)]
        many[400].update(state="parked", stop="closed", reason="it is closed")
        sources = [source(f"{'broker' * 30}-{number}") for number in range(200)]
        found = said(document(streams=many, sources=sources))
        first, *_, rest = found["streams"].items()
        assert first == (many[400]["name"], "parked: closed")
        assert rest == ("", 500 - len(found["streams"]) + 1)
        assert found["troubles"] == [f"{many[400]['name']}: parked: it is closed"]

    @pytest.mark.parametrize("trouble", ["x" * 100_000, "ü" * 100_000])
    def test_is_bounded_whatever_is_wrong(self, trouble: str) -> None:
        sources = [source(f"{number}", reason=f"{number}{trouble}") for number in range(300)]
        found = said(document(sources=sources))
        assert found["more_troubles"] + len(found["troubles"]) == 300


class TestAChange:
    def test_is_not_what_only_counts(self) -> None:
        before, after = document(), document()
        after["journal"].update(bytes=7, free_bytes=9)
        after["gateway"]["uptime_seconds"] = 99
        after["streams"] = [stream("telemetry/line-7", state="sending", accepted=99, in_journal=9), stream(OWN)]
        assert state(before, OWN) == state(after, OWN)

    def test_is_not_an_attempt_to_reconnect(self) -> None:
        states = [state(document(sources=[source("hall", state=each)]), OWN) for each in ("connecting", "waiting")]
        assert states[0] == states[1]

    def test_is_not_that_health_itself_waits(self) -> None:
        waiting = document(streams=[stream("telemetry/line-7"), stream(OWN, state="waiting", reason="refused")])
        assert state(waiting, OWN) == state(document(), OWN)

    @pytest.mark.parametrize(
        "change",
        [
            {"sources": [source("hall", state="waiting")]},
            {"streams": [stream("telemetry/line-7", state="waiting", reason="refused")]},
            {"streams": [stream("telemetry/line-7", state="halted", stop="fenced", reason="fenced")]},
            {"clock": {"synchronised": False}},
            {"certificates": [{"name": "server", "not_after": None, "problem": "has expired"}]},
            {"embedded": {"reason": "full"}},
            {"journal": {**document()["journal"], "full": True}},
            {"journal": {**document()["journal"], "losses": {"qos0": {"entries": 1, "records": 1}}}},
            {"gateway": {**document()["gateway"], "version": "0.2.0"}},
        ],
    )
    def test_is_what_somebody_should_know(self, change: dict[str, Any]) -> None:
        assert state({**copy.deepcopy(document()), **change}, OWN) != state(document(), OWN)


class TestTheAgeOfABacklog:
    def test_is_that_of_the_oldest_record(self) -> None:
        ages = Ages()
        look = [(0.0, 10, 0), (5.0, 14, 4), (10.0, 18, 8), (15.0, 18, 3), (20.0, 18, 0), (25.0, 19, 1)]
        seen = [
            ages.see([stream("a", accepted=accepted, in_journal=waiting)], now) for now, accepted, waiting in look
        ]
        # At 15 the records up to 15 are gone: the oldest came between 5 and 10.
        assert seen == [None, 0.0, 5.0, 5.0, None, 0.0]

    def test_is_that_of_the_stream_where_it_is_oldest(self) -> None:
        ages = Ages()
        for now, waiting in ((0.0, 1), (100.0, 2)):
            streams = [stream("a", accepted=waiting, in_journal=waiting), stream("b", in_journal=int(now > 0))]
            age = ages.see(streams, now)
        assert age == 100.0

    def test_never_looks_younger_when_it_gets_long(self) -> None:
        ages, now = Ages(), 0.0
        for number in range(1, 2001):
            now = number * 5.0
            assert ages.see([stream("a", accepted=number, in_journal=number)], now) == now - 5.0
        # All but the last hundred are sent: the oldest came 500 seconds ago, and is told as coarse as it is kept.
        age = ages.see([stream("a", accepted=2000, in_journal=100)], now)
        assert age is not None
        assert 99 * 5.0 <= age <= 99 * 5.0 + now / 16
