"""``durable-streams create``, ``head``, ``close`` and ``delete``, what all commands have, and how they fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from durable_streams import cli
from durable_streams.cli import ending
from durable_streams.server import Limits, ServerThread, SqliteStore, StreamApp
from durable_streams.testing import Status
from harness import plain_http
from harness.ports import free_port
from harness.stream_server import Front, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from durable_streams.testing import InMemoryStreamServer
    from harness.stream_command import Ended, StreamCommand
    from harness.stream_server import Asked


def refused(ended: Ended, *, saying: str, code: int = 2) -> None:
    """Ended with one line that says what, where and the way out."""
    assert ended.code == code
    assert ended.stdout == b""
    assert ended.stderr.startswith("durable-streams: ")
    assert ended.stderr.count("\n") == 1
    assert saying in ended.stderr


class TestCreate:
    def test_a_stream_of_bytes_unless_told_otherwise(self, command: StreamCommand, url: str) -> None:
        offset = command("create", url).offset
        head = plain_http.head(url)
        assert head.headers["content-type"] == "application/octet-stream"
        assert head.headers["stream-next-offset"] == offset

    @pytest.mark.parametrize("arguments", [["--json"], ["--content-type", "application/json"]])
    def test_a_stream_of_json(self, command: StreamCommand, url: str, arguments: list[str]) -> None:
        assert command("create", url, *arguments).code == 0
        assert plain_http.head(url).headers["content-type"] == "application/json"

    @pytest.mark.parametrize(
        ("ttl", "seconds"), [("90", "90"), ("90s", "90"), ("15m", "900"), ("1h", "3600"), ("7d", "604800")]
    )
    def test_with_a_time_to_live(self, command: StreamCommand, url: str, ttl: str, seconds: str) -> None:
        assert command("create", url, "--ttl", ttl).code == 0
        assert plain_http.head(url).headers["stream-ttl"] == seconds

    def test_with_an_instant_to_expire_at(self, command: StreamCommand, url: str) -> None:
        assert command("create", url, "--expires-at", "2130-01-31T12:00:00Z").code == 0
        assert plain_http.head(url).headers["stream-expires-at"].startswith("2130-01-31T12:00:00")

    def test_closed_from_the_start(self, command: StreamCommand, url: str) -> None:
        assert command("create", url, "--closed").code == 0
        assert plain_http.head(url).headers["stream-closed"] == "true"

    def test_again_changes_nothing(self, command: StreamCommand, url: str) -> None:
        first = command("create", url, "--json").offset
        assert command("create", url, "--json").offset == first

    def test_but_not_with_another_configuration(self, command: StreamCommand, url: str) -> None:
        command("create", url, "--json")
        ended = command("create", url, "--content-type", "text/plain")
        refused(ended, code=1, saying=f"cannot create {url}: the stream exists with another configuration")
        assert "durable-streams head URL" in ended.stderr

    @pytest.mark.parametrize(
        ("arguments", "saying"),
        [
            (["--ttl", "1h", "--expires-at", "2130-01-01T00:00:00Z"], "--ttl and --expires-at exclude each other"),
            (["--ttl", "soon"], "--ttl 'soon' is no duration"),
            (["--ttl", "1.5h"], "--ttl '1.5h' is no duration"),
            (["--expires-at", "2130-01-01T00:00:00"], "with its zone"),
            (["--expires-at", "tomorrow"], "--expires-at 'tomorrow' is no instant"),
            (["--json", "--content-type", "text/plain"], "--json and --content-type text/plain exclude"),
        ],
    )
    def test_what_cannot_be_meant_is_refused_before_anything_is_sent(
        self, command: StreamCommand, url: str, arguments: list[str], saying: str
    ) -> None:
        refused(command("create", url, *arguments), saying=saying)
        assert plain_http.head(url).status_code == 404


class TestHead:
    def test_one_object_says_what_the_stream_is(self, command: StreamCommand, url: str) -> None:
        command("create", url, "--json", "--closed")
        ended = command("head", url)
        (description,) = ended.lines
        assert description["content_type"] == "application/json"
        assert description["closed"] is True
        assert description["offset"] == plain_http.head(url).headers["stream-next-offset"]


class TestWhatCannotBeUndone:
    @pytest.mark.parametrize("verb", ["close", "delete"])
    def test_is_not_done_when_nobody_can_be_asked(self, command: StreamCommand, url: str, verb: str) -> None:
        command("create", url)
        refused(command(verb, url), saying="--yes does it without asking")
        assert "stream-closed" not in plain_http.head(url).headers

    def test_close_prints_the_offset_of_the_end(self, command: StreamCommand, url: str) -> None:
        command("create", url)
        plain_http.post(url, headers={"content-type": "application/octet-stream"}, content=b"x")
        offset = command("close", url, "--yes").offset
        head = plain_http.head(url)
        assert head.headers["stream-closed"] == "true"
        assert head.headers["stream-next-offset"] == offset

    def test_delete_prints_nothing(self, command: StreamCommand, url: str) -> None:
        command("create", url)
        ended = command("delete", url, "--yes")
        assert (ended.code, ended.stdout, ended.stderr) == (0, b"", "")
        assert plain_http.head(url).status_code == 404


class TestCredentials:
    @pytest.fixture
    def asked(self, server: InMemoryStreamServer) -> Iterator[Front]:
        with Front(server.url()) as front:
            yield front

    def test_the_token_comes_from_a_file(self, command: StreamCommand, asked: Front, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("s3cret\n")
        assert command("create", f"{asked.base_url}/token", "--token-file", tmp_path / "token").code == 0
        assert asked.asked[-1].headers["authorization"] == "Bearer s3cret"

    def test_headers_come_from_the_command_line_or_a_file(
        self, command: StreamCommand, asked: Front, tmp_path: Path
    ) -> None:
        (tmp_path / "headers").write_text("X-Api-Key: s3cret\n\nX-Site: hall-7\n")
        url = f"{asked.base_url}/headers"
        assert command("create", url, "--header", "X-Run: 1", "--header", f"@{tmp_path / 'headers'}").code == 0
        sent = asked.asked[-1].headers
        assert (sent["x-api-key"], sent["x-site"], sent["x-run"]) == ("s3cret", "hall-7", "1")

    @pytest.mark.parametrize("header", ["X-Nothing", "X Y: 1", ": 1", "X-A: a\nX-B: b", "X-A: \x1b[31m"])
    def test_what_is_no_header_is_refused_without_showing_its_value(
        self, command: StreamCommand, url: str, header: str, tmp_path: Path
    ) -> None:
        refused(command("head", url, "--header", header), saying="write 'Name: value'")
        (tmp_path / "headers").write_text("s3cret")
        ended = command("head", url, "--header", f"@{tmp_path / 'headers'}")
        refused(ended, saying=f"a line of {tmp_path / 'headers'} is no header")
        assert "s3cret" not in ended.stderr

    def test_only_one_authorization(self, command: StreamCommand, url: str, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("s3cret\n")
        ended = command(
            "head", url, "--token-file", tmp_path / "token", "--header", "authorization: Basic Zm9vOmJhcg=="
        )
        refused(ended, saying="exclude each other")

    def test_files_that_are_not_there_are_named(self, command: StreamCommand, url: str, tmp_path: Path) -> None:
        refused(command("head", url, "--token-file", tmp_path / "token"), saying=str(tmp_path / "token"))
        refused(command("head", url, "--header", f"@{tmp_path / 'headers'}"), saying=str(tmp_path / "headers"))

    def test_a_refusal_says_what_to_give(self, command: StreamCommand, asked: Front) -> None:
        asked.rule = lambda _asked: Reply(401)
        refused(command("head", f"{asked.base_url}/s"), code=1, saying="give --token-file or --header")


class TestErrors:
    def test_a_stream_that_is_not_there(self, command: StreamCommand, url: str) -> None:
        refused(command("head", url), code=1, saying=f"cannot look at {url}: there is no such stream (HTTP 404")

    @pytest.mark.parametrize("verb", ["head", "read"])
    def test_a_server_that_is_not_there_is_told_while_it_is_tried_again(
        self, command: StreamCommand, verb: str
    ) -> None:
        url = f"http://127.0.0.1:{free_port()}/s"
        ended = command(verb, url)
        assert ended.code == 1
        first, last = ended.stderr.splitlines()
        assert first.startswith(f"durable-streams: {url}: no usable answer: [Errno 111] Connection refused")
        assert first.endswith("; it is tried again")
        assert "Connection refused" in last
        assert last.endswith("check that the server runs and that the URL is right")

    def test_a_full_server_has_stored_nothing_and_no_doubt_is_left(
        self, command: StreamCommand, tmp_path: Path
    ) -> None:
        store = SqliteStore(tmp_path / "streams", max_bytes=1024 * 1024)
        server = ServerThread(StreamApp(store, limits=Limits(max_streams=1)))
        server.start()
        try:
            url = server.listen()
            assert command("create", f"{url}/s", "--content-type", "text/plain").code == 0
            large = tmp_path / "large"
            large.write_bytes(b"x" * 1_100_000)
            full = command("append", f"{url}/s", "y" * 100_000, *["z" * 100_000] * 9)
            created = command("create", f"{url}/another")
            batch = command("append", f"{url}/s", "--file", large, "--max-batch-bytes", "2MB")
        finally:
            server.stop()
        for ended in (full, created, batch):
            assert ended.code == 1
            assert "the server is full: nothing was stored (HTTP 507: " in ended.stderr
            assert "--max-bytes or --max-streams" in ended.stderr
            assert "may have" not in ended.stderr
            assert "check that the server runs" not in ended.stderr

    def test_what_is_known_beside_it_is_a_part_of_the_line(
        self, command: StreamCommand, server: InMemoryStreamServer, url: str
    ) -> None:
        assert command("create", url, "--content-type", "text/plain").code == 0
        with server.inject(Status(502), path=url.rpartition("/")[2], method="POST", times=None):
            ended = command("append", url, "x")
        assert ended.code == 1
        assert "; it may have been stored" in ended.stderr
        assert "; It" not in ended.stderr

    @pytest.mark.parametrize(
        "url", ["s", "ftp://host/s", "http://", "/v1/stream/s", "http://host:99999/s", "http://host/a stream"]
    )
    def test_what_is_no_url(self, command: StreamCommand, url: str) -> None:
        named = url if "://" in url else repr(url)
        refused(command("head", url), saying=f"{named} is no URL of a stream")

    @pytest.mark.parametrize(
        "url", ["ftp://user:s3cret@host/s?sig=s3cret", "user:s3cret@host/s", "http://h:x/s?sig=s3cret"]
    )
    def test_nor_are_secrets_in_what_is_none(self, command: StreamCommand, url: str) -> None:
        ended = command("head", url)
        refused(ended, saying="is no URL of a stream")
        assert "s3cret" not in ended.stderr

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (("read", "--offset", ""), "offset"),
            (("create", "--content-type", "foo"), "content_type"),
            (("append", "x", "--content-type", "text/plain", "--seq", ""), "seq"),
            (("append", "x", "--content-type", "text/plain", "--seq", " 1"), "seq"),
            (("head", "--header", "X: \u00fc"), "--header 'X'"),
        ],
    )
    def test_what_the_client_refuses_is_wrong_use_and_no_traceback(
        self, command: StreamCommand, url: str, arguments: tuple[str, ...], named: str
    ) -> None:
        verb, *rest = arguments
        refused(command(verb, url, *rest), saying=named)

    def test_secrets_in_a_url_are_not_shown(self, command: StreamCommand, url: str) -> None:
        ended = command("head", f"{url.replace('//', '//user:s3cret@')}?signature=s3cret")
        refused(ended, code=1, saying=f"cannot look at {url}: ")
        assert "s3cret" not in ended.stderr

    def test_a_servers_words_stay_on_the_line_and_are_no_command_to_the_terminal(
        self, command: StreamCommand, server: InMemoryStreamServer
    ) -> None:
        def rule(_: Asked) -> Reply:
            return Reply(400, {"content-type": "text/plain"}, b"no\n\x1b[2Jway\r\n")

        with Front(server.url()) as front:
            front.rule = rule
            ended = command("create", f"{front.base_url}/s")
        refused(ended, code=1, saying=r"no \x1b[2Jway")

    def test_the_exit_codes_stand_in_every_help(self, command: StreamCommand) -> None:
        verbs = [each.callback.__name__ for each in cli.app.registered_commands if each.callback is not None]
        assert verbs == ["serve", "create", "append", "read", "tail", "head", "close", "delete"]
        for arguments in ([], *([verb] for verb in verbs)):
            shown = " ".join(command(*arguments, "--help").stdout.decode().split())
            assert ending.EXIT_CODES in shown
