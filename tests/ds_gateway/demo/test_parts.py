from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ds_gateway.config.loader import load
from ds_gateway.demo import tied
from ds_gateway.demo.parts import DemoError, Folder, Part, accepts, environment, find_mosquitto, free_port
from ds_gateway.demo.setup import Ports, gateway_configuration
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.processes import Processes

FOREVER = "import sys, time; print('here', flush=True); time.sleep(600)"


def is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


class TestFindMosquitto:
    def test_the_variable_comes_first(self) -> None:
        assert find_mosquitto({"DS_GATEWAY_MOSQUITTO": "/bin/sh", "PATH": "/usr/sbin"}) == Path("/bin/sh")

    def test_none_is_none(self) -> None:
        assert find_mosquitto({"DS_GATEWAY_MOSQUITTO": "none"}) is None

    def test_a_program_that_is_none_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=rf"^DS_GATEWAY_MOSQUITTO={tmp_path}/nothing is no program"):
            find_mosquitto({"DS_GATEWAY_MOSQUITTO": str(tmp_path / "nothing")})

    def test_the_path_is_searched(self, tmp_path: Path) -> None:
        program = tmp_path / "mosquitto"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        assert find_mosquitto({"PATH": str(tmp_path)}) == program


class TestEnvironment:
    def test_settings_for_another_gateway_do_not_reach_the_demos(self) -> None:
        given = {"PATH": "/bin", "DS_GATEWAY__DATA_DIR": "/x", "STATE_DIRECTORY": "/y", "NOTIFY_SOCKET": "/z"}
        assert environment(given) == {"PATH": "/bin", "PYTHONUNBUFFERED": "1"}


class TestConfiguration:
    @pytest.mark.parametrize("broker", [20001, None])
    def test_is_one_that_the_gateway_takes(self, tmp_path: Path, broker: int | None) -> None:
        file = tmp_path / "gateway.yaml"
        ports = Ports(server=20000, status=20002, broker=broker)
        file.write_text(gateway_configuration(ports, tmp_path / 'a "folder": #1', tmp_path / "scale"))
        settings = load(file, {}).settings
        assert settings.data_dir == str(tmp_path / 'a "folder": #1')
        assert settings.serial["scale"].commands is not None
        line = settings.serial["scale"].framing.line
        assert line is not None
        assert line.delimiter == "\r\n"
        assert [source.packet_ids for source in settings.mqtt.values()] == ["sequential"] * (broker is not None)


class TestPorts:
    def test_a_free_port_can_be_listened_on(self) -> None:
        port = free_port()
        assert not accepts(port)
        with socket.create_server(("127.0.0.1", port)):
            assert accepts(port)


class TestPart:
    def test_it_can_be_killed_and_started_again(self, tmp_path: Path) -> None:
        with Part("a part", [sys.executable, "-c", FOREVER], tmp_path / "part.log", os.environ) as part:
            part.start()
            first = part.pid
            part.kill()
            assert part.status == -signal.SIGKILL
            part.start()
            assert part.pid != first
            wait_until(lambda: "here" in part.last_words(), what="the part has printed")
            second = part.pid
        assert not is_running(second)

    def test_its_exit_status_is_told(self, tmp_path: Path) -> None:
        with Part("a part", ["/bin/sh", "-c", "exit 3"], tmp_path / "part.log", os.environ) as part:
            part.start()
            wait_until(lambda: part.status is not None, what="the part has ended")
            assert part.status == 3

    def test_one_that_does_not_end_when_asked_is_told_and_killed(self, tmp_path: Path) -> None:
        script = "trap '' TERM; echo deaf; while :; do sleep 0.01; done"
        with Part("a deaf part", ["/bin/sh", "-c", script], tmp_path / "part.log", os.environ) as part:
            part.start()
            wait_until(lambda: "deaf" in part.last_words(), what="the part is deaf")
            with pytest.raises(DemoError, match=r"^a deaf part still runs 0\.1 s after SIGTERM"):
                part.terminate(0.1)
        assert part.status == -signal.SIGKILL

    def test_it_ends_with_the_process_that_started_it(self, tmp_path: Path, processes: Processes) -> None:
        script = (
            "import subprocess, sys, os, time\n"
            f"argv = [sys.executable, '-I', '-S', {tied.__file__!r}, str(os.getpid())]\n"
            f"child = subprocess.Popen([*argv, sys.executable, '-c', {FOREVER!r}], start_new_session=True)\n"
            "print('child', child.pid, flush=True)\n"
            "time.sleep(600)\n"
        )
        parent = processes.start([sys.executable, "-c", script], name="parent")
        child = int(parent.wait_for_output(r"^child (\d+)$")[1])
        parent.wait_for_output("^here$")
        assert is_running(child)
        parent.kill()
        wait_until(lambda: not is_running(child), what="the child has ended with its parent")

    def test_it_does_not_begin_when_its_parent_has_ended_already(self, processes: Processes) -> None:
        stranger = str(os.getpid() - 1 or 2)
        child = processes.start([sys.executable, tied.__file__, stranger, "/bin/echo", "it began"])
        assert child.wait() == 0
        assert "it began" not in child.output


class TestFolder:
    def test_is_removed(self) -> None:
        with Folder() as folder:
            (folder.path / "below").mkdir()
            assert folder.path.is_dir()
        assert not folder.path.exists()

    def test_is_kept_when_asked(self) -> None:
        with Folder() as folder:
            (folder.path / "log").touch()
            kept = folder.keep()
        assert (kept / "log").exists()
        (kept / "log").unlink()
        kept.rmdir()

    def test_is_removed_when_the_process_is_killed(self, processes: Processes) -> None:
        script = (
            "import time\n"
            "from ds_gateway.demo.parts import Folder\n"
            "with Folder() as folder:\n"
            "    (folder.path / 'file').touch()\n"
            "    print('folder', folder.path, flush=True)\n"
            "    time.sleep(600)\n"
        )
        owner = processes.start([sys.executable, "-c", script], name="owner")
        path = Path(owner.wait_for_output(r"^folder (.+)$")[1])
        assert (path / "file").exists()
        owner.kill()
        wait_until(lambda: not path.exists(), what="the folder has been removed")
