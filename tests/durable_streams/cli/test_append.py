"""``durable-streams append``: arguments, lines and bytes into a stream."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import orjson
import pytest

from harness import plain_http
from harness.processes import console_script
from harness.stream_command import piped
from harness.stream_server import Front, Reply
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from durable_streams.testing import InMemoryStreamServer
    from harness.stream_command import Ended, StreamCommand


@pytest.fixture
def json_url(url: str) -> str:
    """A stream of JSON."""
    plain_http.put(url, headers={"content-type": "application/json"}).raise_for_status()
    return url


@pytest.fixture
def text_url(url: str) -> str:
    """A stream of text."""
    plain_http.put(url, headers={"content-type": "text/plain"}).raise_for_status()
    return url


@pytest.fixture
def bytes_url(url: str) -> str:
    """A stream of bytes."""
    plain_http.put(url, headers={"content-type": "application/octet-stream"}).raise_for_status()
    return url


@pytest.fixture
def front(server: InMemoryStreamServer) -> Iterator[Front]:
    """What stands between the command and the server, and keeps what was asked."""
    with Front(server.url()) as started:
        yield started


def through(front: Front, url: str) -> str:
    return f"{front.base_url}/{url.rpartition('/')[2]}"


def end_of(url: str) -> str:
    offset: str = plain_http.head(url).headers["stream-next-offset"]
    return offset


def failed(ended: Ended, *, saying: str, code: int = 1) -> None:
    assert ended.code == code
    assert ended.stdout == b""
    assert ended.stderr.count("\n") == 1
    assert saying in ended.stderr


class TestArguments:
    def test_each_is_one_json_message(self, command: StreamCommand, json_url: str) -> None:
        offset = command("append", json_url, '{"a": 1}', "[1, 2]", '"text"', "--", "-5").offset
        assert plain_http.get(json_url).json() == [{"a": 1}, [1, 2], "text", -5]
        assert offset == end_of(json_url)

    def test_bytes_are_appended_as_they_are(self, command: StreamCommand, text_url: str) -> None:
        assert command("append", text_url, "a ", "ü\n").offset == end_of(text_url)
        assert plain_http.get(text_url).text == "a ü\n"

    def test_what_is_no_json_is_refused_with_the_way_to_write_it(
        self, command: StreamCommand, json_url: str
    ) -> None:
        ended = command("append", json_url, "1", "hello", "2")
        failed(ended, saying=f"cannot append to {json_url}: not a JSON message")
        assert """a text is written '"text"'""" in ended.stderr
        assert "1 of 3 messages are stored" in ended.stderr
        assert plain_http.get(json_url).json() == [1]

    def test_a_given_content_type_saves_the_question(
        self, command: StreamCommand, json_url: str, front: Front
    ) -> None:
        assert command("append", through(front, json_url), "1", "--json").code == 0
        assert [asked.method for asked in front.asked] == ["POST"]

    def test_a_wrong_content_type_says_to_leave_it_out(self, command: StreamCommand, json_url: str) -> None:
        ended = command("append", json_url, "1", "--content-type", "text/plain")
        failed(ended, saying="leave --content-type and --json out")

    def test_seq_is_the_callers_own_order(self, command: StreamCommand, json_url: str) -> None:
        assert command("append", json_url, "1", "--seq", "b").code == 0
        failed(command("append", json_url, "2", "--seq", "a"), saying="--seq must be greater")
        assert plain_http.get(json_url).json() == [1]

    def test_a_closed_stream_takes_nothing(self, command: StreamCommand, json_url: str) -> None:
        plain_http.post(json_url, headers={"stream-closed": "true"})
        failed(command("append", json_url, "1"), saying="the stream is closed")

    @pytest.mark.parametrize(
        ("arguments", "saying"),
        [
            ([], "nothing to append: give DATA, --file FILE, or -"),
            (["1", "--file", "x"], "--file and DATA exclude each other"),
            (["--file", "/nowhere/x"], "cannot read /nowhere/x: No such file"),
            (["1", "--epoch", "1"], "give --producer-id, too"),
            (["1", "--auto-claim"], "give --producer-id, too"),
            (["1", "--producer-id", ""], "--producer-id is empty"),
            (["1", "2", "--seq", "a"], "--seq is the order of one message"),
            (["-", "--seq", "a"], "--seq is the order of one message"),
            (["1", "--seq", "a", "--producer-id", "p"], "--seq is the order of one message"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(
        self, command: StreamCommand, json_url: str, arguments: list[str], saying: str
    ) -> None:
        failed(command("append", json_url, *arguments), saying=saying, code=2)
        assert plain_http.get(json_url).json() == []


class TestInput:
    def test_a_line_is_a_json_message_and_empty_lines_are_none(
        self, command: StreamCommand, json_url: str
    ) -> None:
        offset = command("append", json_url, "-", stdin=b'{"a": 1}\n\n  \n[1, 2]\r\n"x"').offset
        assert plain_http.get(json_url).json() == [{"a": 1}, [1, 2], "x"]
        assert offset == end_of(json_url)

    @pytest.mark.parametrize("content", [b"", b"one\ntwo\n", b"\x00\xff\n\n" * 50_000])
    def test_bytes_arrive_unchanged(
        self, command: StreamCommand, bytes_url: str, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / "content").write_bytes(content)
        assert command("append", bytes_url, "--file", tmp_path / "content").offset == end_of(bytes_url)
        assert plain_http.get(bytes_url).content == content

    def test_lines_of_text_are_never_torn(self, command: StreamCommand, text_url: str, front: Front) -> None:
        lines = b"".join(b"line %d\n" % number for number in range(100))
        url = through(front, text_url)
        assert command("append", url, "-", "--max-batch-bytes", "128", stdin=lines).code == 0
        bodies = [asked.body for asked in front.asked if asked.method == "POST"]
        assert len(bodies) > 5
        assert all(body.endswith(b"\n") for body in bodies)
        assert plain_http.get(text_url).content == lines

    def test_many_lines_go_in_few_requests(self, command: StreamCommand, json_url: str, front: Front) -> None:
        lines = b"".join(b"%d\n" % number for number in range(20_000))
        assert command("append", through(front, json_url), "-", stdin=lines).code == 0
        assert len(front.asked) < 200
        assert plain_http.get(json_url).json() == list(range(20_000))

    def test_a_lost_answer_stores_nothing_twice(self, command: StreamCommand, json_url: str, front: Front) -> None:
        first = iter([True])
        front.lose_answers(lambda asked: asked.method == "POST" and next(first, False))
        assert command("append", through(front, json_url), "-", stdin=b"1\n2\n").code == 0
        assert front.lost == 1
        assert plain_http.get(json_url).json() == [1, 2]

    def test_a_bad_line_is_named_and_what_is_before_it_is_stored(
        self, command: StreamCommand, json_url: str
    ) -> None:
        ended = command("append", json_url, "-", stdin=b"1\n\n2\n{oops\n3\n")
        failed(ended, saying=f"cannot append to {json_url}: line 4: not a JSON message")
        assert "the 2 messages before it are stored" in ended.stderr
        assert plain_http.get(json_url).json() == [1, 2]

    def test_a_line_that_is_too_long_is_named(self, command: StreamCommand, json_url: str) -> None:
        ended = command("append", json_url, "-", "--max-batch-bytes", "64", stdin=b'1\n"' + b"x" * 80 + b'"\n')
        failed(ended, saying="line 2 is longer than --max-batch-bytes 64 allows: give more")
        assert plain_http.get(json_url).json() == [1]

    def test_a_refusal_says_how_many_are_stored(self, command: StreamCommand, json_url: str, front: Front) -> None:
        posts = iter([None, Reply(401)])
        front.rule = lambda asked: next(posts, Reply(401)) if asked.method == "POST" else None
        lines = b"".join(b"%d\n" % number for number in range(1000))
        ended = command("append", through(front, json_url), "-", "--max-batch-bytes", "64", stdin=lines)
        stored = len(plain_http.get(json_url).json())
        failed(ended, saying="the server refuses the credentials")
        assert f"{stored} of " in ended.stderr

    def test_nothing_waits_for_the_end_of_a_pipe(self, json_url: str) -> None:
        with piped("append", json_url, "-") as process:
            assert process.stdin is not None
            process.stdin.write(b"1\n")
            process.stdin.flush()
            wait_until(lambda: plain_http.get(json_url).json() == [1], what="the line is in the stream")
            out, error = process.communicate(b"2\n", timeout=20)
            assert (process.returncode, error) == (0, b"")
        assert out.decode() == f"{end_of(json_url)}\n"
        assert plain_http.get(json_url).json() == [1, 2]

    def test_ctrl_c_says_what_is_not_confirmed(self, json_url: str, front: Front) -> None:
        front.rule = lambda asked: Reply(503, {"retry-after": "60"}) if asked.method == "POST" else None
        with piped("append", through(front, json_url), "-") as process:
            assert process.stdin is not None
            process.stdin.write(b"1\n2\n")
            process.stdin.flush()
            wait_until(lambda: any(each.method == "POST" for each in front.asked), what="it was tried")
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=20)
        assert process.returncode == 130
        # That it is tried again may be told by then, or not yet.
        said = [each for each in error.decode().splitlines() if not each.endswith("it is tried again")]
        assert said == ["durable-streams: interrupted: 2 of 2 messages are not confirmed"]

    def test_a_file_larger_than_the_memory_it_may_use(self, json_url: str, tmp_path: Path) -> None:
        lines = tmp_path / "lines"
        line = orjson.dumps({"text": "x" * 990}) + b"\n"
        lines.write_bytes(line * 60_000)

        def peak_kib(*arguments: object) -> int:
            argv = [str(console_script("durable-streams")), *map(str, arguments)]
            pid = subprocess.Popen(argv, stdout=subprocess.DEVNULL)

            _, status, usage = os.wait4(pid.pid, 0)
            pid.returncode = os.waitstatus_to_exitcode(status)
            assert pid.returncode == 0
            return usage.ru_maxrss

        idle = peak_kib("append", json_url, "1")
        assert peak_kib("append", json_url, "--file", lines) - idle < lines.stat().st_size // 1024 * 2 // 3


class TestProducers:
    def test_every_run_claims_the_next_epoch(self, command: StreamCommand, json_url: str) -> None:
        for number in range(3):
            assert command("append", json_url, number, "--producer-id", "p").code == 0
        assert plain_http.get(json_url).json() == [0, 1, 2]

    def test_an_epoch_stores_the_same_input_once(self, command: StreamCommand, json_url: str) -> None:
        options = ("--producer-id", "p", "--epoch", "3", "--max-batch-bytes", "64")
        lines = b"".join(b'"%020d"\n' % number for number in range(10))
        half = b"".join(lines.splitlines(keepends=True)[:4])  # two to a batch
        assert command("append", json_url, "-", *options, stdin=half).code == 0
        second = command("append", json_url, "-", *options, stdin=lines)
        assert second.offset == end_of(json_url)
        assert "4 of 10 messages were there already" in second.stderr
        third = command("append", json_url, "-", *options, stdin=lines)
        assert third.offset == end_of(json_url)
        assert "10 of 10 messages were there already" in third.stderr
        assert plain_http.get(json_url).json() == [f"{number:020d}" for number in range(10)]

    def test_an_earlier_epoch_is_fenced(self, command: StreamCommand, json_url: str) -> None:
        assert command("append", json_url, "1", "--producer-id", "p", "--epoch", "2").code == 0
        ended = command("append", json_url, "2", "--producer-id", "p", "--epoch", "1")
        failed(ended, saying="give a higher --epoch, or --auto-claim; 0 of 1 messages are stored")
        assert command("append", json_url, "3", "--producer-id", "p", "--epoch", "1", "--auto-claim").code == 0
        assert plain_http.get(json_url).json() == [1, 3]

    def test_a_bad_argument_is_named(self, command: StreamCommand, json_url: str) -> None:
        ended = command("append", json_url, "1", "oops", "--producer-id", "p")
        failed(ended, saying="message 2: not a JSON message")
        assert plain_http.get(json_url).json() == [1]
