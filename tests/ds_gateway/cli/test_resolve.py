"""``ds-gateway resolve``: wrong use, what is asked of the gateway, what is printed, exit statuses."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from anyio.from_thread import start_blocking_portal

from ds_gateway.cli.resolve import resolve
from ds_gateway.control import ControlServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from harness.command import Command

ROW: dict[str, Any] = {
    "name": "telemetry/a",
    "state": "halted",
    "reason": "a batch is unresolved\x1b[2J",
    "old_url": "http://old",
    "new_url": "http://new",
    "choices": ["one", "two"],
}


@contextmanager
def gateway_at(path: Path, *rows: Mapping[str, Any]) -> Iterator[list[Mapping[str, Any]]]:
    """Something that answers ``resolve`` on this socket; yields what it was asked."""
    asked: list[Mapping[str, Any]] = []

    def answer(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.append(arguments)
        return {"streams": list(rows)}

    with start_blocking_portal() as portal:
        server = ControlServer(path, {"resolve": answer})
        portal.call(server.start)
        try:
            yield asked
        finally:
            portal.call(server.stop)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.yaml"
    file.write_text("data_dir: .\n")
    return file


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name one stream, or give --all"),
        (("s", "--all"), "not both"),
        (("s", "--old-server-gone"), "belong to --retarget"),
        (("s", "--token-file", "t"), "belong to --retarget"),
        (("s", "--retarget", "--old-server-gone", "--token-file", "t"), "leave --token-file out"),
        (("s", "--retarget", "--token-file", "/nowhere/t"), "cannot be read: No such file"),
        (("s", "--retarget", "--timeout", "0"), "--timeout"),
        (("s", "--retarget", "--timeout", "soon"), "--timeout"),
    ],
)
def test_wrong_use(command: Command, config: Path, arguments: tuple[str, ...], told: str) -> None:
    done = command("resolve", "--config", config, *arguments)
    assert (done.code, done.stdout) == (2, "")
    assert told in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb\n", b"\xff\n"])
def test_a_file_that_is_no_token(command: Command, config: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    done = command("resolve", "s", "--retarget", "--config", config, "--token-file", tmp_path / "token")
    assert done.code == 2
    assert "is no token" in " ".join(done.stderr.replace("│", " ").split())


def test_without_a_gateway(command: Command, config: Path) -> None:
    done = command("resolve", "--all", "--config", config)
    assert done.code == 1
    assert "no gateway is running" in done.stderr


def test_shows_why_and_the_choices(command: Command, config: Path) -> None:
    with gateway_at(config.parent / "control.sock", ROW) as asked:
        done = command("resolve", "telemetry/a", "--config", config)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == "telemetry/a: halted: a batch is unresolved\\x1b[2J\n  - one\n  - two\n"
    assert asked == [
        {
            "stream": "telemetry/a",
            "action": "show",
            "old_server_gone": False,
            "seconds": 60.0,
            "token": None,
            "skip_to": None,
        }
    ]


@pytest.mark.parametrize(("done", "code"), [(True, 0), (False, 1)])
def test_retarget_says_what_became_of_it(
    command: Command, config: Path, tmp_path: Path, *, done: bool, code: int
) -> None:
    (tmp_path / "token").write_text("secret\n")
    arguments = ("--retarget", "--token-file", tmp_path / "token", "--timeout", "3", "--config", config)
    with gateway_at(config.parent / "control.sock", {**ROW, "done": done, "told": "moved"}) as asked:
        ended = command("resolve", "--all", *arguments)
    assert (ended.code, ended.stdout, ended.stderr) == (code, "telemetry/a: moved\n", "")
    assert asked[-1] == (
        {
            "stream": None,
            "action": "retarget",
            "old_server_gone": False,
            "seconds": 3.0,
            "token": "secret",
            "skip_to": None,
        }
    )


def test_each_old_server_has_the_whole_time(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    waits: list[tuple[str, float]] = []
    rows = [{**ROW, "old_url": url} for url in ("http://old", "http://old", "http://older", None)]

    def answer(
        _data_dir: str, _sockets: object, _verb: str, wait: float, *, action: str, **_arguments: object
    ) -> dict[str, Any]:
        waits.append((action, wait))
        return {"streams": [{**row, "done": True, "told": "moved"} for row in rows]}

    monkeypatch.setitem(resolve.__globals__, "ask", answer)  # the module has its function's name
    resolve(every=True, retarget=True, timeout=100.0, config=config)
    resolve("s", retarget=True, timeout=100.0, config=config)
    resolve(every=True, retarget=True, old_server_gone=True, timeout=100.0, config=config)
    assert waits == [("show", 60.0), ("retarget", 260.0), ("retarget", 160.0), ("retarget", 160.0)]


@pytest.mark.parametrize(
    ("option", "told"), [("--all", "no stream is halted\n"), ("--retarget", "no stream is to be moved\n")]
)
def test_nothing_to_do(command: Command, config: Path, option: str, told: str) -> None:
    with gateway_at(config.parent / "control.sock"):
        done = command("resolve", *dict.fromkeys(("--all", option)), "--config", config)
    assert (done.code, done.stdout) == (0, told)


def test_as_json(command: Command, config: Path) -> None:
    with gateway_at(config.parent / "control.sock", {**ROW, "done": False}):
        done = command("resolve", "--all", "--retarget", "--json", "--config", config)
    assert done.code == 1
    assert json.loads(done.stdout) == {"streams": [{**ROW, "done": False}]}
