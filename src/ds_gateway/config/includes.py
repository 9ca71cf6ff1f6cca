"""One tree out of the configuration file and the files that it includes.

``include: [devices/*.yaml]`` at the top of a file; paths and patterns are relative to the file that they stand in,
what a pattern finds is sorted by name. Mappings are merged, everything else may be said once: a key in two files
is a mistake that names both places. Every node keeps the place where it was written.

A pattern that finds nothing is a mistake, too: a folder misspelt would silently leave its devices out.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from ds_gateway.config import document
from ds_gateway.config.document import Node, Place, printable
from ds_gateway.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

INCLUDE: Final = "include"
MAX_NESTING: Final = 4
"""Files that include one another, the first counted."""
MAX_FILES: Final = 500
MAX_BYTES: Final = 4 * 1024 * 1024
"""Of all files together: more is no configuration."""

INSTALLED_SAMPLE: Final = Path("/usr/share/ds-gateway/gateway.yaml")
"""Where the Debian package puts a configuration to begin with."""
_MAGIC: Final = re.compile(r"[*?\[]")


class FileProblemError(Exception):
    """A file or folder that cannot be used; the text is fit for an operator."""


class Files(Protocol):
    """Where the texts come from: the disk, or a copy of what was there."""

    def read(self, file: Path) -> bytes:
        """The bytes of a file, at most one more than `MAX_BYTES`. Raises `FileProblemError`."""
        ...  # pragma: no cover

    def find(self, folder: Path, pattern: str) -> Sequence[Path]:
        """The files that a pattern means, sorted. Raises `FileProblemError`."""
        ...  # pragma: no cover


@dataclass(slots=True)
class Disk:
    """The files as they are. Remembers what it gave, so that a copy of it can be kept."""

    texts: dict[str, str] = field(default_factory=dict)
    found: dict[str, list[str]] = field(default_factory=dict)

    def read(self, file: Path) -> bytes:
        """The bytes of a file, at most one more than `MAX_BYTES`. Raises `FileProblemError`."""
        try:
            with file.open("rb") as opened:
                raw = opened.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise FileProblemError(
                f"there is no such file: name one with --config FILE, or copy {sample()} there and edit it"
            ) from None
        except PermissionError:
            raise FileProblemError(
                "permission denied: run this as the user of the gateway or as root, or name another --config FILE"
            ) from None
        except OSError as error:
            raise FileProblemError(f"cannot be read: {error.strerror}; name a file with --config FILE") from None
        self.texts[str(file)] = raw.decode("utf-8", "replace")
        return raw

    def find(self, folder: Path, pattern: str) -> Sequence[Path]:
        """The files that a pattern means, sorted. Raises `FileProblemError`."""
        found = find(folder, pattern)
        self.found[_key(folder, pattern)] = [str(each) for each in found]
        return found


@dataclass(frozen=True, slots=True)
class Copy:
    """Files as they were once: by path, and by pattern."""

    texts: Mapping[str, str]
    found: Mapping[str, Sequence[str]]

    def read(self, file: Path) -> bytes:
        """The bytes of a file. Raises `FileProblemError`."""
        text = self.texts.get(str(file))
        if text is None:
            raise FileProblemError("is not in the copy")
        return text.encode()

    def find(self, folder: Path, pattern: str) -> Sequence[Path]:
        """The files that a pattern meant. Raises `FileProblemError`."""
        return [Path(each) for each in self.found.get(_key(folder, pattern), ())]


def sample(installed: Path = INSTALLED_SAMPLE) -> str:
    """What to begin with: the package's, or in a checkout that of the repository."""
    return str(installed) if installed.exists() else "config/gateway.yaml"


def _key(folder: Path, pattern: str) -> str:
    return f"{folder}\n{pattern}"


def find(folder: Path, pattern: str) -> list[Path]:
    """The files of a path or a pattern with ``*``, ``?`` and ``[...]``, sorted. Raises `FileProblemError`."""
    if "\0" in pattern or pattern.startswith("~") or "${" in pattern:
        raise FileProblemError(f"must be a path without ~, NUL and references, not {pattern!r}")
    if "**" in pattern:
        raise FileProblemError(f"** is not supported: name the folders, as devices/*.yaml, not {pattern!r}")
    places = [Path("/") if pattern.startswith("/") else folder]
    parts = [part for part in pattern.split("/") if part not in {"", "."}]
    for part in parts:
        places = [each for place in places for each in _step(place, part)]
    if _MAGIC.search(pattern) is None:
        return _only_file(places[0])
    files = [place for place in places if _is_file(place)]
    if not files:
        raise FileProblemError(
            f"{pattern!r} finds no file in {folder}: put one there, correct the path, or remove the entry"
        )
    return files


def _step(place: Path, part: str) -> Iterator[Path]:
    if _MAGIC.search(part) is None:
        yield place / part
        return
    if not _is_folder(place):
        return
    try:
        names = sorted(each.name for each in place.iterdir())
    except OSError as error:
        raise FileProblemError(f"the folder {place} cannot be read: {_why(error)}") from None
    for name in names:
        # As a shell does it: an editor's hidden files are none of ours.
        if fnmatchcase(name, part) and (not name.startswith(".") or part.startswith(".")):
            yield place / name


def _only_file(file: Path) -> list[Path]:
    try:
        if file.is_dir():
            raise FileProblemError(f"{file} is a folder: name its files, as {file.name}/*.yaml")
        _refuse_special(file)
    except OSError as error:
        raise FileProblemError(
            f"{file} cannot be read: {_why(error)}; put it there, correct the path, or remove the entry"
        ) from None
    return [file]


def _is_file(file: Path) -> bool:
    try:
        if file.is_dir():
            return False
        if file.exists():  # a link that leads nowhere is told when it is read
            _refuse_special(file)
    except OSError as error:
        raise FileProblemError(f"{file} cannot be read: {_why(error)}") from None
    return True


def _refuse_special(file: Path) -> None:
    """Refuse what reading might never end for, as a pipe that nobody writes to. Raises OSError, too."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise FileProblemError(f"{file} is no file with a text, but a pipe, socket or device: remove the entry")


def _is_folder(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError as error:
        raise FileProblemError(f"the folder {folder} cannot be read: {_why(error)}") from None


def _why(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "permission denied: give the user of the gateway the right to read it"
    return error.strerror or str(error)


def tree(file: Path, files: Files) -> Node:
    """The file with all that it includes. Raises `ConfigError` with every mistake of the kind."""
    reading = _Reading(files)
    root = reading.file(file, ())
    if not reading.problems and root is not None and _is_larger(root, document.MAX_NODES):
        reading.problems.append(
            Problem(str(file), None, INCLUDE, f"more than {document.MAX_NODES} values in all files together")
        )
    if reading.problems or root is None:
        raise ConfigError(reading.problems)
    return root


class _Reading:
    """One pass over the files."""

    def __init__(self, files: Files) -> None:
        self.problems: list[Problem] = []
        self._files = files
        self._bytes = 0
        self._seen: dict[str, Place | None] = {}

    def file(self, file: Path, within: tuple[Path, ...], by: Place | None = None) -> Node | None:
        """One file with what it includes; None, told, if it cannot be used."""
        self._seen[_real(file)] = by
        try:
            text = self._text(file, by)
            root = document.parse(text, Place(str(file)))
        except ConfigError as error:
            self.problems += error.problems
            return None
        if root.value is None:
            root = Node({}, root.place)
        if not isinstance(root.value, dict):
            self._tell(root.place, "", "must be a mapping, as gateway: {id: line-7}")
            return None
        listed = root.entries.get(INCLUDE)
        own = Node({key: node for key, node in root.entries.items() if key != INCLUDE}, root.place)
        return own if listed is None else self._with_parts(own, listed, file, (*within, file))

    def _with_parts(self, merged: Node, listed: Node, file: Path, within: tuple[Path, ...]) -> Node:
        if listed.value is None:
            return merged
        if not isinstance(listed.value, list):
            self._tell(listed.place, INCLUDE, "must be a list, each entry behind a hyphen, as [devices/*.yaml]")
            return merged
        for index, entry in enumerate(listed.items):
            if len(self.problems) >= document.MAX_MISTAKES:
                break
            key = f"{INCLUDE}[{index}]"
            if not isinstance(entry.value, str) or not entry.value:
                self._tell(entry.place, key, "must be a path or a pattern, as devices/*.yaml")
                continue
            for part in self._parts(entry.value, file, entry.place, key, within):
                found = self.file(part, within, entry.place)
                if found is not None:
                    merged = self._merged(merged, found, ())
        return merged

    def _parts(self, pattern: str, file: Path, place: Place, key: str, within: tuple[Path, ...]) -> Iterator[Path]:
        """The files of one entry that may be read."""
        if len(within) >= MAX_NESTING:
            self._tell(place, key, f"files include one another at most {MAX_NESTING} deep: name it in {within[0]}")
            return
        try:
            found = self._files.find(file.parent, pattern)
        except FileProblemError as error:
            self._tell(place, key, str(error))
            return
        for part in found:
            if len(self._seen) >= MAX_FILES:
                self._tell(place, key, f"more than {MAX_FILES} files are included: put some of them together")
                return
            real = _real(part)
            if real in {_real(each) for each in within}:
                self._tell(
                    place,
                    key,
                    f"{part} would include itself: name another file, or give what is included a folder of its "
                    "own, as devices/*.yaml",
                )
            elif real in self._seen:
                self._tell(place, key, f"{part} is included already, by {_said(self._seen[real])}: remove one")
            else:
                yield part

    def _text(self, file: Path, by: Place | None) -> str:
        try:
            raw = self._files.read(file)
        except FileProblemError as error:
            message = str(error)
            if by is not None:
                # What is said of the file itself speaks of --config.
                message = (
                    f"{message.partition(':')[0]}; it is included by {_said(by)}: give the user of the gateway "
                    "the right to read it, or remove the entry"
                )
            raise ConfigError([Problem(str(file), None, "", message)]) from None
        self._bytes += len(raw)
        if self._bytes > MAX_BYTES:
            what = f"has more than {MAX_BYTES} bytes" + ("" if by is None else " together with the others")
            raise ConfigError([Problem(str(file), None, "", f"{what}: this is no configuration")])
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            message = f"the byte 0x{raw[error.start]:02x} is not UTF-8: save the file as UTF-8"
            raise ConfigError([Problem(str(file), line, "", message)]) from None

    def _merged(self, first: Node, second: Node, path: document.Path) -> Node:
        """Both mappings in one; a key of both is told, unless it is a mapping in both."""
        entries = dict(first.entries)
        for key, node in second.entries.items():
            other = entries.get(key)
            if other is None or other.value is None:
                entries[key] = node
            elif isinstance(other.value, dict) and isinstance(node.value, dict):
                entries[key] = self._merged(other, node, (*path, key))
            elif node.value is not None:
                self._tell(
                    node.place,
                    document.dotted((*path, key)),
                    f"this key is in two files; the first is {_said(other.place)}: remove one",
                )
        return Node(entries, first.place)

    def _tell(self, place: Place, key: str, message: str) -> None:
        self.problems.append(Problem(place.file, place.line, key, printable(message)))


def _said(place: Place | None) -> str:
    if place is None:
        return "the command line"
    return place.file if place.line is None else f"{place.file}:{place.line}"


def _real(file: Path) -> str:
    return os.path.realpath(file)


def _is_larger(node: Node, most: int) -> bool:
    """Whether there are more values than that; stops counting there."""
    waiting, count = [node], 0
    while waiting and count <= most:
        each = waiting.pop()
        count += 1
        waiting += [*each.entries.values(), *each.items]
    return count > most
