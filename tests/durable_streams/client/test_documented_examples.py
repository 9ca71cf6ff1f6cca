"""The examples in our documentation run as they stand; only the host is another one."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

import durable_streams
from durable_streams import DurableStream, testing
from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from durable_streams.testing import InMemoryStreamServer

HOST: Final = "https://streams.example.com"
DOCUMENTS: Final = (
    "README.md",
    "docs/client.md",
    "docs/durable-producer.md",
    "docs/server.md",
    "docs/testing.md",
)
MODULES: Final = (durable_streams, testing)
READINGS: Final = [
    {"device": "t1", "value": 20.5},
    {"device": "t2", "value": 19.0},
    {"device": "t1", "value": 20.6},
]


@dataclass(frozen=True)
class Example:
    """A fenced block of Python, and what the block of text right behind it says it prints."""

    place: str
    source: str
    output: str | None


def in_document(name: str) -> list[Example]:
    text = (REPOSITORY / name).read_text()
    blocks = re.finditer(r"^```python\n(.*?)^```\n(?:\n?```text\n(.*?)^```\n)?", text, re.DOTALL | re.MULTILINE)
    return [Example(f"{name}:{text.count(chr(10), 0, block.start()) + 1}", block[1], block[2]) for block in blocks]


def in_docstring(module: ModuleType) -> list[Example]:
    """The indented blocks of a module's docstring that begin with an import."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", f"{inspect.getdoc(module)}\n", re.MULTILINE)
    sources = [textwrap.dedent(block).strip() + "\n" for block in blocks]
    return [
        Example(module.__name__, source, None) for source in sources if source.startswith(("import ", "from "))
    ]


EXAMPLES: Final = [
    *(example for name in DOCUMENTS for example in in_document(name)),
    *(example for module in MODULES for example in in_docstring(module)),
]


@pytest.fixture
def host(server: InMemoryStreamServer, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """What stands for the host of the examples: it has the streams that they read."""
    for name, content_type, body in (
        ("readings", "application/json", READINGS),
        ("telemetry", "application/json", None),
    ):
        with DurableStream.create(f"{url}/{name}", content_type=content_type, body=body) as handle:
            if body is not None:
                handle.close_stream()
    monkeypatch.chdir(tmp_path)
    return url


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.place)
def test_it_runs_and_prints_what_it_says(
    example: Example, host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = example.source.replace(HOST, host)
    if re.search(r"^def test_", source, re.MULTILINE):
        run_as_tests(source, tmp_path)
        return
    run(source, example.place)
    if example.output is not None:
        assert capsys.readouterr().out == example.output


def run(source: str, name: str) -> None:
    """Run it as a module; what awaits at the top level, as the body of a coroutine."""
    code = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    namespace: dict[str, Any] = {"__name__": "example"}
    result = eval(code, namespace)
    if inspect.iscoroutine(result):
        asyncio.run(result)


def run_as_tests(source: str, folder: Path) -> None:
    (folder / "test_example.py").write_text(source)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_example.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout


def test_there_are_examples_of_everything() -> None:
    assert len(EXAMPLES) > 15
    everything = "\n".join(example.source for example in EXAMPLES)
    for name in (
        "stream(",
        "astream(",
        "DurableStream(",
        "AsyncDurableStream.",
        "IdempotentProducer(",
        "SyncIdempotentProducer(",
        "InMemoryStreamServer(",
        "on_error=",
        "trio.run",
        "TypedDict",
        "StreamNotFoundError",
    ):
        assert name in everything, name
