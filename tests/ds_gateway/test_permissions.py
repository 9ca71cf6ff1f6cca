"""Who may do what on the machine of a gateway: its socket and its folder, whatever the umask.

docs/threat-model.md refers to this.
"""

from __future__ import annotations

import os
import stat
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anyio import to_thread

from ds_gateway.control import ControlServer, call
from ds_gateway.errors import ControlError
from harness.journal_box import JournalBox, reading

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio


NOBODY = 65534
GROUP = 54321
OTHER_GROUP = 54322


@pytest.fixture(params=[0o000, 0o077], ids=["umask 0", "umask 077"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    old = os.umask(request.param)
    yield
    os.umask(old)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that everybody may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.usefixtures("umask")
class TestTheControlSocket:
    async def test_is_at_no_moment_open_to_others(
        self, open_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = open_folder / "control.sock"
        before: list[int] = []
        chmod = Path.chmod

        def look_and_chmod(file: Path, mode: int) -> None:
            before.append(stat.S_IMODE(file.stat().st_mode))
            chmod(file, mode)

        monkeypatch.setattr(Path, "chmod", look_and_chmod)
        async with ControlServer(path, {"echo": lambda arguments: arguments}):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert len(before) == 1
        assert before[0] & 0o077 == 0

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    async def test_answers_its_group_and_refuses_all_others(self, open_folder: Path) -> None:
        path = open_folder / "control.sock"
        async with ControlServer(path, {"echo": lambda arguments: arguments}):
            os.chown(path, 0, GROUP)
            assert await to_thread.run_sync(partial(ask_as, path, GROUP)) == "answered"
            told = await to_thread.run_sync(partial(ask_as, path, OTHER_GROUP))
        assert told.startswith(f"permission denied on {path}: join the group {GROUP} ")
        assert "sudo" in told


def ask_as(path: Path, group: int) -> str:
    """What a user of this group alone is told, found out in a child process."""
    reading_end, writing_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(group, group, group)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            call(path, "echo")
            os.write(writing_end, b"answered")
        except ControlError as error:
            os.write(writing_end, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing_end)
    with os.fdopen(reading_end, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(child, 0)
    return told


@pytest.mark.usefixtures("umask")
class TestTheJournal:
    async def test_is_in_a_folder_that_is_closed_to_others(self, open_folder: Path) -> None:
        write_a_journal(open_folder / "data")
        assert others_may(open_folder / "data") == 0

    async def test_is_closed_to_others_in_a_folder_that_somebody_left_open(self, open_folder: Path) -> None:
        write_a_journal(open_folder)
        assert (open_folder / "journal" / "cache.db").exists()
        assert others_may(open_folder / "journal") == 0


def write_a_journal(folder: Path) -> None:
    box = JournalBox(folder)
    box.open()
    box.accept(reading(1))
    box.close()


def others_may(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) & 0o007
