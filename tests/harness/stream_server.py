"""Our SQLite stream server as a process of its own, and a front that can stand between it and its clients."""

from __future__ import annotations

import http.client
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from harness.ports import free_port
from harness.processes import console_script

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from harness.processes import ChildProcess, Processes

_HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})


class StreamServer:
    """``durable-streams serve`` over one directory: it can be stopped, killed and started at the same address."""

    def __init__(
        self, processes: Processes, data: Path, *, token_file: Path | None = None, options: Sequence[str] = ()
    ) -> None:
        """``options``: more of them for ``serve``."""
        self.port = free_port()
        self._options = options
        self._processes = processes
        self._data = data
        self._token_file = token_file
        self._child: ChildProcess | None = None

    @property
    def base_url(self) -> str:
        """What goes into ``server.url`` of a configuration."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start it, and return once it accepts connections."""
        argv: list[str | Path] = [console_script("durable-streams"), "serve", "--data", self._data]
        argv += ["--host", "127.0.0.1", "--port", str(self.port), "--long-poll-timeout", "1", *self._options]
        if self._token_file is not None:
            argv += ["--token-file", self._token_file]
        self._child = self._processes.start(argv, name="stream-server")
        self._child.wait_for_output(r"^http://")

    def stop(self) -> None:
        """End it as an operator does."""
        if self._child is not None:
            assert self._child.terminate() == 0
            self._child.kill()

    def kill(self) -> None:
        """End it without warning (SIGKILL)."""
        if self._child is not None:
            self._child.kill()


@dataclass(frozen=True)
class Asked:
    """A request as the front got it; the names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer that the front gives by itself."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Front:
    """A reverse proxy on a port of its own. ``rule`` may answer instead of the server behind it.

    `lose_answers` lets requests through and hangs up instead of answering, for as many requests as are asked for.
    """

    def __init__(
        self,
        upstream_url: str,
        *,
        tls: tuple[Path, Path] | None = None,
        clients: Path | None = None,
        newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ) -> None:
        """``tls``: files with a certificate and its key; ``clients``: with the authority of those of clients.

        ``newest``: the newest version of TLS that it speaks.
        """
        upstream = urlsplit(upstream_url)
        assert upstream.hostname is not None
        self._upstream = (upstream.hostname, upstream.port)
        self._path = upstream.path
        self.rule: Callable[[Asked], Reply | None] = lambda _asked: None
        self.asked: list[Asked] = []
        """Every request so far."""
        self.lost = 0
        self._to_lose: Callable[[Asked], bool] = lambda _asked: False
        self._server = _Listener(("127.0.0.1", free_port()), self)
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            context.maximum_version = newest
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(clients)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="front")

    @property
    def base_url(self) -> str:
        """What goes into ``server.url`` of a configuration."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}{self._path}"

    def lose_answers(self, which: Callable[[Asked], bool]) -> None:
        """Pass these requests on, and hang up instead of answering them."""
        self._to_lose = which

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, asked: Asked) -> Reply | None:
        """Answer one request; None: hang up."""
        self.asked.append(asked)
        reply = self.rule(asked)
        if reply is not None:
            return reply
        passed_on = self._pass_on(asked)
        if self._to_lose(asked):
            self.lost += 1
            return None
        return passed_on

    def _pass_on(self, asked: Asked) -> Reply | None:
        connection = http.client.HTTPConnection(*self._upstream, timeout=20)
        try:
            connection.request(asked.method, asked.path, body=asked.body or None, headers=dict(asked.headers))
            answer = connection.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_HEADERS}
            return Reply(answer.status, headers, answer.read())
        except OSError:
            return None
        finally:
            connection.close()


class _Listener(ThreadingHTTPServer):
    """Threads end with their connection, and connections with their answer: HTTP/1.0."""

    daemon_threads = False

    def __init__(self, address: tuple[str, int], front: Front) -> None:
        super().__init__(address, _Handler)
        self.front = front


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Listener)
        length = int(self.headers.get("content-length", "0"))
        headers = {name.lower(): value for name, value in self.headers.items() if name.lower() not in _HOP_HEADERS}
        reply = self.server.front.answer(Asked(self.command, self.path, headers, self.rfile.read(length)))
        if reply is None:
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the library finds methods by these names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's signature
        """Say nothing."""
