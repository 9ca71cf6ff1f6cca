"""``durable-streams read`` and ``tail``: from a stream to standard output, with a checkpoint."""

from __future__ import annotations

import base64
import signal
import stat
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from durable_streams.testing import InMemoryStreamServer
from harness import plain_http
from harness.processes import console_script
from harness.stream_command import piped
from harness.stream_server import Front
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.processes import Processes
    from harness.stream_command import StreamCommand

JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}
BYTES = {"content-type": "application/octet-stream"}


def create(url: str, headers: dict[str, str], *bodies: bytes) -> str:
    plain_http.put(url, headers=headers).raise_for_status()
    for body in bodies:
        append(url, headers, body)
    return url


def append(url: str, headers: dict[str, str], body: bytes) -> str:
    answer = plain_http.post(url, headers=headers, content=body).raise_for_status()
    offset: str = answer.headers["stream-next-offset"]
    return offset


def close(url: str) -> None:
    plain_http.post(url, headers={"stream-closed": "true"}).raise_for_status()


def saved(path: Path) -> str:
    offset: str = orjson.loads(path.read_bytes())["offset"]
    return offset


class TestRead:
    def test_json_is_one_message_a_line(self, command: StreamCommand, url: str) -> None:
        create(url, JSON, b'[{"a": 1}, [1, 2]]', b'"x\\ny"')
        ended = command("read", url)
        assert (ended.code, ended.stderr) == (0, "")
        assert ended.stdout == b'{"a":1}\n[1,2]\n"x\\ny"\n'

    def test_everything_else_is_bytes(self, command: StreamCommand, url: str) -> None:
        create(url, BYTES, b"\x00\xff\n", b"\xfe")
        assert command("read", url).stdout == b"\x00\xff\n\xfe"

    def test_an_empty_stream_prints_nothing(self, command: StreamCommand, url: str) -> None:
        create(url, JSON)
        ended = command("read", url)
        assert (ended.code, ended.stdout, ended.stderr) == (0, b"", "")

    def test_the_offset_says_where_to_begin(self, command: StreamCommand, url: str) -> None:
        create(url, JSON, b"1", b"2")
        offset = append(url, JSON, b"3")
        append(url, JSON, b"4")
        assert command("read", url, "--offset", offset).lines == [4]
        assert command("read", url, "--offset", "now").lines == []

    def test_raw_json_is_what_the_server_sends(self, command: StreamCommand, url: str) -> None:
        create(url, JSON, b"[1,2]")
        assert command("read", url, "--raw").stdout == plain_http.get(url).content

    def test_json_can_be_asked_for_whatever_the_type(self, command: StreamCommand, url: str) -> None:
        create(url, TEXT, b'[1, {"a": 2}]')
        assert command("read", url, "--json").lines == [1, {"a": 2}]

    def test_json_that_few_can_write_is_printed_all_the_same(self, command: StreamCommand, url: str) -> None:
        deep = b"[" * 300 + b"]" * 300
        create(url, TEXT, b'["\\ud800", ' + deep + b"]")
        assert command("read", url, "--json").stdout == b'"\\ud800"\n' + deep + b"\n"

    def test_what_is_no_json_says_how_to_see_it(self, command: StreamCommand, url: str) -> None:
        create(url, TEXT, b"hello")
        ended = command("read", url, "--json")
        assert ended.code == 1
        assert f"cannot read {url}: " in ended.stderr
        assert "--raw prints what is there as it is" in ended.stderr

    @pytest.mark.parametrize(
        ("headers", "body", "shown"),
        [
            (JSON, b"[1,2]", {"data": [1, 2]}),
            (TEXT, "ü".encode(), {"data": "ü"}),
            (BYTES, b"\xff", {"base64": base64.b64encode(b"\xff").decode()}),
        ],
        ids=["json", "text", "bytes"],
    )
    def test_events_say_where_they_end(
        self, command: StreamCommand, url: str, headers: dict[str, str], body: bytes, shown: dict[str, object]
    ) -> None:
        create(url, headers)
        offset = append(url, headers, body)
        (event,) = command("read", url, "--events").lines
        assert event == {"offset": offset, "up_to_date": True, "cursor": None, **shown}

    def test_two_forms_at_once_are_refused(self, command: StreamCommand, url: str) -> None:
        ended = command("read", url, "--raw", "--events")
        assert ended.code == 2
        assert "--raw and --events exclude each other" in ended.stderr

    def test_an_offset_that_is_none_says_what_one_is(self, command: StreamCommand, url: str) -> None:
        create(url, JSON)
        ended = command("read", url, "--offset", "yesterday")
        assert ended.code == 1
        assert "--offset takes -1, now, or an offset" in ended.stderr

    def test_it_ends_quietly_when_nobody_reads_on(self, url: str, tmp_path: Path) -> None:
        create(url, JSON, orjson.dumps(list(range(100_000))))
        with piped("read", url, "--checkpoint", tmp_path / "checkpoint") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"0\n"
            process.stdout.close()
            assert process.wait(timeout=20) == 141
            assert process.stderr.read() == b""
        assert saved(tmp_path / "checkpoint") == "-1", "what nobody has read is not behind the checkpoint"


class TestCheckpoint:
    @pytest.fixture
    def checkpoint(self, tmp_path: Path) -> Path:
        return tmp_path / "folder" / "checkpoint"

    @pytest.fixture(autouse=True)
    def _folder(self, checkpoint: Path) -> None:
        checkpoint.parent.mkdir()

    def test_every_run_goes_on_where_the_last_one_ended(
        self, command: StreamCommand, url: str, checkpoint: Path
    ) -> None:
        create(url, JSON, b"1", b"2")
        assert command("read", url, "--checkpoint", checkpoint).lines == [1, 2]
        assert command("read", url, "--checkpoint", checkpoint).lines == []
        offset = append(url, JSON, b"3")
        assert command("read", url, "--checkpoint", checkpoint, "--offset", "-1").lines == [3]
        assert saved(checkpoint) == offset
        assert list(checkpoint.parent.iterdir()) == [checkpoint]

    def test_the_first_time_the_offset_counts(self, command: StreamCommand, url: str, checkpoint: Path) -> None:
        create(url, JSON, b"1")
        assert command("read", url, "--checkpoint", checkpoint, "--offset", "now").lines == []
        append(url, JSON, b"2")
        assert command("read", url, "--checkpoint", checkpoint, "--offset", "now").lines == [2]

    def test_it_is_this_streams_own(self, command: StreamCommand, url: str, checkpoint: Path) -> None:
        create(url, JSON, b"1")
        assert command("read", f"{url}?signature=1", "--checkpoint", checkpoint).code == 0
        assert command("read", f"{url}?signature=2", "--checkpoint", checkpoint).lines == []
        ended = command("read", f"{url}-other", "--checkpoint", checkpoint)
        assert ended.code == 2
        assert f"{checkpoint} is the checkpoint of {url}, not of {url}-other" in ended.stderr

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"url": 1, "offset": "x"}', b'{"url": "x"}'])
    def test_what_is_no_checkpoint_is_left_alone(
        self, command: StreamCommand, url: str, checkpoint: Path, content: bytes
    ) -> None:
        create(url, JSON, b"1")
        checkpoint.write_bytes(content)
        ended = command("read", url, "--checkpoint", checkpoint)
        assert ended.code == 2
        assert f"{checkpoint} is no checkpoint" in ended.stderr
        assert checkpoint.read_bytes() == content

    def test_one_that_cannot_be_written_is_noticed_before_the_work(
        self, command: StreamCommand, url: str, tmp_path: Path
    ) -> None:
        create(url, JSON, b"1")
        ended = command("read", url, "--checkpoint", tmp_path / "nowhere" / "checkpoint")
        assert (ended.code, ended.stdout) == (1, b"")
        assert "nowhere" in ended.stderr
        assert "No such file or directory" in ended.stderr

    def test_it_stays_behind_an_output_that_fails(self, url: str, checkpoint: Path) -> None:
        create(url, JSON, b"1")
        argv = [str(console_script("durable-streams")), "read", url, "--checkpoint", str(checkpoint)]
        with Path("/dev/full").open("wb") as full:
            ended = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, timeout=20, check=False)
        assert ended.returncode == 1
        assert b"No space left on device" in ended.stderr
        assert b"Traceback" not in ended.stderr
        assert saved(checkpoint) == "-1"

    def test_a_killed_tail_skips_nothing(
        self, command: StreamCommand, url: str, checkpoint: Path, tmp_path: Path
    ) -> None:
        create(url, JSON)
        argv = [str(console_script("durable-streams")), "tail", url, "--checkpoint", str(checkpoint)]
        sent = 0
        with (tmp_path / "output").open("ab") as output:
            for _ in range(3):
                with subprocess.Popen(argv, stdout=output, stderr=subprocess.DEVNULL) as process:
                    for _ in range(5):
                        append(url, JSON, b"%d" % sent)
                        sent += 1
                    wait_until(partial(most_are_in, tmp_path / "output", sent), what="most are written")
                    process.kill()
            close(url)
            output.write(command("tail", url, "--checkpoint", checkpoint).stdout)
        assert seen(tmp_path / "output") == set(range(sent))
        assert saved(checkpoint) == plain_http.head(url).headers["stream-next-offset"]


def most_are_in(path: Path, count: int) -> bool:
    return seen(path) >= set(range(count - 2))


def seen(path: Path) -> set[int]:
    return {int(line) for line in path.read_bytes().split(b"\n")[:-1]}


class TestTail:
    @pytest.mark.parametrize("live", ["auto", "long-poll", "sse"])
    def test_it_goes_on_until_the_stream_is_closed(self, command: StreamCommand, url: str, live: str) -> None:
        create(url, JSON, b"1")

        def meanwhile(output: Path) -> None:
            wait_for(output, b"1\n")
            append(url, JSON, b"2")
            wait_for(output, b"1\n2\n")

        ended = command.during(meanwhile, partial(close, url), "tail", url, "--live", live)
        assert (ended.code, ended.stdout) == (0, b"1\n2\n")
        assert ended.stderr == f"durable-streams: {url} is closed: nothing more will come\n"

    def test_a_process_does_so_too(self, processes: Processes, url: str) -> None:
        create(url, JSON, b"1")
        tail = processes.start([console_script("durable-streams"), "tail", url])
        tail.wait_for_output("^1$")
        append(url, JSON, b"2")
        tail.wait_for_output("^2$")
        close(url)
        assert tail.wait() == 0
        assert tail.output == f"1\n2\ndurable-streams: {url} is closed: nothing more will come\n"

    def test_events_have_their_form_by_server_sent_events_too(self, command: StreamCommand, url: str) -> None:
        create(url, JSON, b"1")

        def meanwhile(output: Path) -> None:
            wait_until(lambda: b'"data":[1]' in output.read_bytes(), what="the event is printed")

        assert command.during(meanwhile, partial(close, url), "tail", url, "--live", "sse", "--events").code == 0

    def test_bytes_come_without_waiting_for_a_line(self, command: StreamCommand, url: str) -> None:
        create(url, TEXT, b"one")

        def meanwhile(output: Path) -> None:
            wait_for(output, b"one")
            append(url, TEXT, b" two")
            wait_for(output, b"one two")

        assert command.during(meanwhile, partial(close, url), "tail", url).stdout == b"one two"

    def test_ctrl_c_ends_it_quietly(self, processes: Processes, url: str) -> None:
        create(url, JSON, b"1")
        tail = processes.start([console_script("durable-streams"), "tail", url])
        tail.wait_for_output("^1$")
        tail.send_signal(signal.SIGINT)
        assert tail.wait() == 130
        assert tail.output == "1\n"

    def test_it_begins_at_the_end_if_told_to(self, command: StreamCommand, url: str, tmp_path: Path) -> None:
        create(url, JSON, b"1")
        checkpoint = tmp_path / "checkpoint"

        def meanwhile(output: Path) -> None:
            wait_until(checkpoint.exists, what="it knows where it begins")
            assert stat.S_ISREG(checkpoint.stat().st_mode)
            append(url, JSON, b"2")
            wait_for(output, b"2\n")

        arguments = ("tail", url, "--offset", "now", "--checkpoint", checkpoint)
        assert command.during(meanwhile, partial(close, url), *arguments).stdout == b"2\n"

    def test_it_takes_up_a_renewed_token(self, command: StreamCommand, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text("first\n")
        with InMemoryStreamServer(long_poll_timeout_seconds=0.05) as server, Front(server.url()) as front:
            url = create(f"{front.base_url}/s", JSON, b"1")

            def renewed() -> bool:
                return front.asked[-1].headers.get("authorization") == "Bearer second"

            def meanwhile(output: Path) -> None:
                wait_for(output, b"1\n")
                token.write_text("second\n")
                wait_until(renewed, what="the new token is sent")

            arguments = ("tail", url, "--live", "long-poll", "--token-file", token)
            assert command.during(meanwhile, partial(close, server.url("/s")), *arguments).code == 0


def wait_for(output: Path, content: bytes) -> None:
    wait_until(lambda: output.read_bytes() == content, what=f"{content!r} is printed")
