"""The health service over a real journal: what it writes there, and that it never takes room from telemetry."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from ds_gateway.health import Health
from ds_gateway.health.pace import MOST
from ds_gateway.health.report import MAX_INFO_BYTES
from ds_gateway.timekeeping import UNWATCHED
from harness.configuration import load_text
from harness.journal_box import JournalBox, covered, reading
from harness.waiting import await_until, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ds_gateway.config.models import Settings

CONFIGURATION = """\
gateway: {{id: g}}
data_dir: {data}
server: {{url: "http://127.0.0.1:1/v1"}}
serial: {{scale: {{port: /dev/null, stream: telemetry/a}}}}
{more}
"""
STREAM = "health/g"

pytestmark = pytest.mark.anyio


class Rig:
    """Health over a journal whose streams nobody sends unless the test does."""

    def __init__(self, settings: Settings, box: JournalBox) -> None:
        self.box = box
        self.now = 1000.0
        self.source = "connected"
        self.health = Health(settings, monotonic=lambda: self.now, look_seconds=1e6)

    def document(self) -> dict[str, Any]:
        snapshot = self.box.journal.snapshot()
        streams = [
            {"name": each.name, "state": "idle", "reason": "", "stop": ""}
            | {"accepted": each.accepted, "in_journal": each.in_journal}
            for each in snapshot.streams
        ]
        journal = {
            key: getattr(snapshot, key) for key in ("bytes", "max_bytes", "free_bytes", "full", "quarantined")
        }
        losses = {cause: {"entries": each[0], "records": each[1]} for cause, each in snapshot.losses.items()}
        return {
            "gateway": {"version": "1", "config_digest": "d", "config_refused": None, "uptime_seconds": self.now},
            "clock": None,
            "embedded": None,
            "downlink": None,
            "sources": [{"name": "scale", "state": self.source, "reason": "", "alarms": []}],
            "streams": streams,
            "certificates": self.health.certificates_now(),
            "journal": {**journal, "shedding": snapshot.shedding or None, "set_aside": [], "losses": losses},
        }

    async def start(self) -> None:
        self.health.start(self.box.journal, UNWATCHED, self.document)
        await await_until(self.is_committed, what="the first record is in the journal")

    def is_committed(self) -> bool:
        return self.written > 0 and self.health._intake.uncommitted == 0

    @property
    def written(self) -> int:
        summary = self.health.summary()
        assert summary is not None
        return int(summary["written"])

    def look(self, seconds: float) -> None:
        """So much later."""
        self.now += seconds
        self.health.look()
        wait_until(lambda: self.health._intake.uncommitted == 0, what="what was written is committed")

    async def sent(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self.box.drain, STREAM)  # it has a loop of its own


def settings_of(tmp_path: Path, more: str = "") -> Settings:
    return load_text(tmp_path, CONFIGURATION.format(data=tmp_path / "data", more=more)).settings


@pytest.fixture
def box(tmp_path: Path) -> Iterator[JournalBox]:
    box = JournalBox(tmp_path / "data", batch_max_bytes=20_000)
    box.open()
    yield box
    box.close()


@pytest.fixture
def rig(box: JournalBox, tmp_path: Path) -> Rig:
    return Rig(settings_of(tmp_path), box)


class TestRecords:
    async def test_come_at_the_start_each_interval_with_a_change_and_at_the_end(self, rig: Rig) -> None:
        await rig.start()
        rig.look(299)
        rig.look(1)
        rig.source = "waiting"
        rig.look(5)
        await rig.health.stop()
        records = await rig.sent()
        assert [each["info"]["reason"] for each in records] == ["start", "interval", "change", "stop"]
        assert [each["info"]["sources"] for each in records][1:] == [{"scale": "connected"}] + 2 * [
            {"scale": "waiting"}
        ]
        assert {(each["kind"], each["device"], each["gateway"]) for each in records} == {
            ("health", "@gateway", "g")
        }
        assert covered(records) == [1, 2, 3, 4]
        assert records[0]["info"]["boots"] == records[0]["info"]["starts"] == 1

    async def test_of_a_year_without_network_are_few_and_the_newest_comes_when_it_is_back(self, rig: Rig) -> None:
        await rig.start()
        for number in range(3 * 365):
            rig.source = "waiting" if number % 2 else "connected"
            rig.look(8 * 3600)
        assert rig.box.stream(STREAM).in_journal < 30
        assert rig.box.stream(STREAM).in_journal * MAX_INFO_BYTES < 256 * 1024
        kept = len(await rig.sent())
        await await_until(lambda: rig.box.stream(STREAM).in_journal == 0, what="it is told as sent")
        rig.source = "open"
        rig.look(5)
        newest = (await rig.sent())[-1]
        assert newest["info"]["uptime_seconds"] == round(rig.now)
        assert covered(await rig.sent()) == list(range(1, kept + 2)), "and nothing is a loss"

    async def test_are_as_cloudevents_where_all_are(self, box: JournalBox, tmp_path: Path) -> None:
        text = CONFIGURATION.replace("{{id: g}}", "{{id: g, envelope: cloudevents}}")
        settings = load_text(tmp_path, text.format(data=tmp_path / "data", more="")).settings
        rig = Rig(settings, box)
        await rig.start()
        await rig.health.stop()
        assert (await rig.sent())[0]["type"] == "ds-gateway.health"
        assert (await rig.sent())[0]["data"]["reason"] == "start"


class TestRoom:
    async def test_is_left_to_telemetry_while_the_journal_is_full(self, box: JournalBox, tmp_path: Path) -> None:
        box.restart(max_bytes=30_000, when_full="shed_oldest")
        rig = Rig(settings_of(tmp_path), box)
        await rig.start()
        for number in range(100):
            box.accept(reading(number, size=500))
        box.offer(reading(100, size=500))
        written = rig.written
        wait_until(lambda: box.journal.snapshot().shedding, what="records are shed")
        rig.look(3600)
        rig.look(3600)
        assert rig.written == written
        await rig.health.stop()
        assert rig.written == written
        await asyncio.to_thread(box.drain, "telemetry/a")
        wait_until(lambda: not box.journal.snapshot().shedding, what="there is room again")
        rig.look(5)

    async def test_of_a_small_journal_is_a_small_part(self, box: JournalBox, tmp_path: Path) -> None:
        box.restart(max_bytes=1024 * 1024)
        rig = Rig(settings_of(tmp_path), box)
        await rig.start()
        for _ in range(50):
            rig.look(86400)
        assert box.stream(STREAM).in_journal == 1024 * 1024 // 64 // MAX_INFO_BYTES == 2
        assert MOST > 2

    async def test_is_not_taken_where_it_is_switched_off(self, box: JournalBox, tmp_path: Path) -> None:
        rig = Rig(settings_of(tmp_path, "health: {enabled: false}"), box)
        rig.health.start(box.journal, UNWATCHED, rig.document)
        rig.health.look()
        await rig.health.stop()
        assert rig.health.summary() is None
        assert box.journal.snapshot().streams == ()


class TestWhatGoesWrong:
    async def test_a_certificate_that_takes_long_to_read_holds_up_nothing(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, answered = threading.Event(), threading.Event()

        def look() -> None:
            asked.set()
            answered.wait()

        rig.health.start(rig.box.journal, UNWATCHED, rig.document)
        monkeypatch.setattr(rig.health.certificates, "look", look)
        try:
            await await_until(asked.is_set, what="the files are being read")
        finally:
            answered.set()
        await await_until(rig.is_committed, what="the first record is in the journal")

    async def test_a_defect_in_it_stops_nothing(
        self, rig: Rig, box: JournalBox, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        looks: list[int] = []

        def document() -> dict[str, Any]:
            looks.append(1)
            if len(looks) < 3:
                raise ZeroDivisionError
            return rig.document()

        rig.health = Health(settings_of(tmp_path), look_seconds=0.001)
        rig.health.start(box.journal, UNWATCHED, document)
        await await_until(rig.is_committed, what="it goes on")
        await rig.health.end()
        assert "health.defect" in caplog.text


class TestTheStream:
    async def test_has_the_configured_name(self, box: JournalBox, tmp_path: Path) -> None:
        rig = Rig(settings_of(tmp_path, "health: {stream: 'fleet/{gateway}/health', interval_seconds: 60}"), box)
        await rig.start()
        rig.look(60)
        await rig.health.end()
        assert orjson.loads(box.demand("fleet/g/health", 20_000).body)[1]["info"]["reason"] == "interval"
