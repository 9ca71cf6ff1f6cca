"""``ds-gateway send``: one command into a gateway's stream, and what became of it. Exit status 0, 1 or 2."""

from __future__ import annotations

import asyncio
import json as json_library
import math
import os
import ssl
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003 - read by typer
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer
from pydantic import TypeAdapter, ValidationError

from ds_gateway import clock
from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.printing import print_json
from ds_gateway.cli.resolve import read_token
from ds_gateway.config.commands import DownlinkSettings
from ds_gateway.config.credential import Credential
from ds_gateway.config.loader import load_server
from ds_gateway.config.models import GatewaySettings
from ds_gateway.config.quantities import Seconds
from ds_gateway.config.server import ServerSettings
from ds_gateway.dialogue import Address, Dialogue
from ds_gateway.mapping import MappingError, RefusedNameError, check_downlink_streams
from ds_gateway.mapping.streams import check_device_name

if TYPE_CHECKING:
    from collections.abc import Mapping


MAX_ELEMENT_BYTES: Final = 64 * 1024
"""What a gateway takes of one command."""
DEFAULT_TIMEOUT_SECONDS: Final = 90.0
_MORE_THAN_EXPIRY_SECONDS: Final = 30.0
_MAX_ID_CHARACTERS: Final = 128


def send(  # noqa: PLR0917 - typer's options
    device: Annotated[str, typer.Argument(help="Name of the device, as records have it; or @gateway.")],
    payload: Annotated[
        str,
        typer.Argument(
            help="JSON, if it is an object, an array, a number, true, false or null; otherwise text. One that "
            "begins with a hyphen comes after --."
        ),
    ],
    command_id: Annotated[
        str | None,
        typer.Option("--id", help="Id of the command; the same id is done once. Default: a new one."),
    ] = None,
    expires_after: Annotated[
        str | None,
        typer.Option(
            help="When it must not be sent any more, as 30s or 5m; default: as the device is configured."
        ),
    ] = None,
    at_most_once: Annotated[  # noqa: FBT002 - an option, not an argument
        bool, typer.Option("--at-most-once", help="Never twice, rather not at all. Default: as configured.")
    ] = False,
    text: Annotated[bool, typer.Option("--text", help="PAYLOAD is text, whatever it looks like.")] = False,  # noqa: FBT002
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for receipts.")] = False,  # noqa: FBT002
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=86400 * 2,
            help="How long the last receipt is waited for, in seconds; default: 90, or 30 more than "
            "--expires-after.",
            show_default=False,
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Base URL of the streams, without a configuration; with --gateway."),
    ] = None,
    gateway: Annotated[
        str | None, typer.Option(metavar="ID", help="Name of the gateway (gateway.id); with --server.")
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(help="With --server: its downlink.stream; default: commands/{gateway}.", show_default=False),
    ] = None,
    receipts: Annotated[
        str | None,
        typer.Option(
            help="With --server: its downlink.receipts; default: receipts/{gateway}.", show_default=False
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the bearer token; default: server.token of the configuration.", dir_okay=False
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            help="With --server: file with the certificate authorities to trust; default: the system's.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="With --server: URL of an HTTP proxy, as http://proxy:3128; default: none, whatever the "
            "environment says.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Send a command to a device of a gateway, and wait for what becomes of it.

    Works beside the gateway from its configuration, and from any other machine with --server and --gateway.
    """
    if (server is None) != (gateway is None):
        raise typer.BadParameter(
            "--server and --gateway belong together: give both, or neither and a configuration"
        )
    if server is not None and config is not None:
        raise typer.BadParameter("--server takes the place of a configuration: leave --config out")
    if server is None and (stream is not None or receipts is not None):
        raise typer.BadParameter("--stream and --receipts are for --server: the configuration has them already")
    if server is None and (ca is not None or proxy is not None):
        raise typer.BadParameter(
            "--ca and --proxy are for --server: the configuration has server.tls.ca and server.proxy"
        )
    token = None if token_file is None else read_token(token_file)
    seconds = None if expires_after is None else _seconds(expires_after)
    command = element(device, payload_of(payload, is_text=text), command_id, seconds, at_most_once=at_most_once)
    if server is not None and gateway is not None:
        address, is_trusted = remote(server, gateway, token, stream, receipts, ca=ca, proxy=proxy), False
    else:
        address, is_trusted = own(config, token)
    if timeout is None:
        timeout = max(DEFAULT_TIMEOUT_SECONDS, (seconds or 0.0) + _MORE_THAN_EXPIRY_SECONDS)
    if not is_trusted and not clock.is_synchronised():
        sys.stderr.write(
            "ds-gateway: this machine's clock is not synchronised, and the command carries its time: a gateway "
            "may take it for too old; timedatectl shows the clock, and sets up its synchronisation\n"
        )
    dialogue = Dialogue(address, command, say=_say_nothing if json else _say, warn=_warn)
    asyncio.run(dialogue.run(timeout, is_waiting=not no_wait))
    if json:
        print_json(dialogue.document())
    if not no_wait and not dialogue.is_done:
        raise typer.Exit(1)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _say_nothing(_text: str) -> None:
    """Everything is in the document at the end."""


def _warn(text: str) -> None:
    sys.stderr.write(f"ds-gateway: {text}\n")


def payload_of(text: str, *, is_text: bool) -> Any:
    """The JSON value that the argument stands for."""
    if is_text:
        return text
    try:
        value = json_library.loads(text, parse_constant=_refused)
    except ValueError:
        return text
    except RecursionError:
        raise typer.BadParameter("PAYLOAD cannot be sent as JSON (it is nested too deeply)") from None
    # A JSON text in quotes is taken for text with quotes, as a shell's user means it.
    return text if isinstance(value, str) else value


def _refused(_constant: str) -> None:
    raise ValueError("NaN and Infinity are no JSON")


def element(
    device: str,
    payload: Any,
    command_id: str | None,
    expires_after_seconds: float | None,
    *,
    at_most_once: bool,
) -> dict[str, Any]:
    """The command as it goes into the stream. Raises `typer.BadParameter`."""
    try:
        check_device_name(device)
    except RefusedNameError as error:
        raise typer.BadParameter(f"DEVICE: {error}") from None
    if command_id is None:
        command_id = str(uuid.uuid4())
    elif not command_id.isprintable() or not 0 < len(command_id) <= _MAX_ID_CHARACTERS:
        raise typer.BadParameter(f"--id has 1 to {_MAX_ID_CHARACTERS} printable characters")
    elif command_id.startswith("#"):
        raise typer.BadParameter("--id does not begin with #: the gateway makes such ids itself")
    now = datetime.fromtimestamp(time.time(), UTC)
    command: dict[str, Any] = {
        "id": command_id,
        "device": device,
        "payload": payload,
        "issued_at": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    if expires_after_seconds is not None:
        command["expires_after"] = expires_after_seconds
    if at_most_once:
        command["delivery"] = "at_most_once"
    try:
        size = len(_encoded(command))
    except (TypeError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"PAYLOAD cannot be sent as JSON ({error}); --text sends it as text") from None
    if size > MAX_ELEMENT_BYTES:
        raise typer.BadParameter(f"a command has at most {MAX_ELEMENT_BYTES} bytes, and this one has {size}")
    return command


def _encoded(command: Mapping[str, Any]) -> bytes:
    _only_finite(command["payload"])
    return orjson.dumps(command)


def _only_finite(value: Any) -> None:
    """The encoder would make null of a number that is too large for a float."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is too large")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _only_finite(each)


def _seconds(text: str) -> float:
    try:
        seconds = TypeAdapter(Seconds).validate_python(text)
    except ValidationError:
        seconds = 0.0
    if not seconds:
        raise typer.BadParameter(f"--expires-after {text!r} is no duration: write 30s, 5m or plain seconds")
    return seconds


def own(config: Path | None, token: str | None) -> tuple[Address, bool]:
    """Where the gateway of this configuration takes commands, and if it trusts the clock. Raises `ConfigError`.

    It runs on this machine, so that the command's time and its own are of one clock.
    """
    settings = load_server(config, os.environ, with_token=token is None, with_downlink=True)
    server = settings.server
    if token is not None:
        server = server.model_copy(update={"token": Credential(token)})
    address = _address(server, settings.gateway.id, settings.downlink)
    return address, settings.gateway.clock == "trusted"


def remote(
    url: str,
    gateway: str,
    token: str | None,
    stream: str | None,
    receipts: str | None,
    *,
    ca: Path | None = None,
    proxy: str | None = None,
) -> Address:
    """Where a gateway elsewhere takes commands. Raises `typer.BadParameter`."""
    try:
        GatewaySettings.model_validate({"id": gateway})
    except ValidationError as error:
        raise typer.BadParameter(f"--gateway {gateway!r} {_first(error)}") from None
    names = {"stream": stream, "receipts": receipts}
    try:
        downlink = DownlinkSettings.model_validate({key: text for key, text in names.items() if text is not None})
    except ValidationError as error:
        raise typer.BadParameter(f"--{error.errors()[0]['loc'][0]} {_first(error)}") from None
    try:
        server = ServerSettings.model_validate(
            {
                "url": url,
                "token": None if token is None else Credential(token),
                "tls": {} if ca is None else {"ca": str(ca)},
                "proxy": proxy,
            }
        )
    except ValidationError as error:
        option = "--proxy" if error.errors()[0]["loc"] == ("proxy",) else "--server"
        raise typer.BadParameter(f"{option} {_first(error)}") from None
    if ca is not None:
        _check_ca(ca)
    if server.is_embedded:
        raise typer.BadParameter("--server is a URL here, as http://box.local:4437/v1/stream")
    return _address(server, gateway, downlink)


def _check_ca(ca: Path) -> None:
    try:
        ssl.create_default_context(cafile=str(ca))
    except ssl.SSLError:
        raise typer.BadParameter(f"--ca {ca} cannot be used: it has no certificate in PEM form") from None
    except OSError as error:
        raise typer.BadParameter(f"--ca {ca} cannot be used: {error.strerror}") from None


def _first(error: ValidationError) -> str:
    return str(error.errors()[0].get("ctx", {}).get("error") or error.errors()[0]["msg"])


def _address(server: ServerSettings, gateway: str, downlink: DownlinkSettings) -> Address:
    try:
        check_downlink_streams(downlink, gateway)
    except MappingError as error:
        raise typer.BadParameter(f"downlink: {error}") from None
    return Address(server, gateway, downlink.command_stream(gateway), downlink.receipt_stream(gateway))
