"""The client behind the official line protocol: one JSON command a line in, one JSON result a line out.

    run-sync     stream, DurableStream, SyncIdempotentProducer
    run-async    astream, AsyncDurableStream, IdempotentProducer

It translates, and does nothing else: the public API only, no retry and no repair. What it knows beyond the API's
results (the status of a creation, the headers that a request really had) it sees through hooks of the `httpx`
client that it hands to every call.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from importlib.metadata import version
from typing import Any, Final

import httpx

from conformance.failures import InvalidArgumentError, NotSupportedError, failure_of
from conformance.fronts import AsyncFront, Front, SyncFront, Traffic, run_without_a_loop, settle
from conformance.measurements import measure
from conformance.reads import Collected
from durable_streams import DurableStreamError

Command = Mapping[str, Any]
Result = dict[str, Any]

FEATURES: Final = {
    "batching": True,
    "sse": True,
    "longPoll": True,
    "auto": True,
    "streaming": True,
    "dynamicHeaders": True,
    "strictZeroValidation": True,
}

_LIVE_READ_SECONDS: Final = 5.0
"""How long a live read goes on when the command does not say."""

# What the validation command calls the parameters of a producer.
_PRODUCER_PARAMETERS: Final = {
    "producerId": "producer_id",
    "epoch": "epoch",
    "maxBatchBytes": "max_batch_bytes",
}


class Adapter:
    """One method a command."""

    def __init__(self, front: Front, traffic: Traffic) -> None:
        self._front = front
        self._traffic = traffic
        self._server = ""
        self._handles: dict[str, Any] = {}
        self._producers: dict[tuple[str, str, int], Any] = {}
        self._closed: set[tuple[str, str, int]] = set()
        self._headers: dict[str, Any] = {}
        self._params: dict[str, Any] = {}
        self._commands: dict[str, Callable[[Command], Coroutine[Any, Any, Result]]] = {
            "init": self._init,
            "create": self._create,
            "connect": self._connect,
            "append": self._append,
            "read": self._read,
            "head": self._head,
            "delete": self._delete,
            "close": self._close,
            "idempotent-append": self._idempotent_append,
            "idempotent-append-batch": self._idempotent_append_batch,
            "idempotent-close": self._idempotent_close,
            "idempotent-detach": self._idempotent_detach,
            "set-dynamic-header": self._set_dynamic_header,
            "set-dynamic-param": self._set_dynamic_param,
            "clear-dynamic": self._clear_dynamic,
            "validate": self._validate,
            "benchmark": self._benchmark,
            "shutdown": self._shutdown,
        }

    async def serve(self) -> None:
        """Answer commands until `shutdown` or the end of the input."""
        while line := await self._front.line():
            if not line.strip():
                continue
            result = await self.answer(line)
            print(json.dumps(result), flush=True)
            if result["type"] == "shutdown":
                return
        await self._shutdown({})

    async def answer(self, line: str) -> Result:
        """The result of one line, whatever it is."""
        kind = "unknown"
        try:
            command = json.loads(line)
            kind = command["type"]
            done = await self._commands.get(kind, self._unknown)(command)
        # Supervision boundary: a defect is one command's result, marked as such, and the next one is served.
        except Exception as error:  # noqa: BLE001
            return failure_of(kind, error)
        return {"type": kind, "success": True, **done}

    async def _init(self, command: Command) -> Result:
        self._server = command["serverUrl"]
        if "timeoutMs" in command:
            self._front.client.timeout = command["timeoutMs"] / 1000
        return {
            "clientName": "ds-gateway durable_streams",
            "clientVersion": version("ds-gateway"),
            "features": FEATURES,
        }

    async def _unknown(self, command: Command) -> Result:
        raise NotSupportedError(f"there is no command {command['type']!r}")

    async def _shutdown(self, _: Command) -> Result:
        for key in list(self._producers):
            await self._let_go(key)
        client = self._front.client
        await settle(client.aclose() if isinstance(client, httpx.AsyncClient) else client.close())
        return {}

    # -- Streams -----------------------------------------------------------------------------------

    async def _create(self, command: Command) -> Result:
        options = {
            "content_type": command.get("contentType"),
            "ttl_seconds": command.get("ttlSeconds"),
            "expires_at": command.get("expiresAt"),
            "body": command.get("data"),
            "closed": command.get("closed", False),
        }
        extras = self._extras(command)
        handle = await settle(self._front.handle.create(self._url(command), **options, **extras))
        if _without_headers(extras):
            self._handles[command["path"]] = handle
        return {"status": self._traffic.status, **self._sent(command)}

    async def _connect(self, command: Command) -> Result:
        await settle(self._front.handle.connect(self._url(command), **self._extras(command)))
        return {"status": 200, **self._sent(command)}

    async def _append(self, command: Command) -> Result:
        handle = self._handle(command)
        data = base64.b64decode(command["data"]) if command.get("binary") else command["data"]
        seq = None if command.get("seq") is None else str(command["seq"])
        appended = await settle(handle.append(data, seq=seq))
        return {"status": 200, "offset": appended.next_offset, **self._sent(command)}

    async def _head(self, command: Command) -> Result:
        head = await settle(self._handle(command).head())
        return {
            "status": 200,
            "offset": head.offset,
            "contentType": head.content_type,
            "streamClosed": head.stream_closed,
            **self._sent(command),
        }

    async def _delete(self, command: Command) -> Result:
        await settle(self._handle(command).delete())
        self._handles.pop(command["path"], None)
        return {"status": 200, **self._sent(command)}

    async def _close(self, command: Command) -> Result:
        closed = await settle(self._handle(command).close_stream(command.get("data")))
        return {"status": 200, "finalOffset": closed.final_offset}

    async def _read(self, command: Command) -> Result:
        live = command.get("live", False)
        seconds = command.get("timeoutMs", _LIVE_READ_SECONDS * 1000) / 1000
        response = await settle(
            self._front.stream(
                self._url(command), offset=command.get("offset") or "-1", live=live, **self._extras(command)
            )
        )
        try:
            collected = Collected(command, response.offset)
            with self._front.patience(seconds) if live else contextlib.nullcontext():
                await collected.collect(response, until=time.monotonic() + seconds)
            return {
                "status": response.status,
                "chunks": collected.chunks,
                "offset": collected.offset,
                "upToDate": collected.up_to_date,
                "streamClosed": response.stream_closed,
                "cursor": response.cursor,
                **self._sent(command),
            }
        finally:
            await settle(response.close())

    # -- Idempotent producers: one goes on from command to command until it is closed or detached ------

    async def _idempotent_append(self, command: Command) -> Result:
        try:
            acknowledgement = await settle(self._producer(command).append(command["data"]))
            appended = await self._front.confirmed(acknowledgement)
        except DurableStreamError:
            await self._let_go(_producer_key(command))
            raise
        return {"status": 200, "offset": appended.offset, "duplicate": appended.duplicate}

    async def _idempotent_append_batch(self, command: Command) -> Result:
        items = command["items"]
        in_flight = command.get("maxInFlight", 1)
        # Several can only be in flight if there are several: batches of two of the longest items.
        small = {"max_batch_bytes": 2 * max(len(item.encode()) for item in items) + 8} if in_flight > 1 else {}
        # Nothing lingers out while the loop runs, so that equal items always make equal batches.
        producer = self._new_producer(command, linger_ms=60_000, max_in_flight=in_flight, **small)
        try:
            for item in items:
                await settle(producer.append(item))
            await settle(producer.flush())
        finally:
            with contextlib.suppress(DurableStreamError):  # what `flush` raised
                await settle(producer.close())
        return {"status": 200}

    async def _idempotent_close(self, command: Command) -> Result:
        key = _producer_key(command)
        if key in self._closed and "data" in command:
            await self._let_go(key)  # a last message again is what a restarted producer would send
        try:
            closed = await settle(self._producer(command).close_stream(command.get("data")))
        except DurableStreamError:
            await self._let_go(key)
            raise
        self._closed.add(key)
        return {"status": 200, "finalOffset": closed.final_offset}

    async def _idempotent_detach(self, command: Command) -> Result:
        producer = self._producer(command)
        del self._producers[_producer_key(command)]
        await settle(producer.close())
        return {"status": 200}

    def _producer(self, command: Command) -> Any:
        key = _producer_key(command)
        if key not in self._producers:
            self._producers[key] = self._new_producer(command)
        return self._producers[key]

    def _new_producer(self, command: Command, **options: Any) -> Any:
        return self._front.producer(
            self._url(command),
            command["producerId"],
            epoch=command.get("epoch", 0),
            auto_claim=command.get("autoClaim", False),
            **options,
            **self._extras(command),
        )

    async def _let_go(self, key: tuple[str, str, int]) -> None:
        self._closed.discard(key)
        producer = self._producers.pop(key, None)
        if producer is not None:
            with contextlib.suppress(DurableStreamError):  # its command has reported it
                await settle(producer.close())

    # -- Headers and parameters that are computed for each request -----------------------------------

    async def _set_dynamic_header(self, command: Command) -> Result:
        self._headers[command["name"]] = self._front.dynamic(_dynamic_value(command))
        return {}

    async def _set_dynamic_param(self, command: Command) -> Result:
        self._params[command["name"]] = self._front.dynamic(_dynamic_value(command))
        return {}

    async def _clear_dynamic(self, _: Command) -> Result:
        self._headers.clear()
        self._params.clear()
        return {}

    def _extras(self, command: Command) -> dict[str, Any]:
        return {
            "headers": {**self._headers, **(command.get("headers") or {})},
            "params": dict(self._params),
            "client": self._front.client,
        }

    def _sent(self, command: Command) -> Result:
        return {
            "headersSent": self._traffic.headers([*self._headers, *(command.get("headers") or {})]),
            "paramsSent": self._traffic.params([*self._params]),
        }

    # -- Validation and benchmarks -------------------------------------------------------------------

    async def _validate(self, command: Command) -> Result:
        target = {name: value for name, value in command["target"].items() if name != "target"}
        kind = command["target"]["target"]
        unknown = [name for name in target if name not in _PRODUCER_PARAMETERS]
        if kind != "idempotent-producer" or unknown:
            raise NotSupportedError(f"there is nothing to validate: {kind} {', '.join(unknown)}")
        arguments = {_PRODUCER_PARAMETERS[name]: value for name, value in target.items()}
        try:
            producer = self._front.producer(f"{self._server}/validated", **arguments, client=self._front.client)
        except ValueError as error:
            message = str(error)
            for name, parameter in _PRODUCER_PARAMETERS.items():
                message = message.replace(parameter, name)
            raise InvalidArgumentError(message) from error
        await settle(producer.close())
        return {}

    async def _benchmark(self, command: Command) -> Result:
        nanoseconds, metrics = await measure(self._front, self._server, command["operation"])
        return {"iterationId": command["iterationId"], "durationNs": str(nanoseconds), "metrics": metrics}

    # -- What every command needs --------------------------------------------------------------------

    def _url(self, command: Command) -> str:
        return f"{self._server}{command['path']}"

    def _handle(self, command: Command) -> Any:
        """The handle that created the stream, as a program would go on with it.

        Headers belong to a handle: with some a new one is made, that is told the content type.
        """
        extras = self._extras(command)
        created = self._handles.get(command["path"])
        if created is not None and _without_headers(extras):
            return created
        content_type = None if created is None else created.content_type
        return self._front.handle(self._url(command), content_type=content_type, **extras)


def _without_headers(extras: Mapping[str, Any]) -> bool:
    return not extras["headers"] and not extras["params"]


def _producer_key(command: Command) -> tuple[str, str, int]:
    return command["path"], command["producerId"], command.get("epoch", 0)


def _dynamic_value(command: Command) -> Callable[[], str]:
    match command["valueType"]:
        case "counter":
            numbers = itertools.count(1)
            return lambda: str(next(numbers))
        case "timestamp":
            return lambda: str(time.time_ns() // 1_000_000)
        case "token":
            token: str = command["initialValue"]
            return lambda: token
        case other:
            raise NotSupportedError(f"there is no dynamic value {other!r}")


def main() -> None:
    """Serve standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("front", choices=["sync", "async"])
    front = parser.parse_args().front
    traffic = Traffic()
    if front == "async":
        asyncio.run(Adapter(AsyncFront(traffic), traffic).serve())
    else:
        run_without_a_loop(Adapter(SyncFront(traffic), traffic).serve())


if __name__ == "__main__":
    main()
