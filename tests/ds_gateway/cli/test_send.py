"""``ds-gateway send``: the command in the stream, what is told about it, and how the command ends."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from ds_gateway import clock
from durable_streams import DurableStream
from durable_streams.testing import DropAfter, DropBefore, InMemoryStreamServer, Status
from harness.stream_server import Asked, Front, Reply
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from harness.command import Command, Ended

    Receipts = list[dict[str, Any]]

TLS = Path(__file__).parents[1] / "mqtt" / "tls"
DONE: Receipts = [
    {"number": 1, "status": "accepted", "final": False},
    {"number": 1, "status": "acknowledged", "final": True, "reply": "OK"},
]


@pytest.fixture
def server() -> Iterator[InMemoryStreamServer]:
    with InMemoryStreamServer() as running:
        yield running


@pytest.fixture(autouse=True)
def clock_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether it is synchronised: true, whatever machine this runs on, unless the test says otherwise."""
    is_synchronised = [True]
    monkeypatch.setattr(clock, "is_synchronised", lambda: is_synchronised[0])
    return is_synchronised


@pytest.fixture
def config(tmp_path: Path, server: InMemoryStreamServer) -> Path:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        f"gateway: {{id: line-7}}\ndata_dir: .\nserver: {{url: {server.url('/v1')}}}\n"
        "mqtt: {hall: {url: 'mqtt://h', password: '${credential:not_for_me}'}}\n"
    )
    return file


@contextmanager
def gateway(
    server: InMemoryStreamServer,
    receipts: Receipts,
    *,
    commands: str = "commands/line-7",
    told: str = "receipts/line-7",
) -> Iterator[list[Mapping[str, Any]]]:
    """Answers each command with these receipts; yields the commands that came."""
    came: list[Mapping[str, Any]] = []
    with (
        DurableStream.create(server.url(f"/v1/{commands}"), content_type="application/json") as source,
        DurableStream.create(server.url(f"/v1/{told}"), content_type="application/json") as target,
    ):
        # What was there before: of an earlier command, and of the gateway itself.
        target.append({"kind": "birth", "info": {"epoch": 1}})
        target.append({"kind": "receipt", "info": {"command": "old", "status": "failed", "final": True}})

        def answer() -> None:
            with source.stream(offset="-1") as response:
                for command in response.iter_json():
                    came.append(command)
                    target.append(
                        {"kind": "receipt", "info": {"command": "another", "status": "failed", "final": True}}
                    )
                    target.append({"data": {"command": command["id"]}})
                    for info in receipts:
                        target.append({"kind": "receipt", "info": {"command": command["id"], **info}})

        thread = threading.Thread(target=answer, name="gateway")
        thread.start()
        try:
            yield came
        finally:
            source.close_stream()
            thread.join(20)


@pytest.fixture
def send(command: Command, config: Path) -> Callable[..., Ended]:
    return lambda *arguments: command("send", "--config", config, *arguments)


class TestACommand:
    def test_has_what_a_gateway_needs(self, send: Callable[..., Ended], server: InMemoryStreamServer) -> None:
        before = datetime.now(UTC)
        with gateway(server, DONE) as came:
            done = send("hall/plug", '{"on": true}')
        assert (done.code, done.stderr) == (0, "")
        assert came[0].keys() == {"id", "device", "payload", "issued_at"}
        assert (came[0]["device"], came[0]["payload"]) == ("hall/plug", {"on": True})
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", came[0]["id"])
        assert before <= datetime.fromisoformat(came[0]["issued_at"]) <= datetime.now(UTC)
        assert done.stdout == (f"command {came[0]['id']} is in commands/line-7\naccepted\nacknowledged: OK\n")

    def test_may_be_the_first_one_so_that_its_receipts_make_their_stream(
        self, send: Callable[..., Ended], server: InMemoryStreamServer
    ) -> None:
        begun = threading.Event()

        def answer() -> None:
            with DurableStream.create(
                server.url("/v1/commands/line-7"), content_type="application/json"
            ) as source:
                begun.set()
                wait_until(lambda: server.count("GET", "/v1/receipts/line-7") > 0, what="receipts are looked for")
                with source.stream(live=False) as response:
                    (sent,) = response.read_json()
            with DurableStream.create(
                server.url("/v1/receipts/line-7"), content_type="application/json"
            ) as target:
                for info in DONE:
                    target.append({"kind": "receipt", "info": {"command": sent["id"], **info}})

        thread = threading.Thread(target=answer, name="gateway")
        thread.start()
        assert begun.wait(20)
        done = send("plug", "on")
        thread.join(20)
        assert (done.code, done.stderr) == (0, "")
        assert done.stdout.endswith("accepted\nacknowledged: OK\n")

    def test_has_what_was_asked_for(self, send: Callable[..., Ended], server: InMemoryStreamServer) -> None:
        with gateway(server, DONE) as came:
            done = send("plug", "on", "--id", "x-1", "--expires-after", "1m", "--at-most-once")
        assert done.code == 0
        assert {key: came[0][key] for key in ("id", "expires_after", "delivery")} == {
            "id": "x-1",
            "expires_after": 60.0,
            "delivery": "at_most_once",
        }

    @pytest.mark.parametrize(
        ("payload", "options", "sent"),
        [
            ("on", [], "on"),
            ("1.50", [], 1.5),
            ("null", [], None),
            ("[1, 2]", [], [1, 2]),
            ("true", [], True),
            ('"on"', [], '"on"'),
            ("007", [], "007"),
            ("NaN", [], "NaN"),
            ("{on: 1}", [], "{on: 1}"),
            ("", [], ""),
            ("true", ["--text"], "true"),
            ('{"a": 1}', ["--text"], '{"a": 1}'),
        ],
    )
    def test_has_json_or_text(
        self, payload: str, options: list[str], sent: Any, send: Callable[..., Ended], server: InMemoryStreamServer
    ) -> None:
        with gateway(server, DONE) as came:
            assert send("plug", payload, *options).code == 0
        assert came[0]["payload"] == sent

    def test_is_there_once_when_an_answer_is_lost(
        self, send: Callable[..., Ended], server: InMemoryStreamServer
    ) -> None:
        with gateway(server, DONE) as came:
            server.inject(DropAfter(), DropBefore(), Status(503), method="POST", path="/v1/commands/line-7")
            assert send("plug", "on").code == 0
        assert server.count("POST", "/v1/commands/line-7") > 2
        assert len(came) == 1


class TestTheEnd:
    @pytest.mark.parametrize(
        ("last", "code", "line"),
        [
            ({"status": "published", "final": True}, 0, "published"),
            ({"status": "acknowledged", "final": True, "reply": "O\x1b[K"}, 0, "acknowledged: O\\x1b[K"),
            (
                {"status": "failed", "final": True, "code": "unknown_device", "reason": "there is no device"},
                1,
                "failed (unknown_device): there is no device",
            ),
            ({"status": "expired", "final": True, "code": "too_old"}, 1, "expired (too_old)"),
            ({"status": "unknown", "final": True, "reason": "no answer"}, 1, "unknown: no answer"),
            (
                {"status": "published", "final": True, "repeated": True},
                0,
                "published (this id was there before, and is not done again)",
            ),
        ],
    )
    def test_is_what_the_final_receipt_says(
        self, last: dict[str, Any], code: int, line: str, send: Callable[..., Ended], server: InMemoryStreamServer
    ) -> None:
        with gateway(server, [{"status": "published", "final": False}, last]):
            done = send("plug", "on")
        assert (done.code, done.stderr) == (code, "")
        assert done.stdout.splitlines()[1:] == ["published", line]

    def test_is_a_failure_without_a_final_receipt(
        self, send: Callable[..., Ended], server: InMemoryStreamServer
    ) -> None:
        with gateway(server, DONE[:1]):
            done = send("plug", "on", "--timeout", "0.5", "--id", "x-1")
        assert done.code == 1
        assert done.stderr == (
            "ds-gateway: no final receipt within 0.5 s; the last one was accepted; ds-gateway "
            "commands on its machine shows what is pending, and the same again with --id x-1 tells "
            "what became of it and is done once\n"
        )

    def test_is_a_failure_without_any(self, send: Callable[..., Ended], server: InMemoryStreamServer) -> None:
        with gateway(server, []):
            done = send("plug", "on", "--timeout", "0.5")
        assert done.code == 1
        assert "no gateway line-7 has taken it: is it running, and in reach of its server?" in done.stderr

    def test_comes_at_once_when_nobody_waits(
        self, send: Callable[..., Ended], server: InMemoryStreamServer
    ) -> None:
        with gateway(server, []) as came:
            done = send("plug", "on", "--no-wait", "--id", "x-1")
        assert (done.code, done.stdout, done.stderr) == (0, "command x-1 is in commands/line-7\n", "")
        assert len(came) == 1

    def test_as_json(self, send: Callable[..., Ended], server: InMemoryStreamServer) -> None:
        with gateway(server, DONE):
            done = send("plug", "on", "--id", "x-1", "--json")
        assert (done.code, done.stderr) == (0, "")
        assert json.loads(done.stdout) == {
            "id": "x-1",
            "device": "plug",
            "stream": "commands/line-7",
            "done": True,
            "receipts": [{"command": "x-1", **info} for info in DONE],
        }


def test_a_clock_that_is_not_synchronised_is_told_and_the_command_sent(
    send: Callable[..., Ended], server: InMemoryStreamServer, clock_of_this_machine: list[bool]
) -> None:
    clock_of_this_machine[0] = False
    with gateway(server, DONE) as came:
        done = send("plug", "on")
    assert (done.code, len(came)) == (0, 1)
    assert done.stderr.startswith("ds-gateway: this machine's clock is not synchronised")


def test_a_clock_that_the_own_gateway_trusts_is_not_told(
    send: Callable[..., Ended],
    command: Command,
    config: Path,
    server: InMemoryStreamServer,
    clock_of_this_machine: list[bool],
) -> None:
    config.write_text(config.read_text().replace("id: line-7", "id: line-7, clock: trusted"))
    clock_of_this_machine[0] = False
    with gateway(server, DONE):
        assert send("plug", "on").stderr == ""
        elsewhere = command("send", "plug", "on", "--server", server.url("/v1"), "--gateway", "line-7")
    assert elsewhere.stderr.startswith("ds-gateway: this machine's clock is not synchronised")


class TestWhatCannotBeSent:
    def test_to_a_gateway_that_was_never_there(
        self, send: Callable[..., Ended], server: InMemoryStreamServer
    ) -> None:
        for options in ([], ["--no-wait"]):
            done = send("plug", "on", *options)
            assert (done.code, done.stdout) == (1, "")
            assert done.stderr.startswith(
                f"ds-gateway: nothing was sent: there is no stream commands/line-7 on {server.url('/v1')}; the "
                "gateway line-7 makes it at its start"
            )

    def test_without_the_right_token(self, send: Callable[..., Ended], server: InMemoryStreamServer) -> None:
        server.inject(Status(401), method="HEAD", times=None)
        done = send("plug", "on")
        assert done.code == 1
        assert "give a token that may write commands and read receipts, as --token-file" in done.stderr

    def test_what_may_have_been_sent_is_told_with_its_id(
        self, send: Callable[..., Ended], server: InMemoryStreamServer
    ) -> None:
        with gateway(server, []):
            server.inject(DropAfter(), Status(401), method="POST", path="/v1/commands/line-7")
            done = send("plug", "on", "--id", "x-1")
        assert done.code == 1
        assert "the command may be in the stream, or not" in done.stderr
        assert "the same again with --id x-1 is done once" in done.stderr

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["", "on"], "DEVICE: the device name is empty"),
            (["a\nb", "on"], "control characters are refused"),
            (["a", "on", "--id", ""], "--id has 1 to 128 printable characters"),
            (["a", "on", "--id", "x" * 129], "--id has 1 to 128 printable characters"),
            (["a", "on", "--id", "#7"], "--id does not begin with #: the gateway makes such ids itself"),
            (["a", "on", "--expires-after", "soon"], "--expires-after 'soon' is no duration"),
            (["a", "on", "--expires-after", "0"], "--expires-after '0' is no duration"),
            (["a", "x" * 70_000], "a command has at most 65536 bytes"),
            (["a", "1e999"], "PAYLOAD cannot be sent as JSON (a number is too large); --text sends it as text"),
            (["a", str(2**70)], "PAYLOAD cannot be sent as JSON"),
            (["a", "[" * 5000 + "]" * 5000], "PAYLOAD cannot be sent as JSON"),
            (["a", "on", "--stream", "x"], "--stream and --receipts are for --server"),
            (["a", "on", "--proxy", "http://p:1"], "--ca and --proxy are for --server"),
            (["a", "on", "--ca", "x"], "--ca and --proxy are for --server"),
            (["a", "on", "--gateway", "x"], "--server and --gateway belong together"),
            (["a", "on", "--server", "http://h", "--gateway", "x"], "leave --config out"),
        ],
    )
    def test_is_a_mistake_in_the_command_line(
        self, arguments: list[str], told: str, send: Callable[..., Ended], server: InMemoryStreamServer
    ) -> None:
        done = send(*arguments)
        assert (done.code, done.stdout) == (2, "")
        assert told in plain(done.stderr)
        assert server.requests == []

    def test_without_a_name_in_the_configuration(
        self, command: Command, config: Path, server: InMemoryStreamServer
    ) -> None:
        config.write_text(f"data_dir: .\nserver: {{url: {server.url()}}}\n")
        done = command("send", "--config", config, "a", "on")
        assert done.code == 2
        assert "gateway.id: must be set for commands, which are sent to this name" in done.stderr


def plain(box: str) -> str:
    """What typer says, out of its frame."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", box).split())


def no_events(asked: Asked) -> Reply | None:
    """A front passes on whole answers only."""
    return Reply(400) if "live=sse" in asked.path else None


class Proxy(Front):
    """An HTTP proxy to one server, whatever host is asked for."""

    def answer(self, asked: Asked) -> Reply | None:
        url = urlsplit(asked.path)
        assert url.hostname == "streams.invalid"
        return super().answer(replace(asked, path=url._replace(scheme="", netloc="").geturl()))


class TestFromAnotherMachine:
    def test_needs_no_configuration(self, command: Command, server: InMemoryStreamServer, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("s3cret\n")
        with gateway(server, DONE) as came:
            done = command(
                *("send", "--server", server.url("/v1"), "--gateway", "line-7"),
                *("--token-file", tmp_path / "token", "plug", "on"),
            )
        assert (done.code, done.stderr) == (0, "")
        assert len(came) == 1
        asked = [each for each in server.requests if each.headers.get("authorization") == "Bearer s3cret"]
        assert {each.method for each in asked} == {"HEAD", "POST", "GET"}

    def test_authorities_of_its_own(self, command: Command, server: InMemoryStreamServer, tmp_path: Path) -> None:
        with (
            Front(server.url("/v1"), tls=(TLS / "server.pem", TLS / "server.key")) as front,
            gateway(server, DONE) as came,
        ):
            front.rule = no_events
            to = ("send", "--server", front.base_url, "--gateway", "line-7", "--timeout", "10")
            trusting = command(*to, "--ca", TLS / "ca.pem", "plug", "on")
            wary = command(*to, "plug", "on")
        assert (trusting.code, trusting.stderr) == (0, "")
        assert wary.code == 1
        assert "certificate" in wary.stderr
        assert len(came) == 1

    def test_a_proxy(self, command: Command, server: InMemoryStreamServer) -> None:
        with Proxy(server.url("/v1")) as proxy, gateway(server, DONE) as came:
            proxy.rule = no_events
            url = proxy.base_url.removesuffix("/v1")
            done = command(
                *("send", "--server", "http://streams.invalid/v1", "--gateway", "line-7", "--proxy", url),
                *("plug", "on"),
            )
        assert (done.code, done.stderr) == (0, "")
        assert len(came) == 1

    def test_authorities_that_cannot_be_read(self, command: Command, tmp_path: Path) -> None:
        to = ("send", "--server", "https://h", "--gateway", "a", "plug", "on")
        absent = command(*to, "--ca", tmp_path / "absent")
        assert (absent.code, "cannot be used: No such file" in plain(absent.stderr)) == (2, True)
        wrong = command(*to, "--ca", TLS / "server.key")
        assert (wrong.code, "it has no certificate in PEM form" in plain(wrong.stderr)) == (2, True)

    def test_other_streams(self, command: Command, server: InMemoryStreamServer) -> None:
        with gateway(server, DONE, commands="c/line-7", told="r/line-7") as came:
            done = command(
                *("send", "--server", server.url("/v1"), "--gateway", "line-7", "plug", "on"),
                *("--stream", "c/{gateway}", "--receipts", "r/{gateway}"),
            )
        assert done.code == 0
        assert len(came) == 1

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--server", "http://h", "--gateway", "a/b"], "--gateway 'a/b' must be 1 to 64 letters"),
            (["--server", "h", "--gateway", "a"], "--server must be an http:// or https:// URL"),
            (["--server", "http://h", "--gateway", "a", "--proxy", "p"], "--proxy a proxy is an http://"),
            (["--server", "embedded", "--gateway", "a"], "--server is a URL here"),
            (["--server", "http://h", "--gateway", "a", "--stream", "c"], "has no {gateway}"),
            (
                ["--server", "http://h", "--gateway", "a", "--receipts", "a//b"],
                "--receipts must have no empty part",
            ),
        ],
    )
    def test_wrong_options(self, options: list[str], told: str, command: Command) -> None:
        done = command("send", *options, "plug", "on")
        assert done.code == 2
        assert told in plain(done.stderr)
