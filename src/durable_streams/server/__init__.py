"""A durable stream server: the protocol's rules over a store, as one ASGI application."""

from durable_streams.server._app import StreamApp
from durable_streams.server._connections import ConnectionLimits
from durable_streams.server._errors import StoreError, StoreFormatError, StoreFullError, StoreLockedError
from durable_streams.server._http import is_loopback
from durable_streams.server._limits import Limits
from durable_streams.server._memory import MemoryStore
from durable_streams.server._serve import ServerThread
from durable_streams.server._sqlite import SqliteStore

__all__ = [
    "ConnectionLimits",
    "Limits",
    "MemoryStore",
    "ServerThread",
    "SqliteStore",
    "StoreError",
    "StoreFormatError",
    "StoreFullError",
    "StoreLockedError",
    "StreamApp",
    "is_loopback",
]
