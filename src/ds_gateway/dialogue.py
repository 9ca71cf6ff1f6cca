"""One command on its way: sent once whatever becomes of the answer, and its receipts as they come."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.errors import GatewayError
from ds_gateway.mapping import stream_path
from ds_gateway.records import control_info
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
    from collections.abc import Callable, Mapping

    import httpx

    from ds_gateway.config.server import ServerSettings

_START: Final = "-1"
"""The offset of a stream's beginning."""
_LOOK_AGAIN_SECONDS: Final = 0.25
"""How often a stream of receipts that is not there yet is looked for."""
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


class Dialogue:
    """One command and its receipts.

    ``say`` gets a line for people for each step, ``warn`` why the last receipt was not waited for any longer.
    """

    def __init__(
        self,
        address: Address,
        command: Mapping[str, Any],
        *,
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._address = address
        self._command = command
        self._say = say
        self._warn = warn
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
        """Send it, and tell its receipts until the last one. Raises `GatewayError` where it could not be sent."""
        client = http_client(self._address.server)
        try:
            # What is there before the command is not read: its receipts come behind.
            tail = await self._tail(client) if is_waiting else None
            await self._append(client)
            self._say(_safe(f"command {self._command['id']} is in {self._address.stream}"))
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
            # A gateway makes it with its first receipt, and the stream of commands when it starts: if the name is
            # wrong, it is that one that is missing.
            return _START
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
                acknowledgement = await producer.append(orjson.dumps(self._command))
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
                while True:
                    if await self._read(client, tail):
                        break
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            if self._receipts and _is_final(self._receipts[-1]):
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
        self._warn(
            _safe(
                f"{why}; {what}; ds-gateway commands on its machine shows what is pending, and the same again "
                f"with --id {self._command['id']} tells what became of it and is done once"
            )
        )

    async def _read(self, client: httpx.AsyncClient, tail: str) -> bool:
        """Read to the last receipt, or to the end of a closed stream; False if there is no stream yet."""
        url = self._address.url(self._address.receipts)
        try:
            async with astream(url, offset=tail, live=True, client=client, headers=self._headers) as response:
                async for record in response.iter_json():
                    receipt = receipt_in(record, self._command["id"])
                    if receipt is None:
                        continue
                    self._receipts.append(receipt)
                    self._say(_safe(line_of(receipt)))
                    if _is_final(receipt):
                        break
        except StreamNotFoundError:
            if tail != _START:
                raise
            return False
        return True

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


def receipt_in(record: Any, command_id: str) -> Mapping[str, Any] | None:
    """The receipt of this command in an element of the stream; None if it tells of something else."""
    info = control_info(record, "receipt")
    return info if info.get("command") == command_id else None


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
