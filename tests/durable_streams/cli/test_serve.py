"""The command ``durable-streams serve``: as a process, and inside this one where it does not come to serving."""

from __future__ import annotations

import signal
import sqlite3
import stat
from typing import TYPE_CHECKING

import pytest
from pydantic import TypeAdapter

from ds_gateway.config.quantities import Bytes
from durable_streams.cli.serve import _stop_is_asked
from durable_streams.cli.sizes import size_of
from durable_streams.server import ServerThread, SqliteStore, StreamApp
from harness import plain_http
from harness.processes import Processes, console_script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.processes import ChildProcess
    from harness.stream_command import Ended, StreamCommand
    from harness.zygote import Zygote

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is there of the server that most tests share."""
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def served(folder: Path, zygote: Zygote) -> Iterator[str]:
    """The URL of a server that needs a token and waits 0.01 s in a long-poll."""
    (folder / "token").write_text("s3cret\n")
    with Processes(folder, zygote) as started:
        options = ("--token-file", folder / "token", "--long-poll-timeout", "0.01")
        yield url_of(serve(started, folder / "data", *options))


TOKEN = {"authorization": "Bearer s3cret"}


def test_a_signal_ends_it_cleanly_even_with_a_reader_waiting(processes: Processes, data: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        server = serve(processes, data)
        url = url_of(server)
        plain_http.put(f"{url}/{number}", headers=TEXT, content=b"x")
        with plain_http.stream("GET", f"{url}/{number}?offset=now&live=sse", timeout=20) as reader:
            pieces = reader.iter_raw()
            assert b"upToDate" in next(pieces)
            server.send_signal(number)
            assert server.wait() == 0
            assert b"".join(pieces) == b""
        assert server.output == f"{url}\n"
    again = serve(processes, data)
    url = url_of(again)
    for number in (signal.SIGTERM, signal.SIGINT):
        assert plain_http.get(f"{url}/{number}").content == b"x"
    assert again.terminate() == 0


def test_the_data_are_for_the_user_alone(served: str, folder: Path) -> None:
    assert stat.S_IMODE((folder / "data").stat().st_mode) == 0o700


def test_with_a_token_file_every_request_needs_the_token(served: str) -> None:
    assert plain_http.put(f"{served}/s").status_code == 401
    assert plain_http.put(f"{served}/s", headers=TOKEN).status_code == 201


def test_the_long_poll_timeout_is_an_option(served: str) -> None:
    plain_http.put(f"{served}/s", headers=TOKEN)
    assert plain_http.get(f"{served}/s?offset=now&live=long-poll", headers=TOKEN).status_code == 204


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

    def test_a_host_that_is_none_is_told_before_the_token(self, command: StreamCommand, data: Path) -> None:
        ended = command("serve", "--data", data, "--port", "0", "--host", "not a host")
        self.refused(ended, saying="--host 'not a host' is no address: ")
        assert not data.exists()

    @pytest.mark.parametrize("port", ["70000", "-1", "http", "99999999999999999999"])
    def test_what_is_no_port_is_named(self, command: StreamCommand, data: Path, port: str) -> None:
        self.refused(
            command("serve", "--data", data, "--port", port), saying=f"{port} is no port: give 1 to 65535"
        )

    @pytest.mark.parametrize(
        ("text", "saying"),
        [
            ("20Gigs", "'20Gigs' is no size: write bytes, or a number with kB"),
            ("100k", "100k is too small: it is 1048576 bytes at least"),
            ("5000000TiB", "5000000TiB is too large"),
        ],
    )
    def test_what_is_no_size_is_named(self, command: StreamCommand, data: Path, text: str, saying: str) -> None:
        self.refused(command("serve", "--data", data, "--max-bytes", text), saying=saying)

    def test_an_option_it_does_not_know(self, command: StreamCommand, data: Path) -> None:
        self.refused(command("serve", "--data", data, "--prot", "1"), saying="--prot")


class TestRefusals:
    @pytest.fixture(autouse=True)
    def _signals(self) -> Iterator[None]:
        """The server blocks them for the rest of its process; here that goes on."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        yield
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def refused(self, ended: Ended, *, saying: str) -> None:
        assert ended.code == 1
        assert ended.stdout == b""
        assert saying in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_a_directory_that_is_served_already(self, command: StreamCommand, served: str, folder: Path) -> None:
        ended = command("serve", "--data", folder / "data", "--port", "0")
        self.refused(ended, saying=f"this or another process serves {folder / 'data'}")

    def test_a_port_that_is_taken(self, command: StreamCommand, served: str, data: Path) -> None:
        port = served.rpartition(":")[2]
        ended = command("serve", "--data", data, "--port", port)
        self.refused(ended, saying=f"cannot listen on 127.0.0.1 port {port}: Address already in use; ")
        assert ended.stderr.count(port) == 1
        assert "--port" in ended.stderr
        assert not data.exists()

    def test_a_directory_that_cannot_be_made(self, command: StreamCommand, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        ended = command("serve", "--data", tmp_path / "file" / "data", "--port", "0")
        self.refused(ended, saying="choose a directory that this user may write to")

    def test_data_of_a_newer_version(self, command: StreamCommand, data: Path) -> None:
        server = ServerThread(StreamApp(SqliteStore(data)))
        server.start()
        server.stop()
        with sqlite3.connect(data / "streams.db") as connection:
            connection.execute("PRAGMA user_version = 999")
        connection.close()
        self.refused(command("serve", "--data", data, "--port", "0"), saying="has format 999")


class TestLimits:
    def test_each_has_its_answer(self, processes: Processes, data: Path) -> None:
        options = (
            "--retain-bytes",
            "30",
            "--max-body-bytes",
            "1024",
            "--max-streams",
            "1",
            "--max-bytes",
            "1048576",
        )
        url = url_of(serve(processes, data, *options))
        plain_http.put(f"{url}/s", headers=TEXT)
        for _ in range(5):
            assert plain_http.post(f"{url}/s", headers=TEXT, content=b"x" * 10).status_code == 204
        assert plain_http.get(f"{url}/s").content == b"x" * 30
        assert plain_http.get(f"{url}/s?offset={0:016d}").status_code == 410
        assert plain_http.post(f"{url}/s", headers=TEXT, content=b"x" * 1025).status_code == 413
        assert plain_http.put(f"{url}/another", headers=TEXT).status_code == 507

    def test_a_disk_with_too_little_space_is_not_filled(self, processes: Processes, data: Path) -> None:
        url = url_of(serve(processes, data, "--min-free-bytes", str(10**18)))
        refused = plain_http.put(f"{url}/s", headers=TEXT)
        assert (refused.status_code, refused.text) == (507, "no space left: nothing was stored\n")

    def test_the_store_has_a_limit(self, processes: Processes, data: Path) -> None:
        url = url_of(serve(processes, data, "--max-bytes", "1MiB"))
        assert plain_http.put(f"{url}/s", headers=TEXT, content=b"x" * 900_000).status_code == 201
        assert plain_http.post(f"{url}/s", headers=TEXT, content=b"x" * 200_000).status_code == 507
        assert plain_http.get(f"{url}/s").content == b"x" * 900_000

    @pytest.mark.parametrize("option", ["--max-bytes", "--retain-bytes", "--retain-seconds", "--max-streams"])
    def test_values_that_make_no_sense_are_refused(self, command: StreamCommand, data: Path, option: str) -> None:
        ended = command("serve", "--data", data, option, "0")
        assert ended.code == 2
        assert option in ended.stderr
        assert not data.exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("1048576", 2**20), ("20GiB", 20 * 2**30), ("1.5 kB", 1500), ("2k", 2000), ("3Ki", 3072), ("1TB", 10**12)],
)
def test_sizes_are_those_of_the_gateways_configuration(text: str, size: int) -> None:
    assert size_of(text) == size == TypeAdapter(Bytes).validate_python(text)


def test_it_goes_on_when_it_was_stopped_and_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython 3.11 then returns something that is no signal at all; the server took it for one and ended."""
    answers: list[signal.struct_siginfo | None] = [
        signal.struct_siginfo((number, 0, 0, 0, 0, 0, 0)) for number in (0, signal.SIGCONT, signal.SIGTERM)
    ]
    monkeypatch.setattr(signal, "sigtimedwait", lambda _signals, _seconds: answers.pop(0))
    assert [_stop_is_asked() for _ in range(3)] == [False, False, True]


def test_only_this_machine_is_served_without_a_token(processes: Processes, data: Path, served: str) -> None:
    foreign = {"origin": "http://evil.example"}
    url = url_of(serve(processes, data))
    assert plain_http.put(f"{url}/s", headers=TEXT | foreign).status_code == 403
    assert plain_http.put(f"{url}/s", headers=TEXT | {"host": "evil.example"}).status_code == 403
    assert plain_http.put(f"{url}/s", headers=TEXT | {"origin": "http://localhost:3000"}).status_code == 201
    assert plain_http.put(f"{served}/foreign", headers=TEXT | TOKEN | foreign).status_code == 201
