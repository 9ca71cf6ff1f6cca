"""The command ``durable-streams serve``: as a process, and inside this one where it does not come to serving."""

from __future__ import annotations

import signal
import sqlite3
import stat
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.processes import Processes, console_script

if TYPE_CHECKING:
    from pathlib import Path

    from harness.processes import ChildProcess
    from harness.stream_command import Ended, StreamCommand

TEXT = {"content-type": "text/plain"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def serve(processes: Processes, data: Path, *arguments: str | Path) -> ChildProcess:
    return processes.start([console_script("durable-streams"), "serve", "--data", data, "--port", "0", *arguments])


def url_of(server: ChildProcess) -> str:
    server.wait_for_output(r"\n")
    first_line = server.output.splitlines()[0]
    assert first_line.startswith("http://127.0.0.1:")
    return first_line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_even_with_a_reader_waiting(
    processes: Processes, data: Path, number: signal.Signals
) -> None:
    server = serve(processes, data)
    url = url_of(server)
    httpx.put(f"{url}/s", headers=TEXT, content=b"x")
    with httpx.stream("GET", f"{url}/s?offset=now&live=sse", timeout=20) as reader:
        pieces = reader.iter_raw()
        assert b"upToDate" in next(pieces)
        server.send_signal(number)
        assert server.wait() == 0
        assert b"".join(pieces) == b""
    assert server.output == f"{url}\n"
    again = serve(processes, data)
    assert httpx.get(f"{url_of(again)}/s").content == b"x"
    assert again.terminate() == 0


def test_the_data_are_for_the_user_alone(processes: Processes, data: Path) -> None:
    url_of(serve(processes, data))
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_with_a_token_file_every_request_needs_the_token(processes: Processes, data: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    url = url_of(serve(processes, data, "--token-file", tmp_path / "token"))
    assert httpx.put(f"{url}/s").status_code == 401
    assert httpx.put(f"{url}/s", headers={"authorization": "Bearer s3cret"}).status_code == 201


def test_the_long_poll_timeout_is_an_option(processes: Processes, data: Path) -> None:
    url = url_of(serve(processes, data, "--long-poll-timeout", "0.01"))
    httpx.put(f"{url}/s")
    assert httpx.get(f"{url}/s?offset=now&live=long-poll").status_code == 204


class TestMistakes:
    def refused(self, ended: Ended, *, saying: str) -> None:
        assert ended.code == 2
        assert saying in ended.stderr
        assert "Traceback" not in ended.stderr

    @pytest.mark.parametrize("host", ["0.0.0.0", "::"])
    def test_off_loopback_without_a_token(self, command: StreamCommand, data: Path, host: str) -> None:
        ended = command("serve", "--data", data, "--port", "0", "--host", host)
        self.refused(ended, saying=f"refusing to listen on {host} without a token")
        assert not data.exists()

    @pytest.mark.parametrize("content", [None, "", "two words", "ü"])
    def test_a_token_file_that_holds_none(
        self, command: StreamCommand, data: Path, tmp_path: Path, content: str | None
    ) -> None:
        path = tmp_path / "token"
        if content is not None:
            path.write_text(content)
        self.refused(command("serve", "--data", data, "--port", "0", "--token-file", path), saying=str(path))

    def test_an_option_it_does_not_know(self, command: StreamCommand, data: Path) -> None:
        self.refused(command("serve", "--data", data, "--prot", "1"), saying="--prot")


class TestRefusals:
    def refused(self, server: ChildProcess, *, saying: str) -> None:
        assert server.wait() == 1
        assert saying in server.output
        assert "Traceback" not in server.output

    def test_a_directory_that_is_served_already(self, processes: Processes, data: Path) -> None:
        url_of(serve(processes, data))
        self.refused(serve(processes, data), saying=f"another process serves {data}")

    def test_a_port_that_is_taken(self, processes: Processes, data: Path, tmp_path: Path) -> None:
        port = url_of(serve(processes, data)).rpartition(":")[2]
        other = serve(processes, tmp_path / "other", "--port", port)
        self.refused(other, saying=f"cannot listen on 127.0.0.1 port {port}")

    def test_data_of_a_newer_version(self, processes: Processes, data: Path) -> None:
        server = serve(processes, data)
        url_of(server)
        server.terminate()
        with sqlite3.connect(data / "streams.db") as connection:
            connection.execute("PRAGMA user_version = 999")
        connection.close()
        self.refused(serve(processes, data), saying="has format 999")
