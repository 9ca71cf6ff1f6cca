"""One harmless question to the server: whether it is there, is one of streams, and takes the credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import httpx

from ds_gateway.uplink.client import http_client, request_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ds_gateway.config.server import ServerSettings

_OFFSET: Final = "stream-next-offset"
_PORTAL: Final = (
    "what answers is no stream server but a captive portal, a proxy or another web server: see that server.url "
    "leads to the streams"
)


async def probe(settings: ServerSettings, url: str) -> tuple[bool, str]:
    """Ask for the metadata of the stream at ``url`` (HEAD), once. Return whether all is well, and what is told.

    Raises `UplinkError` for certificates that cannot be used.
    """
    async with http_client(settings) as client:
        headers = {name: value() for name, value in request_headers(settings).items()}
        try:
            answer = await client.head(url, headers=headers)
        except httpx.HTTPError as error:
            return False, _unreachable(error, settings)
    return judge(answer.status_code, answer.headers, settings)


def judge(status: int, headers: Mapping[str, str], settings: ServerSettings) -> tuple[bool, str]:
    """What the answer means. Pure; names of headers in lower case."""
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if status == httpx.codes.OK and _OFFSET in headers:
        if content_type != "application/json":
            return False, (
                f"the stream holds {content_type or 'an unknown type'}, and records are application/json: give "
                "the device another stream"
            )
        return True, f"the stream is there, and ends at {headers[_OFFSET]}"
    if status == httpx.codes.NOT_FOUND and content_type != "text/html":
        if settings.create:
            return True, "the stream is not there yet: the first record makes it (server.create)"
        return False, "the stream is not there, and server.create is false: create it, or let the gateway"
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        return False, f"the server refuses the credentials (HTTP {status}): see server.token and server.headers"
    if status == httpx.codes.PROXY_AUTHENTICATION_REQUIRED:
        return False, f"the proxy wants credentials (HTTP {status}): see server.proxy"
    if httpx.codes.is_redirect(status):
        target = headers.get("location", "an unknown place")
        return False, f"HTTP {status} leads to {target!r}, and redirects are not followed: {_PORTAL}"
    if httpx.codes.is_server_error(status):
        return False, f"the server, or a proxy before it, fails (HTTP {status}): see its log, and try again"
    return False, f"HTTP {status}: {_PORTAL}"


def _unreachable(error: httpx.HTTPError, settings: ServerSettings) -> str:
    text = str(error) or type(error).__name__
    if error.__cause__ is not None and text != str(error.__cause__):
        return text  # the transport has found the cause, and says what to do
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time: see that server.url leads to it, and that no firewall is between"
    through = "" if settings.proxy is None else " through server.proxy"
    return f"cannot be reached{through}: {text}; start it, or see that server.url leads to it"
