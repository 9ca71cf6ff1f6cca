"""Host names and addresses, with and without a port."""

from __future__ import annotations

import ipaddress
import re

_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?", re.ASCII)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host (IPv6 in brackets); of names only ``localhost`` is known."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def reachable_host(host: str) -> str:
    """The host of a URL under which a program on this machine reaches what listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - nothing is bound here


def is_host_and_port(text: str) -> bool:
    """Whether the text looks like ``host``, ``host:port`` or the same with ``[IPv6]``."""
    return _HOST_AND_PORT.fullmatch(text) is not None


def listening_address(text: str) -> tuple[str, int]:
    """Host (IPv6 in its brackets) and port of something to listen on. Raises ValueError.

    Other names than ``localhost`` are refused: what they mean depends on the network, which may be slow to say.
    """
    host, port = host_and_port(text)
    if port is None or not (host == "localhost" or _is_address(host)):
        raise ValueError(
            "must be an IP address of this machine (IPv6 in brackets) or localhost, : and a port, as "
            "127.0.0.1:4437 for this machine alone or 0.0.0.0:4437 for all"
        )
    return host, port


def _is_address(host: str) -> bool:
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host.strip("[]"))
        else:
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def host_and_port(text: str) -> tuple[str, int | None]:
    """Host (IPv6 in its brackets) and port; None if the text has none. Raises ValueError."""
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise ValueError("must have a host name or address, and then perhaps : and a port")
    host, port = match["host"], match["port"]
    if not host.startswith("[") and any(not 0 < len(label) <= 63 for label in host.rstrip(".").split(".")):
        # paho's network thread dies silently of a UnicodeError on such a host.
        raise ValueError("must have a host name whose parts between dots have 1 to 63 characters")
    if port is not None and not 0 < int(port) < 65536:
        raise ValueError("must have a port from 1 to 65535")
    return host, None if port is None else int(port)
