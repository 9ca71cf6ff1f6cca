"""``ds-gateway send``: one command into a gateway's stream, and what became of it. Exit status 0, 1 or 2."""

from __future__ import annotations

import asyncio
import json as json_library
import math
import os
import sys
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003 - read by typer
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer
from pydantic import TypeAdapter, ValidationError

from ds_gateway.cli.check import print_json
from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.resolve import read_token
from ds_gateway.config.commands import DownlinkSettings
from ds_gateway.config.credential import Credential
from ds_gateway.config.loader import load_server
from ds_gateway.config.models import GatewaySettings, ServerSettings
from ds_gateway.config.quantities import Seconds
from ds_gateway.errors import GatewayError
from ds_gateway.mapping import MappingError, RefusedNameError, check_downlink_streams, stream_path
from ds_gateway.mapping.streams import check_device_name
from ds_gateway.uplink import http_client, request_headers
from durable_streams import (
    AsyncDurableStream,
    DurableStreamError,
    FetchError,
    IdempotentProducer,
    StreamNotFoundError,
    UnauthorizedError,
    astream,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

MAX_ELEMENT_BYTES: Final = 64 * 1024
"""What a gateway takes of one command."""
DEFAULT_TIMEOUT_SECONDS: Final = 90.0
_MORE_THAN_EXPIRY_SECONDS: Final = 30.0
_MAX_ID_CHARACTERS: Final = 128
_DONE: Final = frozenset({"published", "acknowledged"})


@dataclass(frozen=True, slots=True)
class Address:
    """Where a gateway takes its commands from, and tells what became of them."""

    server: ServerSettings
    gateway: str
    stream: str
    receipts: str

    def url(self, stream: str) -> str:
        """The URL of a stream of this server."""
        return f"{self.server.base_url}/{stream_path(stream)}"


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
    token = None if token_file is None else read_token(token_file)
    seconds = None if expires_after is None else _seconds(expires_after)
    command = element(device, payload_of(payload, is_text=text), command_id, seconds, at_most_once=at_most_once)
    if server is not None and gateway is not None:
        address = remote(server, gateway, token, stream, receipts)
    else:
        address = own(config, token)
    if timeout is None:
        timeout = max(DEFAULT_TIMEOUT_SECONDS, (seconds or 0.0) + _MORE_THAN_EXPIRY_SECONDS)
    dialogue = _Dialogue(address, command, is_quiet=json)
    asyncio.run(dialogue.run(timeout, is_waiting=not no_wait))
    if json:
        print_json(dialogue.document())
    if not no_wait and not dialogue.is_done:
        raise typer.Exit(1)


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


def own(config: Path | None, token: str | None) -> Address:
    """Where the gateway of this configuration takes commands. Raises `ConfigError`."""
    settings = load_server(config, os.environ, with_token=token is None, with_downlink=True)
    server = settings.server
    if token is not None:
        server = server.model_copy(update={"token": Credential(token)})
    return _address(server, settings.gateway.id, settings.downlink)


def remote(url: str, gateway: str, token: str | None, stream: str | None, receipts: str | None) -> Address:
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
        server = ServerSettings.model_validate({"url": url, "token": None if token is None else Credential(token)})
    except ValidationError as error:
        raise typer.BadParameter(f"--server {_first(error)}") from None
    if server.is_embedded:
        raise typer.BadParameter("--server is a URL here, as http://box.local:4437/v1/stream")
    return _address(server, gateway, downlink)


def _first(error: ValidationError) -> str:
    return str(error.errors()[0].get("ctx", {}).get("error") or error.errors()[0]["msg"])


def _address(server: ServerSettings, gateway: str, downlink: DownlinkSettings) -> Address:
    try:
        check_downlink_streams(downlink, gateway)
    except MappingError as error:
        raise typer.BadParameter(f"downlink: {error}") from None
    return Address(server, gateway, downlink.command_stream(gateway), downlink.receipt_stream(gateway))


class _Dialogue:
    """One command and its receipts."""

    def __init__(self, address: Address, command: Mapping[str, Any], *, is_quiet: bool) -> None:
        self._address = address
        self._command = command
        self._is_quiet = is_quiet
        self._receipts: list[Mapping[str, Any]] = []

    @property
    def is_done(self) -> bool:
        """Whether the last receipt says that the command was carried out."""
        return bool(self._receipts) and _is_final(self._receipts[-1]) and self._receipts[-1].get("status") in _DONE

    def document(self) -> dict[str, Any]:
        """What happened, for programs."""
        return {
            "id": self._command["id"],
            "device": self._command["device"],
            "stream": self._address.stream,
            "done": self.is_done,
            "receipts": self._receipts,
        }

    async def run(self, timeout_seconds: float, *, is_waiting: bool) -> None:
        """Send it, and print its receipts until the last one. Raises `GatewayError` where it could not be sent."""
        client = http_client(self._address.server)
        try:
            # What is there before the command is not read: its receipts come behind.
            tail = await self._tail(client) if is_waiting else None
            await self._append(client)
            self._say(f"command {self._command['id']} is in {self._address.stream}")
            if tail is not None:
                await self._wait(client, tail, timeout_seconds)
        finally:
            await client.aclose()

    async def _tail(self, client: httpx.AsyncClient) -> str:
        url = self._address.url(self._address.receipts)
        try:
            async with AsyncDurableStream(url, client=client, headers=self._headers) as handle:
                offset = (await handle.head()).offset
        except StreamNotFoundError:
            raise GatewayError(
                f"nothing was sent: there is no stream {self._address.receipts} on "
                f"{self._address.server.base_url}, so no gateway {self._address.gateway} has taken commands there "
                "yet: is the name right, has one of its devices commands, is it running? --no-wait sends without "
                "receipts"
            ) from None
        except DurableStreamError as error:
            raise GatewayError(f"nothing was sent: {self._explained(error)}") from None
        assert offset is not None, "a stream that is there has an end"
        return offset

    async def _append(self, client: httpx.AsyncClient) -> None:
        # An id of its own: another sender with the same one would be taken for a repetition.
        producer = IdempotentProducer(
            self._address.url(self._address.stream),
            f"ds-gateway-send-{uuid.uuid4()}",
            client=client,
            headers=self._headers,
            content_type="application/json",
        )
        try:
            async with producer:
                acknowledgement = await producer.append(_encoded(self._command))
                await acknowledgement
        except StreamNotFoundError:
            raise GatewayError(
                f"nothing was sent: there is no stream {self._address.stream} on {self._address.server.base_url}; "
                f"the gateway {self._address.gateway} makes it at its start: is the name right, has one of its "
                "devices commands?"
            ) from None
        except DurableStreamError as error:
            if not error.in_doubt:
                raise GatewayError(f"nothing was sent: {self._explained(error)}") from None
            raise GatewayError(
                f"the command may be in the stream, or not: {self._explained(error)}; the same again with --id "
                f"{self._command['id']} is done once"
            ) from None

    async def _wait(self, client: httpx.AsyncClient, tail: str, timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                url = self._address.url(self._address.receipts)
                async with astream(url, offset=tail, live=True, client=client, headers=self._headers) as response:
                    async for record in response.iter_json():
                        receipt = receipt_in(record, self._command["id"])
                        if receipt is None:
                            continue
                        self._receipts.append(receipt)
                        self._say(line_of(receipt))
                        if _is_final(receipt):
                            return
            why = "the stream of receipts was closed"
        except TimeoutError:
            why = f"no final receipt within {timeout_seconds:g} s"
        except DurableStreamError as error:
            why = f"the receipts cannot be read: {self._explained(error)}"
        if self._receipts:
            what = f"the last one was {self._receipts[-1].get('status')}"
        else:
            what = f"no gateway {self._address.gateway} has taken it: is it running, and in reach of its server?"
        sys.stderr.write(
            _safe(
                f"ds-gateway: {why}; {what}; ds-gateway commands on its machine shows what is pending, and the "
                f"same again with --id {self._command['id']} tells what became of it and is done once"
            )
            + "\n"
        )

    @property
    def _headers(self) -> Any:
        return request_headers(self._address.server)

    def _explained(self, error: DurableStreamError) -> str:
        text = str(error)
        if isinstance(error, UnauthorizedError):
            return f"{text}: give a token that may write commands and read receipts, as --token-file"
        if isinstance(error, FetchError) and self._address.server.is_embedded:
            return f"{text}: the server is in the gateway, which must be running"
        return text

    def _say(self, text: str) -> None:
        if not self._is_quiet:
            sys.stdout.write(_safe(text) + "\n")
            sys.stdout.flush()


def receipt_in(record: Any, command_id: str) -> Mapping[str, Any] | None:
    """The receipt of this command in an element of the stream; None if it tells of something else."""
    info = record.get("info") if isinstance(record, dict) and record.get("kind") == "receipt" else None
    return info if isinstance(info, dict) and info.get("command") == command_id else None


def _is_final(receipt: Mapping[str, Any]) -> bool:
    return receipt.get("final") is True


def line_of(receipt: Mapping[str, Any]) -> str:
    """A receipt for people."""
    text = str(receipt.get("status"))
    if receipt.get("repeated") is True:
        text += " (this id was there before, and is not done again)"
    if receipt.get("code"):
        text += f" ({receipt['code']})"
    if receipt.get("reason"):
        text += f": {receipt['reason']}"
    if receipt.get("reply") is not None:
        text += f": {receipt['reply']}"
    return text


def _safe(text: str) -> str:
    """What devices answered is in it: no commands to the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
