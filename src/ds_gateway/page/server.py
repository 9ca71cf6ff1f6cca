"""The page's thread. Imported by no gateway that has no page, and by none before it has started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ds_gateway.page.app import PageApp
from durable_streams.server import ConnectionLimits, ServerThread

if TYPE_CHECKING:
    from ds_gateway.config.credential import Credential
    from ds_gateway.page.inside import Asking

LIMITS: Final = ConnectionLimits(max_connections=64, head_seconds=10.0, stalled_seconds=20.0)
"""A browser takes six at most; a hundred that say nothing must not take the box's descriptors."""


def started(asking: Asking, token: Credential | None) -> ServerThread:
    """It, running, and listening nowhere yet."""
    server = ServerThread(PageApp(asking, token), connections=LIMITS, name="status-page")
    server.start()
    return server
