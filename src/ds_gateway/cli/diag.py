"""``ds-gateway diag``: one archive for whoever is to help, without secrets. Exit status 0, 1 or 2."""

from __future__ import annotations

import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import orjson
import typer

from ds_gateway import __version__, control
from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.output import writing
from ds_gateway.cli.printing import print_json
from ds_gateway.cli.progress import Progress
from ds_gateway.config import loader, secrets
from ds_gateway.config.loader import find_control_sockets
from ds_gateway.config.places import DEFAULT_FILE
from ds_gateway.config.references import hide
from ds_gateway.config.secrets import SOUNDS_SECRET
from ds_gateway.errors import ConfigError, ControlError, GatewayError
from ds_gateway.inspecting import listing
from ds_gateway.journal.sqlite_file import SQLITE_VERSION
from ds_gateway.quarantine import MAX_LIMIT, Wanted
from ds_gateway.quarantine import listing as quarantine_listing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_ANSWER_SECONDS: Final = 15.0
_LOG_SECONDS: Final = 20.0
_SAYS_PAYLOADS: Final = frozenset({"last_data", "last_rejection", "last_untimed", "reason", "topic"})
"""Keys of devices and of the quarantine whose values repeat what a device said."""
_USER_OF_A_URL: Final = re.compile(r"""(?<=://)(?:[^/@:\s]*:(?!\d+[/,;"'\s])[^\s"']*|[^/@\s]*)@""")
"""A password may have a slash in it, and a port is none."""
_HIDDEN: Final = "secret"


def diag(  # noqa: PLR0917 - typer's options
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="File to write; default: ds-gateway-diag-TIME.tar.gz in this folder.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    with_payloads: Annotated[  # noqa: FBT002 - an option, not an argument
        bool,
        typer.Option("--with-payloads", help="Also what devices said: last readings, and what is in quarantine."),
    ] = False,
    unit: Annotated[str, typer.Option("--unit", help="Unit of the service, for its log.")] = "ds-gateway",
    log_lines: Annotated[
        int, typer.Option("--log-lines", help="How much of the log.", min=0, max=1_000_000)
    ] = 5000,
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Put status, configuration, versions, log and a list of the journal into one archive, without secrets.

    Readings are not in it unless asked for. Works with a gateway that runs, and with one that does not start.
    """
    now = datetime.now(UTC)
    file = output or Path(f"ds-gateway-diag-{now:%Y%m%dT%H%M%SZ}.tar.gz")
    with Progress("collecting"):
        content = dict(_collect(config, with_payloads=with_payloads, unit=unit, log_lines=log_lines))
        found = secrets.find(config, os.environ, credentials=credential_folders(unit))
        clean = cleaner(found.values)
        if found.missing:
            content["secrets.json"] = _json({"not_taken_out": found.missing})
        with writing(file) as archive, tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for name, text in content.items():
                raw = clean(text).encode("utf-8", "replace")
                member = tarfile.TarInfo(f"ds-gateway-diag/{name}")
                member.size, member.mtime, member.mode = len(raw), int(now.timestamp()), 0o600
                tar.addfile(member, io.BytesIO(raw))
    for each in found.missing:
        sys.stderr.write(f"could not be read and so cannot be taken out of the log: {clean(each)}\n")
    if json:
        print_json({"file": str(file), "content": list(content)})
    else:
        sys.stdout.write(f"{file}: {', '.join(content)}; look through it before you give it away\n")


def _collect(config: Path | None, *, with_payloads: bool, unit: str, log_lines: int) -> Iterator[tuple[str, str]]:
    """Names and texts. What cannot be had says why: the archive is for those who have trouble."""
    yield "about.json", _json(about())
    yield "config.json", _or_why(lambda: hidden(loader.public(config, os.environ)))
    try:
        data_dir, sockets = find_control_sockets(config, os.environ)
    except ConfigError as error:
        yield "data_dir.json", _json({"error": _told(error)})
        return
    directory = Path(data_dir)

    def status() -> Any:
        for path in sockets:
            with suppress(control.NobodyThereError):
                return control.call(path, "status", _ANSWER_SECONDS)
        raise ControlError(f"no gateway is running on {data_dir}")

    def quarantine() -> Any:
        return quarantine_listing(directory, Wanted(), MAX_LIMIT)

    def shown(value: Any) -> Any:
        return value if with_payloads else without_payloads(value)

    yield "status.json", _or_why(lambda: shown(status()))
    yield "journal.json", _or_why(lambda: listing(directory))
    yield "quarantine.json", _or_why(lambda: shown(quarantine()))
    yield "files.json", _or_why(lambda: list(files(directory)))
    yield "log.txt", _log(unit, log_lines)


def about() -> dict[str, Any]:
    """The program and the machine."""
    return {
        "ds_gateway": __version__,
        "python": sys.version,
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "sqlite": SQLITE_VERSION,
        "packages": dict(sorted(_packages())),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "user": os.geteuid(),
        "load": os.getloadavg(),
        "boot_seconds": round(time.clock_gettime(time.CLOCK_BOOTTIME)),
    }


def _packages() -> Iterator[tuple[str, str]]:
    for required in metadata.requires("ds-gateway") or []:
        name = re.split(r"[^\w.-]", required, maxsplit=1)[0]
        with suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def files(directory: Path) -> Iterator[dict[str, Any]]:
    """Names, sizes and owners of what is in the data folder, and how full its file system is. Raises OSError."""
    usage = shutil.disk_usage(directory)
    yield {"path": str(directory), "total_bytes": usage.total, "free_bytes": usage.free}
    for folder in [directory, *sorted(each for each in directory.iterdir() if each.is_dir())]:
        for path in sorted(folder.iterdir()):
            found = path.lstat()
            yield {
                "path": str(path.relative_to(directory)),
                "bytes": found.st_size,
                "mode": oct(found.st_mode),
                "user": found.st_uid,
                "changed": datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="seconds"),
            }


def _log(unit: str, lines: int) -> str:
    program = shutil.which("journalctl")
    if program is None or lines == 0:
        return "no log: there is no journalctl here, or none was asked for\n"
    arguments = ["--unit", unit, "--lines", str(lines), "--no-pager", "--output", "short-iso-precise"]
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the unit is one argument
            [program, *arguments], capture_output=True, timeout=_LOG_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no log: {error}\n"
    return (done.stdout + done.stderr).decode("utf-8", "replace")


# -- what is left out


def cleaner(secrets: Iterable[str]) -> Callable[[str], str]:
    """Takes secrets out of a text, wherever they came from, and users out of URLs."""
    known = sorted(set(secrets), key=len, reverse=True)

    def clean(text: str) -> str:
        for each in known:
            for written in dict.fromkeys((each, orjson.dumps(each).decode()[1:-1], quote(each, safe=""))):
                text = hide(text, written, _HIDDEN)
        return _USER_OF_A_URL.sub("", text)

    return clean


def credential_folders(unit: str) -> list[Path]:
    """Where credentials of the service are beside $CREDENTIALS_DIRECTORY, which only the service has."""
    return [
        Path("/run/credentials") / f"{unit.removesuffix('.service')}.service",
        DEFAULT_FILE.parent / "credentials",
    ]


def hidden(value: Any) -> Any:
    """A configuration without what sounds like a secret, under a key that there is not, for example."""
    match value:
        case dict():
            return {
                key: _HIDDEN
                if SOUNDS_SECRET.search(str(key)) and not isinstance(each, dict | list)
                else hidden(each)
                for key, each in value.items()
            }
        case list():
            return [hidden(each) for each in value]
        case _:
            return value


def without_payloads(value: Mapping[str, Any]) -> dict[str, Any]:
    """A status or a list of the quarantine without what repeats payloads."""
    return {
        key: [_without(row) for row in rows] if key in {"devices", "payloads"} and isinstance(rows, list) else rows
        for key, rows in value.items()
    }


def _without(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {key: "left out" if key in _SAYS_PAYLOADS and each else each for key, each in row.items()}


def _or_why(get: Callable[[], Any]) -> str:
    try:
        return _json(get())
    except (GatewayError, OSError) as error:
        return _json({"error": _told(error)})


def _told(error: Exception) -> str:
    # Messages about a configuration may repeat what stands in it, under whatever key.
    if isinstance(error, ConfigError):
        return "; ".join(f"{each.file}:{each.line}: cannot be read" for each in error.problems)
    return str(error)


def _json(value: Any) -> str:
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, option=option).decode()
