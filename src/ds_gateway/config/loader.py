"""The only reader of the configuration file and of the environment.

files -> nodes -> overrides -> plain values (references followed) -> models -> checks across them

Every mistake is found in one go, as a `ConfigError` whose problems name file, line, key, value and way out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import ValidationError

from ds_gateway.config import checks, document, includes, messages, overrides, places, schema
from ds_gateway.config.document import Node, Place
from ds_gateway.config.findings import Findings
from ds_gateway.config.includes import Copy, Disk
from ds_gateway.config.models import Settings
from ds_gateway.config.places import DEFAULT_FILE, Machine
from ds_gateway.config.plain import Plain
from ds_gateway.config.references import References
from ds_gateway.errors import ConfigError, Problem
from ds_gateway.plain_files import open_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ds_gateway.config.checks import Check
    from ds_gateway.config.includes import Files

_DIGEST_CHARACTERS: Final = 16
_SERVER_KEYS: Final = frozenset({"gateway", "data_dir", "server", "journal"})
"""What says where records are kept and sent."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration.

    ``digest`` changes when the file or an override changes, secrets apart; it may be published.
    ``control_socket`` is where the gateway of this environment listens.
    """

    settings: Settings
    path: Path
    digest: str
    control_socket: Path
    redact: Callable[[str], str] = field(repr=False)
    """Puts references back into a text that may show what they gave."""
    files: Copy = field(repr=False, default_factory=lambda: Copy({}, {}))
    """The file and what it includes, as they were read: references are not followed in them."""


def load(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    more_checks: Sequence[Check] = (),
    machine: Machine | None = None,
    copy: Copy | None = None,
) -> Loaded:
    """Read and check the configuration; ``path`` None means `DEFAULT_FILE`. Raises `ConfigError`.

    ``more_checks`` are those of higher layers; the command line's `load_configuration` gives them. ``copy``: the
    files as they were once, instead of those on the disk.
    """
    machine = machine or Machine.this()
    file = path or DEFAULT_FILE
    disk = Disk()
    root, stray = _tree(file, environ, disk if copy is None else copy)
    references = References(environ, file.absolute().parent)
    findings = Findings(root, references.redact)
    values = _values(root, references, findings)
    _fill_in(values, environ, machine, file, findings)
    _make_absolute(values, root, file, findings)
    settings = _validate(values, root, findings)
    for check in (checks.check, *more_checks):
        check(values, findings)
    problems = [*findings.problems, *stray]
    if problems or settings is None:
        raise ConfigError(problems)
    return Loaded(
        settings=settings,
        path=file,
        digest=_digest(root),
        control_socket=places.control_socket(environ, settings.data_dir),
        redact=references.redact,
        files=Copy(disk.texts, disk.found) if copy is None else copy,
    )


def find_control_sockets(
    path: Path | None, environ: Mapping[str, str], *, machine: Machine | None = None
) -> tuple[str, tuple[Path, ...]]:
    """The data folder, and where a gateway with this configuration may listen, the likeliest first.

    Needs no credentials and minds no mistakes elsewhere in the file, so that a gateway can be asked by people
    who may not read its secrets. Without a default file the defaults count. Raises `ConfigError`.
    """
    machine = machine or Machine.this()
    file = path or DEFAULT_FILE
    if path is None and _is_absent(file):
        root, _ = overrides.apply(Node({}, Place(str(file), 1)), environ)
    else:
        try:
            root, _ = _tree(file, environ, Disk())
        except ConfigError:
            if path is not None:
                raise
            # The service runs on with what it has, or with the last valid file: it is where it always is.
            root, _ = overrides.apply(Node({}, Place(str(file), 1)), environ)
    return _sockets(root, file, environ, machine)


def _sockets(root: Node, file: Path, environ: Mapping[str, str], machine: Machine) -> tuple[str, tuple[Path, ...]]:
    only = Node({key: node for key, node in root.entries.items() if key == "data_dir"}, root.place)
    references = References(environ, file.absolute().parent)
    findings = Findings(only, references.redact)
    values = _values(only, references, findings)
    _fill_in(values, environ, machine, file, findings)
    _make_absolute(values, only, file, findings)
    data_dir = values.get("data_dir")
    problems = [entry for entry in findings.problems if entry.key != "gateway.id"]
    if problems or not isinstance(data_dir, str):
        raise ConfigError(problems or [Problem(str(file), None, "data_dir", "must be text")])
    return data_dir, places.control_sockets(environ, data_dir, file)


def load_server(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    with_token: bool,
    with_downlink: bool = False,
    machine: Machine | None = None,
) -> Settings:
    """What is needed to read the journal and its streams: no source's credentials, so that a shell will do.

    Without ``with_token`` not even the server's. ``with_downlink``: what commands to this gateway need, too; then
    it must have a name in the file. Raises `ConfigError`.
    """
    machine = machine or Machine.this()
    file = path or DEFAULT_FILE
    root, _ = _tree(file, environ, Disk())
    keys = _SERVER_KEYS | {"downlink"} if with_downlink else _SERVER_KEYS
    entries = {key: node for key, node in root.entries.items() if key in keys}
    server = entries.get("server")
    if not with_token and server is not None and isinstance(server.value, dict):
        entries["server"] = Node(
            {key: node for key, node in server.entries.items() if key != "token"}, server.place
        )
    only = Node(entries, root.place)
    references = References(environ, file.absolute().parent)
    findings = Findings(only, references.redact)
    values = _values(only, references, findings)
    gateway_id = root.find(("gateway", "id"))
    if with_downlink and (gateway_id is None or gateway_id.value is None):
        findings.add(
            ("gateway", "id"),
            "must be set for commands, which are sent to this name: give this gateway a name of its own, as "
            "gateway: {id: line-7}",
        )
    _fill_in(values, environ, machine, file, findings)
    _make_absolute(values, only, file, findings)
    settings = _validate(values, only, findings)
    if findings.problems or settings is None:
        raise ConfigError(findings.problems)
    return settings


def public(path: Path | None, environ: Mapping[str, str]) -> Any:
    """The configuration as it is written, as JSON values: references are not followed, secrets are left out.

    Minds no mistakes but those that leave nothing to read. Raises `ConfigError`.
    """
    root, _ = _tree(path or DEFAULT_FILE, environ, Disk())
    return _public(root, Settings)


def _is_absent(file: Path) -> bool:
    try:
        file.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # reading it will say why
    return False


def _tree(file: Path, environ: Mapping[str, str], files: Files) -> tuple[Node, list[Problem]]:
    """The file and what it includes with the overrides in it, and the variables that fit nowhere."""
    return overrides.apply(includes.tree(file, files), environ)


def _values(root: Node, references: References, findings: Findings) -> dict[str, Any]:
    values = Plain(references, findings).value(root, Settings, ())
    assert isinstance(values, dict), "the root is a mapping"
    return values


def _fill_in(
    values: dict[str, Any], environ: Mapping[str, str], machine: Machine, file: Path, findings: Findings
) -> None:
    """The defaults that depend on the machine."""
    gateway = values.setdefault("gateway", {})
    if isinstance(gateway, dict) and "id" not in gateway and not findings.is_told(("gateway", "id")):
        commands = checks.first_commands(values)
        if commands is not None:
            findings.add(
                ("gateway", "id"),
                f"must be set, because {document.dotted(commands)} is: commands are sent to this name, and a host "
                "name may change; give this gateway a name of its own, as gateway: {id: line-7}",
            )
        elif machine.has_own_name:
            gateway["id"] = machine.host_name
        else:
            findings.add(
                ("gateway", "id"),
                f"must be set, because the host name {machine.host_name!r} is that of many machines: give this "
                "gateway a name of its own, as gateway: {id: line-7}",
            )
    if "data_dir" not in values and not findings.is_told(("data_dir",)):
        data_dir = places.default_data_dir(environ, machine, file)
        if data_dir is None:
            findings.add(("data_dir",), "must be set, because neither STATE_DIRECTORY nor HOME is")
        else:
            values["data_dir"] = data_dir


def _make_absolute(values: dict[str, Any], root: Node, file: Path, findings: Findings) -> None:
    """Paths are relative to the file that they stand in; certificates must be readable."""

    def folder(path: document.Path) -> Path:
        return root.nearest(path).place.folder or file.absolute().parent

    data_dir = values.get("data_dir")
    if isinstance(data_dir, str) and data_dir:
        values["data_dir"] = str(folder(("data_dir",)) / data_dir)
        if "\0" in data_dir or data_dir.startswith("~"):
            findings.add(("data_dir",), f"must be a path without ~ and NUL, not {data_dir!r}")
    ports = values.get("serial")
    for name, serial in ports.items() if isinstance(ports, dict) else ():
        port = serial.get("port") if isinstance(serial, dict) else None
        if isinstance(port, str) and port and "://" not in port:
            serial["port"] = str(folder(("serial", name, "port")) / port)
    servers: list[tuple[document.Path, Any]] = [(("server",), values.get("server"))]
    brokers = values.get("mqtt")
    if isinstance(brokers, dict):
        servers += [(("mqtt", name), broker) for name, broker in brokers.items()]
    for path, server in servers:
        tls = server.get("tls") if isinstance(server, dict) else None
        if not isinstance(tls, dict):
            continue
        for key, name in tls.items():
            if isinstance(name, str) and name:
                tls[key] = str(folder((*path, "tls", key)) / name)
                _check_readable((*path, "tls", key), tls[key], findings)


_CORRECT: Final = "correct the path"
_WAY_OUT: Final[Mapping[type[OSError], str]] = {
    FileNotFoundError: "put it there, or correct the path",
    PermissionError: "give the user of the gateway the right to read it",
}


def _check_readable(path: document.Path, name: str, findings: Findings) -> None:
    try:
        open_plain(name).close()
    except OSError as error:
        findings.add(path, f"{name} cannot be read: {error.strerror}; {_WAY_OUT.get(type(error), _CORRECT)}")
    except ValueError:
        findings.add(path, "must be a path without NUL")


def _validate(values: dict[str, Any], root: Node, findings: Findings) -> Settings | None:
    try:
        return Settings(**values)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            path = messages.path_of(detail)
            if not findings.is_told(path):
                findings.add(path, messages.message_of(detail, root))
        return None


def _digest(root: Node) -> str:
    canonical = orjson.dumps(_public(root, Settings), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()[:_DIGEST_CHARACTERS]


def _public(node: Node, annotation: Any) -> Any:
    """The tree as written, references unfollowed, without secrets."""
    if schema.is_secret(annotation):
        return "secret"
    if isinstance(node.value, dict):
        return {key: _public(entry, schema.step(annotation, key)) for key, entry in node.entries.items()}
    if isinstance(node.value, list):
        return [_public(item, schema.step(annotation, index)) for index, item in enumerate(node.items)]
    return node.written
