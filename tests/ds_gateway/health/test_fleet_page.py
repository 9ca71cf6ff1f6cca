"""docs/fleet.md: its program tells of boxes in trouble, and its record is as they are written."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ds_gateway.health import report
from durable_streams import DurableStream
from durable_streams.testing import InMemoryStreamServer
from harness.status_document import OWN, document

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "fleet.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def record(gateway: str, age: timedelta, **info: Any) -> dict[str, Any]:
    told = (datetime.now(UTC) - age).isoformat(timespec="microseconds").replace("+00:00", "Z")
    usual = {"reason": "interval", "backlog": {"records": 7, "oldest_seconds": 5}}
    return {"gateway": gateway, "time": told, "kind": "health", "info": {**usual, **info}}


def test_its_program_tells_of_boxes_that_are_silent_or_in_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with InMemoryStreamServer() as server:
        program = block("python").replace("https://streams.example.com/v1/stream", server.url("/v1"))

        def append(*records: dict[str, Any]) -> None:
            for each in records:
                with DurableStream(server.url(f"/v1/health/{each['gateway']}")) as handle:
                    handle.append(each)

        def told() -> list[str]:
            exec(program, {})
            return capsys.readouterr().out.splitlines()

        for gateway in ("line-7", "line-8"):
            with DurableStream.create(
                server.url(f"/v1/health/{gateway}"), content_type="application/json"
            ) as handle:
                handle.append({"kind": "birth", "info": {}})
        append(record("line-7", timedelta(hours=1)), record("line-8", timedelta(0), troubles=["scale: silent"]))
        silent, troubled, absent = told()
        assert silent.startswith("line-7: silent since 20")
        assert silent.endswith("with 7 records to send")
        assert troubled == "line-8: scale: silent"
        assert absent == "line-9: has never told anything"

        append(record("line-7", timedelta(0)), record("line-8", timedelta(0), reason="stop"))
        stopped, _ = told()
        assert stopped.startswith("line-8: was stopped at 20")

        with DurableStream(server.url("/v1/health/line-7")) as handle:
            handle.delete()
        deleted, *_ = told()
        assert deleted.startswith("line-7: cannot be read: "), "it was there before"


def test_its_record_has_the_members_that_records_have() -> None:
    shown = orjson.loads(block("json"))["info"]
    status = document(certificates=[{"name": "server", "not_after": "2030-01-01T00:00:00Z", "problem": "x"}])
    starts = {"boots": 1, "starts": 1}
    written = orjson.loads(report.info(status, OWN, reason="change", starts=starts, age_seconds=None))
    assert list(shown) == list(written)
    assert {key: list(shown[key]) for key in ("clock", "disk", "backlog")} == {
        key: list(written[key]) for key in ("clock", "disk", "backlog")
    }
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(written)
    assert "a record has 8 KiB at most" in PAGE
    assert report.MAX_INFO_BYTES == 8 * 1024
