"""Something that answers on a control socket as a gateway would."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anyio.from_thread import start_blocking_portal

from ds_gateway.control import ControlServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@contextmanager
def answering(path: Path, verb: str, answer: Mapping[str, Any]) -> Iterator[None]:
    """Answers this verb on this socket, always the same."""
    with start_blocking_portal() as portal:
        server = ControlServer(path, {verb: lambda _arguments: dict(answer)})
        portal.call(server.start)
        try:
            yield
        finally:
            portal.call(server.stop)
