"""A connected socket to a broker, with TLS or without; every failure says its reason."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ds_gateway import tls
from ds_gateway.errors import CertificateError, DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.config.server import TlsSettings

_LAST_BYTES: Final = 64 * 1024
LOOK_SECONDS: Final = 1.0
"""How often a wait looks whether it must end."""
_DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker listens."""

    host: str
    port: int
    secure: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read an mqtt:// or mqtts:// URL that the configuration has already checked."""
        parts = urlsplit(url)
        return cls(parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme], parts.scheme == "mqtts")

    def __str__(self) -> str:
        """As people write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """Build a context from the files as they are now. Raises `DeviceError` that names the file at fault."""
    try:
        return tls.client_context(settings)
    except CertificateError as error:
        raise DeviceError(str(error)) from error


def open_socket(address: Address, context: ssl.SSLContext | None, timeout_seconds: float) -> socket.socket:
    """Connect and shake hands, each step within the timeout. Raises `DeviceError` with the reason."""
    try:
        plain = socket.create_connection((address.host, address.port), timeout=timeout_seconds)
    except OSError as error:
        raise DeviceError(f"no connection to {address}: {explain(error)}") from error
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if context is None:
            return plain
        secure = context.wrap_socket(plain, server_hostname=address.host, do_handshake_on_connect=False)
    except (OSError, ValueError) as error:
        plain.close()
        raise DeviceError(f"no connection to {address}: {explain(error)}") from error
    try:
        secure.do_handshake()
    except OSError as error:
        secure.close()
        hint = "; the broker hung up: see whether it speaks TLS on this port" if _hung_up(error) else ""
        raise DeviceError(f"no TLS connection to {address}: {explain(error)}{hint}") from error
    return secure


def hang_up(connected: socket.socket, timeout_seconds: float, must_go: Callable[[], bool] = lambda: False) -> bool:
    """Close this half of a connection, and read until the other side has closed its own; whether it did.

    Ends without it when the timeout is over, and soon after ``must_go`` says so.
    A socket that is closed with something unread in it, or written to later, resets the connection: the other
    side then never reads what was on its way, as the last PUBACKs.
    """
    give_up_at = time.monotonic() + timeout_seconds
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_WR)
        while (left_seconds := give_up_at - time.monotonic()) > 0 and not must_go():
            connected.settimeout(min(left_seconds, LOOK_SECONDS))
            with contextlib.suppress(TimeoutError):
                if not connected.recv(_LAST_BYTES):
                    return True
    return False


def _hung_up(error: OSError) -> bool:
    """Whether the other side ended the connection without a word of TLS."""
    return isinstance(error, ConnectionError | ssl.SSLEOFError)


def explain(error: Exception) -> str:
    """Say in plain words why a connection failed."""
    if (cause := tls.explain(error, peer="the broker")) is not None:
        return cause
    match error:
        case TimeoutError():
            return "no answer in time"
        case socket.gaierror():
            return f"the host name is not known: {error.strerror}"
        case OSError(strerror=str() as text):
            return text
        case _:
            return str(error) or type(error).__name__
