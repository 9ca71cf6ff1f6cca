"""The harness itself: a test that could not fail would prove nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.leaks import Belongings, find_leaks
from harness.peers import REPOSITORY, require_peer, require_tool
from harness.ports import free_port
from harness.processes import console_script
from harness.reference_server import ReferenceServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.processes import ChildProcess, Processes


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class TestChildProcesses:
    def test_the_exit_status_and_the_output_are_kept(self, processes: Processes) -> None:
        child = processes.start([sys.executable, "-c", "print('hello'); raise SystemExit(3)"])
        assert child.wait_for_output(r"^h(.*)o$")[1] == "ell"
        assert child.wait() == 3
        assert not child.is_running

    def test_waiting_for_output_fails_at_once_when_the_program_ends(self, processes: Processes) -> None:
        child = processes.start([sys.executable, "-c", "print('something else')"], name="talker")
        with pytest.raises(AssertionError, match=r"(?s)talker ended with 0.*something else"):
            child.wait_for_output("never")

    def test_waiting_for_the_end_has_a_deadline(self, processes: Processes) -> None:
        child = processes.start([sys.executable, "-c", "input()"])
        with pytest.raises(AssertionError, match="still runs"):
            child.wait(timeout_seconds=0.05)

    def test_a_kill_reaches_grandchildren(self, processes: Processes) -> None:
        child = processes.start(["/bin/sh", "-c", "sleep 1000 & echo grandchild=$!; wait"])
        grandchild = int(child.wait_for_output(r"^grandchild=(\d+)$")[1])
        child.kill()
        # The grandchild becomes init's to reap: dead is a state of its own until then.
        wait_until(
            lambda: not _alive(grandchild) or _state(grandchild) == "Z", what="the grandchild is killed too"
        )
        assert child.wait() == -signal.SIGKILL


class TestForkedPrograms:
    """What a forked program could have in common with the process that forks, and has not."""

    def serve(self, processes: Processes, data: Path, **more: Any) -> ChildProcess:
        argv: list[str | Path] = [console_script("durable-streams"), "serve", "--data", data, "--port", "0"]
        child = processes.start(argv, name="serve", **more)
        child.wait_for_output("^http://")
        return child

    def is_forked(self, child: ChildProcess) -> bool:
        return b"zygote_main.py" in Path(f"/proc/{child.pid}/cmdline").read_bytes()

    @pytest.mark.parametrize("arguments", [("--help",), ("check", "--config", "/nowhere.yaml")])
    def test_a_command_prints_and_returns_the_same(self, processes: Processes, arguments: tuple[str, ...]) -> None:
        argv: list[str | Path] = [console_script("ds-gateway"), *arguments]
        executed = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
        forked = processes.run(argv)
        assert (forked.returncode, forked.stdout, forked.stderr) == (
            executed.returncode,
            executed.stdout,
            executed.stderr,
        )

    def test_it_has_a_session_a_folder_and_its_three_descriptors_for_itself(
        self, processes: Processes, tmp_path: Path
    ) -> None:
        first = self.serve(processes, Path("first"), cwd=tmp_path)
        second = self.serve(processes, tmp_path / "second")
        assert self.is_forked(first)
        assert self.is_forked(second)
        assert (tmp_path / "first").is_dir()
        assert Path(f"/proc/{first.pid}/cwd").readlink() == tmp_path
        assert Path(f"/proc/{second.pid}/cwd").readlink() == Path.cwd()
        for child in (first, second):
            assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid
            standard = [str(Path(f"/proc/{child.pid}/fd/{number}").readlink()) for number in range(3)]
            assert standard[0].startswith("pipe:")
            assert standard[1:] == [str(child.output_path)] * 2
        # Whatever else is open in one of them is not open in the other one.
        numbers = [Path(f"/proc/{child.pid}/fd").iterdir() for child in (first, second)]
        opened = [{str(each.readlink()) for each in found if int(each.name) > 2} for found in numbers]
        assert not {each for each in opened[0] & opened[1] if not each.startswith("anon_inode:[event")}

    def test_a_signal_ends_it_or_is_answered(self, processes: Processes, tmp_path: Path) -> None:
        killed = self.serve(processes, tmp_path / "killed")
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
        assert self.serve(processes, tmp_path / "ended").terminate() == 0

    def test_variables_are_those_of_the_test(
        self, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = tmp_path / "gateway.yaml"
        config.write_text("data_dir: .\nserver: {url: 'http://x/v1', token: '${env:NOT_THERE}'}\n")
        check: list[str | Path] = [console_script("ds-gateway"), "check", "--config", config]
        assert "NOT_THERE" in processes.run(check).stderr
        monkeypatch.setenv("NOT_THERE", "secret")
        assert "NOT_THERE" not in processes.run(check).stderr

    @pytest.mark.parametrize("name", ["PYTHONHASHSEED", "LD_LIBRARY_PATH", "TZ", "PYTHONPATH", "LC_ALL"])
    def test_what_an_interpreter_reads_at_its_start_is_read(
        self, processes: Processes, tmp_path: Path, name: str
    ) -> None:
        value = {"PYTHONHASHSEED": "1", "LC_ALL": "C"}.get(name, str(tmp_path))
        assert not self.is_forked(self.serve(processes, tmp_path / "data", env={name: value}))


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


class TestLeaks:
    def test_a_thread_is_found(self) -> None:
        earlier = Belongings.now()
        gate = threading.Event()
        thread = threading.Thread(target=gate.wait, name="left-running", daemon=True)
        thread.start()
        assert Belongings.now().beyond(earlier) == ["thread 'left-running'"]
        gate.set()
        assert find_leaks(earlier) == []

    def test_a_child_process_is_found(self, processes: Processes) -> None:
        earlier = Belongings.now()
        child = processes.start(["sleep", "1000"])
        assert any(leak.startswith("child process") for leak in Belongings.now().beyond(earlier))
        child.kill()
        assert find_leaks(earlier) == []

    def test_a_descriptor_is_found(self) -> None:
        earlier = Belongings.now()
        reading, writing = os.pipe()
        assert len(Belongings.now().beyond(earlier)) == 2
        os.close(reading)
        os.close(writing)
        assert find_leaks(earlier) == []


class TestMissingParts:
    def test_they_skip_the_test_with_the_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match="no-such-tool is neither on PATH"):
            require_tool("no-such-tool")

    def test_they_fail_the_test_where_ci_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="must not be missing where CI is set"):
            require_tool("no-such-tool")

    def test_a_peer_without_its_packages_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        require_tool("node")
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="no-such-peer has no node_modules"):
            require_peer("no-such-peer")


class TestReferenceServer:
    def test_it_keeps_its_address_over_a_restart(self, processes: Processes) -> None:
        server = ReferenceServer(processes)
        server.start()
        url = server.stream_url("a/b")
        _request("PUT", url, b"one")
        server.kill()
        with pytest.raises(urllib.error.URLError):
            _request("HEAD", url)
        server.start()
        assert server.stream_url("a/b") == url
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            _request("GET", url)
        refused.value.close()

    def test_file_backed_it_keeps_its_streams(self, processes: Processes, tmp_path: Path) -> None:
        server = ReferenceServer(processes, data=tmp_path / "data")
        server.start()
        _request("PUT", server.stream_url("kept"), b"one")
        server.kill()
        server.start()
        assert _request("GET", server.stream_url("kept")) == b"one"

    def test_faults_can_be_injected_and_cleared(self, reference_server: ReferenceServer) -> None:
        url = reference_server.stream_url("faults")
        _request("PUT", url)
        reference_server.inject_fault("faults", status=503, count=100)
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            _request("GET", url)
        refused.value.close()
        reference_server.clear_faults()
        assert _request("GET", url) == b""


def _request(method: str, url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, data=body, method=method, headers={"content-type": "text/plain"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


class TestFreePorts:
    def test_they_can_be_bound_and_do_not_repeat(self) -> None:
        ports = [free_port() for _ in range(20)]
        assert len(set(ports)) == 20
        with socket.create_server(("127.0.0.1", ports[0])):
            pass

    def test_no_other_process_gets_one_before_it_is_listened_on(self) -> None:
        port = free_port()
        program = (
            "import random; random.SystemRandom.randint = lambda *_: next(candidates)\n"
            f"candidates = iter(range({port}, 65536))\n"
            "from harness.ports import free_port; print(free_port())"
        )
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests")}
        other = subprocess.run(
            [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
        )
        assert int(other.stdout) > port


@pytest.mark.anyio
async def test_async_tests_run_on_asyncio() -> None:
    assert asyncio.get_running_loop().is_running()
