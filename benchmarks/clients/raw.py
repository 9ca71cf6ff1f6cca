"""The limits: a bare socket, `http.client` and httpx, doing the same requests as a client of streams."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import orjson

from clients.memory import PeakMemory
from clients.messages import IN_A_BODY, JSON, bodies, text, value
from clients.raw_http import RawConnection
from clients.worker import Stopwatch, serve, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


def write(url: str, messages: int) -> dict[str, Any]:
    """Bodies that were made before, one after the other."""
    prebuilt = bodies([text(number).encode() for number in range(messages)])
    with Stopwatch() as watch:
        _post(url, prebuilt)
    return watch.result()


def write_encoding(url: str, messages: int) -> dict[str, Any]:
    """The same requests, made of values: each message is encoded, a body at a time."""
    values = [value(number) for number in range(messages)]
    with Stopwatch() as watch:
        _post(url, (_encoded(values[at : at + IN_A_BODY]) for at in range(0, messages, IN_A_BODY)))
    return watch.result()


def _encoded(values: Sequence[Any]) -> bytes:
    # A copy of its own size: what `dumps` returns keeps the memory of its much larger buffer from being used.
    return b"[" + b",".join([b"%b" % orjson.dumps(each) for each in values]) + b"]"


def _post(url: str, made: Iterable[bytes]) -> None:
    with RawConnection(url) as connection:
        for number, body in enumerate(made):
            connection.exchange("POST", headers=_producer_headers(number), body=body)


def _producer_headers(number: int) -> dict[str, str]:
    return {"content-type": JSON, "producer-id": "raw", "producer-epoch": "0", "producer-seq": str(number)}


def catch_up(url: str, messages: int) -> dict[str, Any]:
    """`http.client` and the standard library's JSON."""
    return _catch_up(url, messages, json.loads)


def catch_up_orjson(url: str, messages: int) -> dict[str, Any]:
    """`http.client` and orjson."""
    return _catch_up(url, messages, orjson.loads)


def _catch_up(url: str, messages: int, loads: Callable[[bytes], Any]) -> dict[str, Any]:
    with Stopwatch() as watch:
        read = _get_all(url, loads)
    assert read == messages
    return watch.result()


def memory(url: str, messages: int) -> dict[str, Any]:
    """`http.client` and the standard library's JSON: what it takes to hold everything."""
    with PeakMemory() as peak:
        read = _get_all(url, json.loads)
    assert read == messages
    return peak.result()


def _get_all(url: str, loads: Callable[[bytes], Any]) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("GET", f"{parts.path}?offset=-1")
    count = len(loads(connection.getresponse().read()))
    connection.close()
    return count


def live_long_poll(url: str, samples: int) -> dict[str, Any]:
    """One long-poll after the other."""
    with RawConnection(url) as connection:
        headers, body = connection.exchange("GET", "?offset=-1")
        samples -= _note(body)
        while samples:
            query = f"?offset={headers['stream-next-offset']}&live=long-poll"
            if "stream-cursor" in headers:
                query += f"&cursor={headers['stream-cursor']}"
            headers, body = connection.exchange("GET", query)
            samples -= _note(body)
    return {}


def live_sse(url: str, samples: int) -> dict[str, Any]:
    """One stream of events."""
    with RawConnection(url) as connection:
        connection.send("GET", "?offset=-1&live=sse")
        connection.receive_head()
        for body in _data_events(connection.chunks()):
            samples -= _note(body)
            if not samples:
                return {}
    raise RuntimeError("the event stream ended")


def _data_events(chunks: Iterator[bytes]) -> Iterator[bytes]:
    pending = b""
    for chunk in chunks:
        *events, pending = (pending + chunk).split(b"\n\n")
        for event in events:
            name, *data = event.split(b"\n")
            if name == b"event: data":
                yield b"\n".join(line.removeprefix(b"data:") for line in data)


def _note(body: bytes) -> int:
    messages = json.loads(body) if body else []
    now = time.monotonic_ns()
    for message in messages:
        tell(latency_ns=now - message["sent"])
    return len(messages)


def append_socket(url: str, messages: int) -> dict[str, Any]:
    """A POST for each small message, on a bare socket."""
    made = [text(number).encode() for number in range(messages)]
    with RawConnection(url) as connection:
        with Stopwatch() as watch:
            for body in made:
                connection.exchange("POST", headers={"content-type": JSON}, body=body)
    return watch.result()


def append_http_client(url: str, messages: int) -> dict[str, Any]:
    """The same with `http.client`."""
    made = [text(number).encode() for number in range(messages)]
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    with Stopwatch() as watch:
        for body in made:
            connection.request("POST", parts.path, body, {"content-type": JSON})
            connection.getresponse().read()
    connection.close()
    return watch.result()


def append_httpx(url: str, messages: int) -> dict[str, Any]:
    """The same with httpx."""
    made = [text(number).encode() for number in range(messages)]
    with httpx.Client() as client:
        with Stopwatch() as watch:
            for body in made:
                client.post(url, content=body, headers={"content-type": JSON}).raise_for_status()
    return watch.result()


def append_httpx_async(url: str, messages: int) -> dict[str, Any]:
    """The same with httpx and asyncio."""
    made = [text(number).encode() for number in range(messages)]

    async def run() -> dict[str, Any]:
        async with httpx.AsyncClient() as client:
            with Stopwatch() as watch:
                for body in made:
                    (await client.post(url, content=body, headers={"content-type": JSON})).raise_for_status()
        return watch.result()

    return asyncio.run(run())


if __name__ == "__main__":
    serve(
        {
            each.__name__: each
            for each in (
                write,
                write_encoding,
                catch_up,
                catch_up_orjson,
                memory,
                live_long_poll,
                live_sse,
                append_socket,
                append_http_client,
                append_httpx,
                append_httpx_async,
            )
        }
    )
