"""docs/reading-streams.md: its programs run as they stand, one after the other, and again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from durable_streams import DurableStream
from durable_streams.testing import InMemoryStreamServer
from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PAGE = (REPOSITORY / "docs/reading-streams.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
RECORDS = [
    {"id": "b.0.x", "kind": "birth", "info": {}},
    *(
        {"id": f"a.b.{n}", "device": "t1", "time": "2026-11-22T17:46:58.105905Z", "data": {"n": n}}
        for n in (1, 2, 3)
    ),
    {"id": "a.b.4", "kind": "loss", "info": {"cause": "shed_oldest", "certain": True, "count": 1290}},
]


def test_each_program_prints_what_the_page_says_and_adds_nothing_the_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(PROGRAMS) == 2
    monkeypatch.chdir(tmp_path)
    with (
        InMemoryStreamServer() as server,
        DurableStream.create(
            server.url("/v1/stream/telemetry/line-7/a"), content_type="application/json"
        ) as handle,
    ):
        for record in RECORDS:
            handle.append(record)
        for program, printed in [*PROGRAMS, *PROGRAMS]:
            exec(program.replace("https://streams.example.com", server.url("").rstrip("/")), {})
            assert capsys.readouterr().out == printed
