"""The control socket, over real sockets: the server on this loop, the blocking client in a thread."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import stat
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from anyio import to_thread

from ds_gateway.control import (
    MAX_CONNECTIONS,
    MAX_LARGE_REQUESTS,
    MAX_REQUEST_BYTES,
    SMALL_REQUEST_BYTES,
    ControlServer,
    NobodyThereError,
    call,
)
from ds_gateway.errors import ControlError, JournalError
from harness.meanwhile import meanwhile
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ds_gateway.control import Verb

pytestmark = pytest.mark.anyio
# ruff: noqa: ASYNC240 - a look at a temporary folder does not block


def status(_arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"gateway": {"id": "line-7"}}


async def echo(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    await asyncio.sleep(0)
    return arguments


def fail(_arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    raise JournalError("the disk is full: make room")


def crash(_arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    raise ZeroDivisionError


VERBS: Mapping[str, Verb] = {"status": status, "echo": echo, "fail": fail, "crash": crash}


async def ask(path: Path, verb: str, **arguments: Any) -> dict[str, Any]:
    return await to_thread.run_sync(partial(call, path, verb, **arguments))


async def raw(path: Path, request: bytes) -> list[Any]:
    """Send these bytes and the end of input; every line that comes back."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(request)
        writer.write_eof()
        return [json.loads(line) for line in (await reader.read()).splitlines()]
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


class TestAVerb:
    async def test_is_answered(self, path: Path) -> None:
        async with ControlServer(path, VERBS):
            assert await ask(path, "status") == {"gateway": {"id": "line-7"}}

    async def test_gets_its_arguments(self, path: Path) -> None:
        async with ControlServer(path, VERBS):
            assert await ask(path, "echo", a=1, b=["x"]) == {"a": 1, "b": ["x"]}

    async def test_may_refuse(self, path: Path) -> None:
        async with ControlServer(path, VERBS):
            with pytest.raises(ControlError, match=r"^the disk is full: make room$"):
                await ask(path, "fail")

    async def test_that_is_unknown(self, path: Path) -> None:
        async with ControlServer(path, VERBS):
            with pytest.raises(
                ControlError, match=r"^unknown verb 'stauts'; there are crash, echo, fail, status$"
            ):
                await ask(path, "stauts")

    async def test_that_crashes_ends_nothing(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async with ControlServer(path, VERBS):
            with pytest.raises(ControlError, match="its log says why"):
                await ask(path, "crash")
            assert await ask(path, "status")
        assert [record.getMessage() for record in caplog.records] == ["control.verb.failed"]

    async def test_may_be_asked_by_many_at_once(self, path: Path) -> None:
        async with ControlServer(path, VERBS):
            answers = await asyncio.gather(*(ask(path, "echo", n=n) for n in range(20)))
        assert answers == [{"n": n} for n in range(20)]


class TestAConversation:
    async def test_has_many_requests(self, path: Path) -> None:
        async with ControlServer(path, VERBS):
            answers = await raw(path, b'{"verb":"echo","n":1}\n{"verb":"echo","n":2}\n')
        assert [answer["result"] for answer in answers] == [{"n": 1}, {"n": 2}]

    @pytest.mark.parametrize(
        "garbage",
        [b"\n", b"hello\n", b"[1]\n", b"{}\n", b'{"verb":7}\n', b"\xff\xfe\n", b"[" * 60000 + b"\n", b"{"],
    )
    async def test_survives_garbage(self, garbage: bytes, path: Path) -> None:
        async with ControlServer(path, VERBS):
            [answer] = await raw(path, garbage)
            assert answer["ok"] is False
            assert answer["error"].startswith("a request is")
            assert await ask(path, "status")

    async def test_goes_on_after_garbage(self, path: Path) -> None:
        async with ControlServer(path, VERBS):
            answers = await raw(path, b'hello\n{"verb":"status"}\n')
        assert [answer["ok"] for answer in answers] == [False, True]

    async def test_ends_with_a_request_that_is_too_long(self, path: Path) -> None:
        async with ControlServer(path, VERBS):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x" * (MAX_REQUEST_BYTES + 2 * SMALL_REQUEST_BYTES + 1))
            assert json.loads(await reader.readline()) == {
                "ok": False,
                "error": f"a request has at most {MAX_REQUEST_BYTES} bytes",
            }
            writer.close()

    @pytest.mark.parametrize("size", [SMALL_REQUEST_BYTES, 200_000, MAX_REQUEST_BYTES - 1000])
    async def test_takes_large_requests_one_after_the_other(self, path: Path, size: int) -> None:
        request = json.dumps({"verb": "echo", "text": "x" * size}).encode() + b"\n"
        async with ControlServer(path, VERBS):
            answers = await raw(path, b'{"verb":"echo","n":1}\n' + request * 2 + b'{"verb":"echo","n":2}\n')
        assert [answer["result"] for answer in answers] == [
            {"n": 1},
            {"text": "x" * size},
            {"text": "x" * size},
            {"n": 2},
        ]

    async def test_with_a_large_request_is_refused_while_there_are_enough_of_them(self, path: Path) -> None:
        async with ControlServer(path, VERBS) as server:
            large = []
            for _ in range(MAX_LARGE_REQUESTS):
                _, writer = await asyncio.open_unix_connection(path)
                writer.write(b"x" * (SMALL_REQUEST_BYTES * 3))
                large.append(writer)
            full = MAX_LARGE_REQUESTS
            await await_until(lambda: server._large_requests == full, what="they are being read")
            with pytest.raises(ControlError, match="requests of more than 65536 bytes are being read; try again"):
                await ask(path, "echo", text="x" * SMALL_REQUEST_BYTES)
            assert await ask(path, "status"), "small ones are served all the same"
            for writer in large:
                writer.close()
            await await_until(lambda: server._large_requests == 0, what="they are over")
            assert await ask(path, "echo", text="x" * SMALL_REQUEST_BYTES)

    async def test_ends_when_nothing_is_asked(self, path: Path) -> None:
        async with ControlServer(path, VERBS, idle_seconds=0.01):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == b""
            writer.close()

    async def test_is_refused_when_there_are_too_many(self, path: Path) -> None:
        async with ControlServer(path, VERBS) as server:
            open_ones = []
            for _ in range(MAX_CONNECTIONS):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(b'{"verb":"status"}\n')
                await reader.readline()
                open_ones.append(writer)
            with pytest.raises(ControlError, match="too many connections"):
                await ask(path, "status")
            for writer in open_ones:
                writer.close()

            await await_until(lambda: not server._conversations, what="the conversations are over")
            assert await ask(path, "status")

    async def test_does_not_hold_up_the_end(self, path: Path) -> None:
        async with ControlServer(path, VERBS):
            reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == b""
        writer.close()


class TestTheSocket:
    async def test_is_for_the_user_and_the_group(self, path: Path) -> None:
        old = os.umask(0o077)
        try:
            async with ControlServer(path, VERBS):
                assert stat.S_IMODE(path.stat().st_mode) == 0o660
        finally:
            os.umask(old)

    async def test_goes_with_the_gateway(self, path: Path) -> None:
        async with ControlServer(path, VERBS):
            assert path.is_socket()
        assert not path.exists()

    async def test_of_a_killed_gateway_is_replaced(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        async with ControlServer(path, VERBS):
            assert await ask(path, "status")

    async def test_of_a_living_gateway_is_not(self, path: Path) -> None:
        async with ControlServer(path, VERBS):
            with pytest.raises(ControlError, match="another gateway listens"):
                await ControlServer(path, VERBS).start()
            assert await ask(path, "status")

    async def test_of_a_successor_is_left_alone(self, path: Path) -> None:
        async with ControlServer(path, VERBS):
            path.unlink()
            successor = ControlServer(path, VERBS)
            await successor.start()
        assert await ask(path, "status")
        await successor.stop()
        await successor.stop()

    async def test_is_made_again_when_somebody_removed_it(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with ControlServer(path, VERBS, look_seconds=0.01):
            reader, writer = await asyncio.open_unix_connection(path)
            path.unlink()
            await await_until(path.is_socket, what="it is there again")
            await await_until(lambda: "control.socket.made_again" in caplog.text, what="it is logged")
            assert await ask(path, "status")
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            writer.write(b'{"verb":"status"}\n')
            assert json.loads(await reader.readline())["ok"], "who spoke before goes on"
            writer.close()
        assert not path.exists()

    async def test_is_made_again_when_its_folder_is_there_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / "run"
        folder.mkdir()
        async with ControlServer(folder / "control.sock", VERBS, look_seconds=0.01):
            folder.rename(tmp_path / "moved")
            await await_until(lambda: "control.socket.gone" in caplog.text, what="it is said that it is gone")
            folder.mkdir()
            await await_until((folder / "control.sock").is_socket, what="it is there again")
            assert await ask(folder / "control.sock", "status")
        assert [record.getMessage() for record in caplog.records].count("control.socket.gone") == 1

    async def test_never_replaces_a_file(self, path: Path) -> None:
        path.write_text("precious")
        with pytest.raises(ControlError, match="is in the way"):
            await ControlServer(path, VERBS).start()
        assert path.read_text() == "precious"

    async def test_needs_its_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ControlError, match="cannot be made: No such file or directory"):
            await ControlServer(tmp_path / "nowhere/control.sock", VERBS).start()

    async def test_may_have_a_long_name(self, tmp_path: Path) -> None:
        folder = tmp_path / ("x" * 120)
        folder.mkdir()
        path = folder / "control.sock"
        async with ControlServer(path, VERBS):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert await ask(path, "status")
        assert not path.exists()
        with pytest.raises(NobodyThereError):
            call(path, "status")


class TestAskingInVain:
    async def test_without_a_socket(self, path: Path) -> None:
        with pytest.raises(NobodyThereError) as caught:
            call(path, "status")
        assert str(caught.value) == f"no gateway is running on {path.parent} (no control socket at {path})"

    async def test_without_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(NobodyThereError):
            call(tmp_path / "nowhere" / "control.sock", "status")
        with pytest.raises(NobodyThereError):
            call(tmp_path / "nowhere" / ("x" * 120) / "control.sock", "status")

    async def test_at_a_socket_that_was_left_over(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with pytest.raises(NobodyThereError, match="left by one that was killed"):
            call(path, "status")

    async def test_without_an_answer(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(str(path))
            deaf.listen()
            with pytest.raises(ControlError, match=r"did not answer within 0\.05 s"):
                call(path, "status", timeout_seconds=0.05)

    @pytest.mark.parametrize("reads", [True, False], ids=["the request was read", "unread"])
    async def test_when_the_gateway_is_killed_meanwhile(self, path: Path, reads: bool) -> None:  # noqa: FBT001
        def serve_and_die(listener: socket.socket) -> None:
            connection, _ = listener.accept()
            if reads:
                connection.recv(1000)
            else:
                select.select([connection], [], [])
            listener.close()
            connection.close()

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            with meanwhile(partial(serve_and_die, listener)), pytest.raises(NobodyThereError, match="was killed"):
                await ask(path, "status")

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400\r\n\r\n", b'{"ok": true}\n', b"[]\n"])
    async def test_something_else(self, answer: bytes, path: Path) -> None:
        served = 0

        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            await reader.readline()
            writer.write(answer)
            writer.close()
            await writer.wait_closed()
            served += 1

        server = await asyncio.start_unix_server(other, path)
        async with server:
            with pytest.raises(ControlError, match="is no gateway"):
                await ask(path, "status")
            # Without any answer it is looked whether somebody is there at all.
            await await_until(lambda: served == 1 + (not answer), what="both connections are served")


async def test_a_reply_larger_than_the_sockets_buffers_arrives(path: Path) -> None:
    big = {"devices": ["x" * 100] * 20_000}
    async with ControlServer(path, {"status": lambda _arguments: big}):
        assert await ask(path, "status") == big


async def test_the_server_forgets_conversations_that_ended(path: Path) -> None:
    async with ControlServer(path, VERBS) as server:
        await ask(path, "status")
        await await_until(lambda: not server._conversations, what="the conversation is over")
