"""The HTTP client for all streams of one server, and the headers of its requests."""

from __future__ import annotations

from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Final

import httpx

from ds_gateway.errors import CertificateError, UplinkError
from ds_gateway.tls import client_context
from ds_gateway.uplink.transport import KEY, ServerTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ds_gateway.config.server import ServerSettings
    from ds_gateway.uplink.transport import Watch

CONNECT_TIMEOUT_SECONDS: Final = 10.0
ANSWER_TIMEOUT_SECONDS: Final = 30.0


def http_client(
    settings: ServerSettings, transport: httpx.AsyncBaseTransport | None = None, watch: Watch | None = None
) -> httpx.AsyncClient:
    """Return the client for all streams of one server. Raises `UplinkError` for certificates that cannot be used.

    With a ``watch`` it does not: each request fails with the reason until they can be. ``transport`` leads to the
    embedded server. The environment's proxy variables do not count: what the gateway does is in its configuration.
    """
    timeout = httpx.Timeout(ANSWER_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
    if transport is not None:
        return httpx.AsyncClient(transport=transport, trust_env=False, timeout=timeout)
    if watch is None and settings.url.startswith("https:"):
        try:
            client_context(settings.tls, key=KEY)
        except CertificateError as error:
            raise UplinkError(str(error)) from error
    return httpx.AsyncClient(
        transport=ServerTransport(settings, watch),
        trust_env=False,
        # Kept cookies would be sent back, and a proxy that sets a new one each time fills the request's headers.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=timeout,
    )


def request_headers(settings: ServerSettings) -> Mapping[str, Callable[[], str]]:
    """Return the headers of every request, read again for each: a credential's file may change."""
    headers: dict[str, Callable[[], str]] = {
        name: (lambda secret=secret: secret.get_secret_value())  # type: ignore[misc]
        for name, secret in settings.headers.items()
    }
    token = settings.token
    if token is not None:
        headers["authorization"] = lambda: f"Bearer {token.get_secret_value()}"
    return headers
