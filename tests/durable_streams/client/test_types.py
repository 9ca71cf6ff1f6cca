"""What a type checker sees of the client: `tests/typing`, read by pyright as an editor does."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from harness.peers import REPOSITORY, require_peer

if TYPE_CHECKING:
    from pathlib import Path

WRONG = """\
from typing import assert_type
from durable_streams import DurableStream, IdempotentProducer, stream

def sync(url: str) -> None:
    with stream(url, live="websocket") as response:
        assert_type(response.read_json(decode=int), list[str])
    DurableStream(url).append(1).next_ofset
    DurableStream(url).append("a", seq=1)

async def asynchronous(url: str) -> None:
    producer = IdempotentProducer(url)
    (await (await producer.append(1))).offset.upper()
"""


def pyright(*arguments: str) -> list[dict[str, Any]]:
    """What it complains about."""
    program = require_peer("typing") / "node_modules" / "pyright" / "index.js"
    ran = subprocess.run(
        ["node", program, "--outputjson", "--pythonpath", sys.executable, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=290,
    )
    assert ran.returncode in {0, 1}, ran.stdout + ran.stderr
    report = json.loads(ran.stdout)
    assert report["summary"]["filesAnalyzed"] > 0
    complaints: list[dict[str, Any]] = report["generalDiagnostics"]
    return complaints


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "paths",
    [
        pytest.param(["tests/typing"], id="programs that use it"),
        pytest.param([], id="the package, too", marks=pytest.mark.soak),
    ],
)
def test_it_is_typed_strictly(paths: list[str]) -> None:
    complaints = pyright(*paths)
    shown = [f"{each['file']}:{each['range']['start']['line'] + 1}: {each['message']}" for each in complaints]
    assert not shown, "\n".join(shown)


@pytest.mark.timeout(300)
def test_what_a_program_does_wrong_is_found(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    configuration = {
        "include": ["wrong.py"],
        "extraPaths": [str(REPOSITORY / "src")],
        "typeCheckingMode": "strict",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(configuration))
    lines = {each["range"]["start"]["line"] + 1 for each in pyright("--project", str(tmp_path))}
    assert lines == {5, 6, 7, 8, 11, 12}
