"""What commands write for their user: whole or not at all, for nobody else, and never over what is there."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

from ds_gateway.cli.output import OutputError, writing
from harness.processes import console_script

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def write(output: Path, content: bytes = b"all of it") -> None:
    with writing(output) as file:
        file.write(content)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full after so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


class TestAFile:
    @pytest.mark.parametrize("name", ["out", "n" * 255, "\N{SNOWMAN}" * 85])
    def test_is_the_users_alone_and_nothing_else_is_left(self, tmp_path: Path, name: str) -> None:
        write(tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"all of it"
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert names(tmp_path) == [name]

    def test_is_not_there_before_it_is_whole(self, output: Path) -> None:
        def half() -> None:
            with writing(output) as file:
                file.write(b"half")
                file.flush()
                assert not output.exists()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            half()
        assert names(output.parent) == []

    def test_is_not_written_through_what_somebody_put_beside_it(self, tmp_path: Path, output: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("precious")
        (tmp_path / "out.tmp").symlink_to(victim)
        write(output)
        assert victim.read_text() == "precious"
        assert output.read_bytes() == b"all of it"
        assert not output.is_symlink()

    def test_has_not_the_rights_of_what_was_left_beside_it(self, tmp_path: Path, output: Path) -> None:
        left = tmp_path / "out.tmp"
        left.write_text("left")
        left.chmod(0o666)
        write(output)
        assert output.stat().st_mode & 0o777 == 0o600
        assert left.read_text() == "left"

    @pytest.mark.parametrize("has_links", [True, False], ids=["", "on a disk without second names"])
    def test_replaces_none_that_came_meanwhile(
        self, output: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool
    ) -> None:
        if not has_links:
            monkeypatch.setattr(os, "link", no_links)

        def write_while_another_comes() -> None:
            with writing(output) as file:
                file.write(b"ours")
                output.write_text("theirs")

        with pytest.raises(typer.BadParameter, match="is there already"):
            write_while_another_comes()
        assert output.read_text() == "theirs"
        assert names(output.parent) == ["out"]

    def test_replaces_no_link_that_leads_nowhere(self, tmp_path: Path, output: Path) -> None:
        output.symlink_to(tmp_path / "nowhere")
        with pytest.raises(typer.BadParameter, match="is there already"):
            write(output)
        assert names(tmp_path) == ["out"]

    def test_is_written_where_a_file_has_one_name_only(
        self, output: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "link", no_links)
        write(output)
        assert output.read_bytes() == b"all of it"
        assert names(output.parent) == ["out"]

    def test_in_no_folder_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(typer.BadParameter, match="nowhere/out cannot be written: No such file or directory"):
            write(tmp_path / "nowhere/out")


def no_links(*_: object, **_more: object) -> None:
    """As vfat."""
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


class TestAFullDisk:
    @pytest.mark.parametrize("size", [100, 1_000_000], ids=["told at the end", "told while it is written"])
    def test_is_said_and_nothing_is_left(self, output: Path, size: int) -> None:
        with largest_file(50), pytest.raises(OutputError) as caught:
            write(output, b"x" * size)
        assert str(caught.value) == (
            f"--output {output} cannot be written: File too large; nothing is left of it: make room, or name a "
            "file on another disk"
        )
        assert names(output.parent) == []

    def test_of_a_command_is_a_message(self, tmp_path: Path) -> None:
        (tmp_path / "g.yaml").write_text("data_dir: .\n")
        with largest_file(512):  # which a command inherits
            done = subprocess.run(
                [
                    console_script("ds-gateway"),
                    *("diag", "--log-lines", "0", "--config", tmp_path / "g.yaml", "--output", tmp_path / "d"),
                ],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        assert done.returncode == 1
        assert done.stderr.startswith(f"ds-gateway: --output {tmp_path}/d cannot be written: File too large; ")
        assert len(done.stderr.splitlines()) == 1
        assert names(tmp_path) == ["g.yaml"]

    def test_behind_standard_output_is_a_message(self, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path\n"
            "from ds_gateway.cli.output import OutputError, writing\n"
            "try:\n"
            "    with writing(Path('-')) as file: file.write(b'x')\n"
            "except OutputError as error: sys.exit(str(error))\n"
        )
        python = console_script("python")
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                [python, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
            )
        assert done.stderr == (
            "standard output cannot be written: No space left on device; what is there is not complete\n"
        )
        assert done.returncode == 1
