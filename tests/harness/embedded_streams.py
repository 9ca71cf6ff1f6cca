"""The streams of a gateway with an embedded server, and how the audit reads them when the gateway has ended."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from durable_streams.server import ServerThread, SqliteStore, StreamApp
from harness.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class EmbeddedStreams:
    """A port for an embedded server; what `Plant` needs to know of a server."""

    def __init__(self) -> None:
        self.port = free_port()

    @property
    def base_url(self) -> str:
        """Where its streams are read."""
        return f"http://127.0.0.1:{self.port}/v1/stream"

    def settings(self, **more: Any) -> dict[str, Any]:
        """The section ``server`` of a configuration."""
        return {"url": "embedded", "listen": f"127.0.0.1:{self.port}", **more}

    @contextmanager
    def served(self, data_dir: Path) -> Iterator[None]:
        """Serve what a gateway that has ended left, on the same port."""
        server = ServerThread(StreamApp(SqliteStore(data_dir / "streams")))
        server.start()
        try:
            server.listen("127.0.0.1", self.port)
            yield
        finally:
            server.stop()
