"""A configuration in several files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

import pytest

from ds_gateway.config import includes, loader
from ds_gateway.config.includes import Disk, FileProblemError
from ds_gateway.errors import ConfigError
from harness.configuration import MACHINE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ds_gateway.config.loader import Loaded

HEAD = "gateway: {id: line-7}\ndata_dir: /d\nserver: {url: 'http://127.0.0.1:4437'}\n"
PORT = "serial:\n  {name}:\n    port: /dev/{name}\n"


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "g.yaml"


def load(folder: Path, files: Mapping[str, str], environ: Mapping[str, str] | None = None) -> Loaded:
    return loader.load(write(folder, files), environ or {}, machine=MACHINE)


def mistakes(folder: Path, files: Mapping[str, str], environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, files, environ)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def port(name: str) -> str:
    return PORT.replace("{name}", name)


class TestMerging:
    def test_mappings_of_all_files_are_one(self, tmp_path: Path) -> None:
        loaded = load(
            tmp_path,
            {
                "g.yaml": HEAD + "include: [devices/*.yaml, log.yaml]\n" + port("a"),
                "devices/2.yaml": port("c") + "journal: {max_bytes: 2GiB}\n",
                "devices/1.yaml": port("b") + "journal: {retain_bytes: 1MiB}\n",
                "devices/.hidden.yaml": "nonsense: 1\n",
                "devices/1.yaml~": "nonsense: 1\n",
                "log.yaml": "log: {level: debug}\n",
            },
        )
        assert list(loaded.settings.serial) == ["a", "b", "c"]
        assert loaded.settings.journal.max_bytes == 2**31
        assert loaded.settings.journal.retain_bytes == 2**20
        assert loaded.settings.log.level == "debug"

    def test_an_empty_section_is_no_other_value(self, tmp_path: Path) -> None:
        files = {"g.yaml": HEAD + "include: [a.yaml]\nserial:\n", "a.yaml": port("a") + "log:\n"}
        assert list(load(tmp_path, files).settings.serial) == ["a"]

    def test_an_empty_file_adds_nothing(self, tmp_path: Path) -> None:
        files = {"g.yaml": HEAD + port("a") + "include: [b.yaml]\n", "b.yaml": "# later\n"}
        assert list(load(tmp_path, files).settings.serial) == ["a"]

    def test_a_key_in_two_files_names_both_places(self, tmp_path: Path) -> None:
        files = {
            "g.yaml": HEAD + "include: ['*/*.yaml']\nlog: {level: info}\n",
            "d/1.yaml": port("a"),
            "d/2.yaml": "log:\n  level: debug\n" + port("a"),
        }
        assert mistakes(tmp_path, files) == [
            "d/2.yaml:2: log.level: this key is in two files; the first is g.yaml:5: remove one",
            "d/2.yaml:5: serial.a.port: this key is in two files; the first is d/1.yaml:3: remove one",
        ]

    def test_lists_are_not_joined(self, tmp_path: Path) -> None:
        broker = "mqtt:\n  hall:\n    devices: [{topic: a}]\n"
        files = {"g.yaml": HEAD + "include: [1.yaml, 2.yaml]\n", "1.yaml": broker, "2.yaml": broker}
        assert mistakes(tmp_path, files) == [
            "2.yaml:3: mqtt.hall.devices: this key is in two files; the first is 1.yaml:3: remove one"
        ]

    def test_overrides_come_last(self, tmp_path: Path) -> None:
        files = {"g.yaml": HEAD + "include: [a.yaml]\n", "a.yaml": port("a") + "log: {level: debug}\n"}
        environ = {"DS_GATEWAY__LOG__LEVEL": "error", "DS_GATEWAY__SERIAL__A__PORT": "/dev/x"}
        settings = load(tmp_path, files, environ).settings
        assert (settings.log.level, settings.serial["a"].port) == ("error", "/dev/x")

    def test_included_files_include_others(self, tmp_path: Path) -> None:
        files = {
            "g.yaml": HEAD + "include: [x/a.yaml]\n",
            "x/a.yaml": "include: [y/b.yaml]\n",
            "x/y/b.yaml": "include: ['../../c.yaml']\n",
            "c.yaml": port("c"),
        }
        assert list(load(tmp_path, files).settings.serial) == ["c"]


class TestPlaces:
    def test_paths_count_from_the_file_that_they_stand_in(self, tmp_path: Path) -> None:
        files = {
            "g.yaml": HEAD.replace("/d\n", "data\n").replace("http:", "https:").replace("'}", "', tls: {ca: ca}}")
            + "include: [x/a.yaml]\n",
            "ca": "",
            "x/a.yaml": "serial: {a: {port: tty}}\nserver: {token: '${file:token}'}\n",
            "x/token": "abc\n",
        }
        settings = load(tmp_path, files).settings
        assert settings.data_dir == str(tmp_path / "data")
        assert settings.server.tls.ca == str(tmp_path / "ca")
        assert settings.serial["a"].port == str(tmp_path / "x/tty")
        assert settings.server.token is not None
        assert settings.server.token.get() == "abc"

    def test_a_mistake_names_its_own_file_and_line(self, tmp_path: Path) -> None:
        files = {
            "g.yaml": HEAD + "include: [x/a.yaml]\nbatch: {paralel: 1}\n",
            "x/a.yaml": "\n" + port("a") + "    baudrate: fast\n    bits: 8\n",
        }
        told = mistakes(tmp_path, files)
        assert told[0] == "g.yaml:5: batch.paralel: unknown key; did you mean parallel?"
        assert told[1] == "x/a.yaml:5: serial.a.baudrate: must be a whole number, not 'fast'"
        assert told[2].startswith("x/a.yaml:6: serial.a.bits: unknown key; ")

    def test_a_check_across_files_names_the_second(self, tmp_path: Path) -> None:
        files = {
            "g.yaml": HEAD + "include: [1.yaml, 2.yaml]\n",
            "1.yaml": "serial: {a: {port: /dev/x}}\n",
            "2.yaml": "\nserial: {b: {port: /dev/x}}\n",
        }
        assert mistakes(tmp_path, files) == ["2.yaml:2: serial.b.port: serial.a reads this port already: '/dev/x'"]

    def test_every_file_that_is_no_yaml_is_told_at_once(self, tmp_path: Path) -> None:
        files = {"g.yaml": HEAD + "include: ['d/*']\n", "d/1": "a: [\n", "d/2": "- a\n", "d/3": "a: 1\na: 2\n"}
        told = mistakes(tmp_path, files)
        assert [each.partition(": ")[0] for each in told] == ["d/1:2", "d/2:1", "d/3:2"]

    def test_the_digest_covers_all_files(self, tmp_path: Path) -> None:
        files = {"g.yaml": HEAD + "include: [a.yaml]\n", "a.yaml": port("a")}
        first = load(tmp_path, files).digest
        assert load(tmp_path, files).digest == first
        assert load(tmp_path, files | {"a.yaml": port("b")}).digest != first
        assert load(tmp_path, {"g.yaml": HEAD + port("a")}).digest == first

    def test_the_socket_is_found_through_an_included_data_dir(self, tmp_path: Path) -> None:
        files = {"g.yaml": "include: [a.yaml]\n", "a.yaml": "data_dir: here\n"}
        data_dir, sockets = loader.find_control_sockets(write(tmp_path, files), {}, machine=MACHINE)
        assert data_dir == str(tmp_path / "here")
        assert sockets == (tmp_path / "here/control.sock",)


class TestWhatCannotBeIncluded:
    @pytest.mark.parametrize(
        ("entry", "told"),
        [
            (
                "x.yaml",
                "x.yaml cannot be read: No such file or directory; put it there, correct the path, or remove",
            ),
            ("d", "d is a folder: name its files, as d/*.yaml"),
            ("d/*.yml", "'d/*.yml' finds no file in "),
            ("e*/*.yaml", "'e*/*.yaml' finds no file in "),
            ("d/**", "** is not supported: name the folders, as devices/*.yaml, not 'd/**'"),
            ("~/a.yaml", "must be a path without ~, NUL and references, not '~/a.yaml'"),
            ("'${env:A}.yaml'", "must be a path without ~, NUL and references, not '${env:A}.yaml'"),
            ("[a]", "must be a path or a pattern, as devices/*.yaml"),
            ("7", "must be a path or a pattern, as devices/*.yaml"),
            (
                "g.yaml",
                "g.yaml would include itself: name another file, or give what is included a folder of its own",
            ),
            (
                "'*.yaml'",
                "g.yaml would include itself: name another file, or give what is included a folder of its",
            ),
        ],
    )
    def test_is_told_at_its_entry(self, entry: str, told: str, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        found = mistakes(tmp_path, {"g.yaml": HEAD + port("a") + f"include:\n  - {entry}\n"})
        assert [each[: len(told) + 22] for each in found] == [f"g.yaml:8: include[0]: {told}"]

    @pytest.mark.parametrize("entry", ["d/pipe.yaml", "d/*.yaml"])
    def test_what_never_ends_is_not_read(self, entry: str, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        os.mkfifo(tmp_path / "d/pipe.yaml")
        (told,) = mistakes(tmp_path, {"g.yaml": HEAD + f"include: [{entry}]\n"})
        assert told.startswith("g.yaml:4: include[0]: d/pipe.yaml is no file with a text, but a pipe, socket or")

    def test_no_list(self, tmp_path: Path) -> None:
        assert mistakes(tmp_path, {"g.yaml": HEAD + "include: a.yaml\n"}) == [
            "g.yaml:4: include: must be a list, each entry behind a hyphen, as [devices/*.yaml]"
        ]

    def test_misspelt(self, tmp_path: Path) -> None:
        assert mistakes(tmp_path, {"g.yaml": HEAD + port("a") + "includes: [a.yaml]\n"}) == [
            "g.yaml:7: includes: unknown key; did you mean include?"
        ]

    def test_a_file_twice(self, tmp_path: Path) -> None:
        files = {"g.yaml": HEAD + "include:\n- a.yaml\n- '[ab].yaml'\n", "a.yaml": port("a")}
        assert mistakes(tmp_path, files) == [
            "g.yaml:6: include[1]: a.yaml is included already, by g.yaml:5: remove one"
        ]

    def test_a_circle_through_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "link.yaml").symlink_to("g.yaml")
        files = {"g.yaml": HEAD + port("a") + "include: [a.yaml]\n", "a.yaml": "include: [link.yaml]\n"}
        assert mistakes(tmp_path, files)[0].startswith("a.yaml:1: include[0]: link.yaml would include itself")

    def test_too_deep(self, tmp_path: Path) -> None:
        files = {f"{n}.yaml": f"include: [{n + 1}.yaml]\n" for n in range(8)}
        assert mistakes(tmp_path, {"g.yaml": HEAD + "include: [0.yaml]\n"} | files) == [
            "2.yaml:1: include[0]: files include one another at most 4 deep: name it in g.yaml"
        ]

    def test_too_many(self, tmp_path: Path) -> None:
        files = {f"d/{n}.yaml": "" for n in range(includes.MAX_FILES + 5)}
        told = mistakes(tmp_path, {"g.yaml": HEAD + "include: ['d/*']\n"} | files)
        assert told == ["g.yaml:4: include[0]: more than 500 files are included: put some of them together"]

    def test_too_large_together(self, tmp_path: Path) -> None:
        half = "#" * (includes.MAX_BYTES // 2)
        told = mistakes(tmp_path, {"g.yaml": HEAD + "include: [a, b]\n", "a": half, "b": half})
        assert told == ["b: has more than 4194304 bytes together with the others: this is no configuration"]

    def test_too_many_values_together(self, tmp_path: Path) -> None:
        more = {f"{n}.yaml": f"k{n}: [&a [{'1,' * 4000}], {'*a,' * 10}]\n" for n in range(3)}
        told = mistakes(tmp_path, {"g.yaml": HEAD + "include: ['*[0-9].yaml']\n"} | more)
        assert told == ["g.yaml: include: more than 100000 values in all files together"]

    def test_a_file_that_may_not_be_read(self, tmp_path: Path) -> None:
        """As for a user without the right, whoever runs the test."""

        class Locked(Disk):
            def read(self, file: Path) -> bytes:
                if file.name == "a.yaml":
                    raise FileProblemError("permission denied: run this as root, or name another --config FILE")
                return super().read(file)

        file = write(tmp_path, {"g.yaml": HEAD + "include: [d/a.yaml]\n", "d/a.yaml": ""})
        with pytest.raises(ConfigError) as caught:
            includes.tree(file, Locked())
        assert str(caught.value) == (
            f"{tmp_path}/d/a.yaml: permission denied; it is included by {tmp_path}/g.yaml:4: give the user of the "
            "gateway the right to read it, or remove the entry"
        )

    def test_a_folder_that_cannot_be_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As for a user without the right, whoever runs the test."""

        def refuse(_path: object) -> NoReturn:
            raise PermissionError(13, "Permission denied")

        write(tmp_path, {"d/a.yaml": ""})
        monkeypatch.setattr("pathlib.Path.iterdir", refuse)
        with pytest.raises(FileProblemError, match=r"the folder .*/d cannot be read: permission denied: give the"):
            includes.find(tmp_path, "d/*.yaml")

    def test_by_a_variable(self, tmp_path: Path) -> None:
        (told,) = mistakes(tmp_path, {"g.yaml": HEAD + port("a")}, {"DS_GATEWAY__INCLUDE": "[x]"})
        assert told.startswith("environment: DS_GATEWAY__INCLUDE: unknown; ")
