"""The configuration that was started last, kept beside the journal: a service starts it when the file is invalid.

A typing mistake must not turn a gateway off that somebody would have to drive to. What is kept are the texts of
the file and of what it includes, as they were: references are not followed, the environment is that of the start.

Where it is kept and looked for: an invalid file may not say where its ``data_dir`` is. So it is kept in
``data_dir`` and in ``$STATE_DIRECTORY``, which systemd tells whatever the file says; and looked for in the
``data_dir`` of the file as far as that can be read, of ``DS_GATEWAY__DATA_DIR``, and in the default. It counts for
its own file only.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.config import loader, places
from ds_gateway.config.includes import Copy
from ds_gateway.config.places import DEFAULT_FILE, Machine
from ds_gateway.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ds_gateway.config.loader import Loaded

NAME: Final = "last-valid-config.json"
_MODE: Final = 0o600
_MAX_BYTES: Final = 32 * 1024 * 1024
"""JSON of `includes.MAX_BYTES` with every character escaped."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A copy: where it is, when it was made (RFC 3339), and the files as they were then."""

    at: Path
    saved_at: str
    files: Copy


@dataclass(frozen=True, slots=True)
class Refused:
    """Why the file itself does not run, and what does instead."""

    problems: tuple[Problem, ...]
    kept: Kept


def is_service(environ: Mapping[str, str], pid: int) -> bool:
    """Whether systemd started this process: not a shell that was started by it."""
    if environ.get("NOTIFY_SOCKET"):
        return True
    # Every child inherits the invocation's id; the pid says whose it is (since systemd 248).
    return bool(environ.get("INVOCATION_ID")) and environ.get("SYSTEMD_EXEC_PID", str(pid)) == str(pid)


def keep(loaded: Loaded, environ: Mapping[str, str]) -> None:
    """Keep this configuration, durably, for the user alone. What is kept already is not written again.

    Raises OSError.
    """
    file = str(loaded.path.absolute())
    content = {"file": file, "texts": dict(loaded.files.texts), "found": dict(loaded.files.found)}
    state = places.state_directory(environ)
    folders = [Path(loaded.settings.data_dir), *([] if state is None else [state])]
    for folder in dict.fromkeys(folders):
        known = _read(folder / NAME)
        if known is None or {key: known.get(key) for key in content} != content:
            _write(folder, json.dumps({"saved_at": _now(), **content}).encode())


def load(
    path: Path | None,
    environ: Mapping[str, str],
    load_file: Callable[[Copy | None], Loaded],
    *,
    machine: Machine | None = None,
) -> tuple[Loaded, Refused | None]:
    """The configuration of the file, or the one that is kept and why. Raises `ConfigError`: neither will do.

    ``load_file`` loads and checks the file, or a copy of it.
    """
    try:
        return load_file(None), None
    except ConfigError as error:
        problems = error.problems
    kept, looked = find(path or DEFAULT_FILE, environ, machine or Machine.this())
    if kept is None:
        where = " and ".join(str(folder / NAME) for folder in looked) or "any state folder"
        why = Problem(where, None, "", f"there is no last valid configuration of {path or DEFAULT_FILE} to run")
        raise ConfigError([*problems, why])
    try:
        loaded = load_file(kept.files)
    except ConfigError as error:
        raise ConfigError(
            [
                *problems,
                Problem(
                    str(kept.at),
                    None,
                    "",
                    f"the last valid configuration, of {kept.saved_at}, is invalid now, too, by what is around it "
                    f"(credentials, variables, certificates): {error.problems[0]}",
                ),
            ]
        ) from None
    return loaded, Refused(tuple(problems), kept)


def find(file: Path, environ: Mapping[str, str], machine: Machine) -> tuple[Kept | None, list[Path]]:
    """What is kept of this file, and the folders that were looked into."""
    folders = list(dict.fromkeys(_folders(file, environ, machine)))
    for folder in folders:
        known = _read(folder / NAME)
        if known is not None and known.get("file") == str(file.absolute()):
            with suppress(KeyError, TypeError, AttributeError):
                files = Copy(
                    {str(name): str(text) for name, text in known["texts"].items()},
                    {str(key): [str(each) for each in found] for key, found in known["found"].items()},
                )
                return Kept(folder / NAME, str(known["saved_at"]), files), folders
    return None, folders


def _folders(file: Path, environ: Mapping[str, str], machine: Machine) -> Iterable[Path]:
    with suppress(ConfigError):
        yield Path(loader.find_control_sockets(file, environ, machine=machine)[0])
    given = environ.get("DS_GATEWAY__DATA_DIR")
    if given:
        yield file.absolute().parent / given
    state = places.default_data_dir(environ, machine, file)
    if state is not None:
        yield Path(state)


def _read(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is none that can be read.

    A file's name need not be UTF-8; this module of JSON takes it all the same, as Python has it.
    """
    try:
        with file.open("rb") as opened:
            value = json.loads(opened.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _write(folder: Path, content: bytes) -> None:
    temporary = folder / f"{NAME}.tmp"
    with suppress(FileNotFoundError):
        temporary.unlink()  # one with other rights would keep them
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(folder / NAME)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
