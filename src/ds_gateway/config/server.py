"""The stream server, and the certificates of any peer."""

from __future__ import annotations

import re
from typing import Final, Self

from pydantic import Field, field_validator, model_validator

from ds_gateway.config.addresses import host_and_port, reachable_host
from ds_gateway.config.base import Model, NonEmpty
from ds_gateway.config.credential import Credential  # noqa: TC001 - a validator's signature, read by pydantic
from ds_gateway.config.names import HeaderValue, address_and_port
from ds_gateway.config.quantities import Bytes, Seconds

EMBEDDED: Final = "embedded"
"""The ``server.url`` of the server in the gateway's own process; the journal knows that server by this word."""
STREAMS_FOLDER: Final = "streams"
"""Where the embedded server keeps its streams, in the data folder."""
STREAMS_PATH: Final = "/v1/stream"
"""Where the embedded server has its streams."""


class TlsSettings(Model):
    """Certificates; PEM files, read again at each reconnect."""

    ca: NonEmpty | None = Field(
        None, description="File with the certificate authorities to trust; default: the system's."
    )
    cert: NonEmpty | None = Field(None, description="File with the client certificate.")
    key: NonEmpty | None = Field(None, description="File with the client certificate's private key.")

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together: give both or neither")
        return self


class ServerSettings(Model):
    """The stream server."""

    url: str = Field(
        description="Base URL of the streams, as in https://streams.example.com/v1/stream; or embedded: a server "
        "in this process, with its streams in data_dir."
    )
    token: HeaderValue | None = Field(
        None,
        description="Bearer token, as in ${credential:stream_token}; readers of the embedded server need it.",
    )
    headers: dict[str, HeaderValue] = Field(
        default_factory=dict, description="More headers of every request, all taken for secrets."
    )
    proxy: str | None = Field(None, repr=False, description="URL of an HTTP proxy, as http://proxy:3128.")
    tls: TlsSettings = Field(default_factory=TlsSettings, description="Certificates.")
    create: bool = Field(True, description="Create streams that do not exist yet.")
    listen: str = Field(
        "127.0.0.1:4437",
        description="IP address (or localhost) and port where others read the embedded server's "
        "streams; without a token everybody on this machine can also write and delete there.",
    )
    max_bytes: Bytes | None = Field(
        None,
        ge=1024 * 1024,
        description="Limit of the embedded server's store; default: what it has and half of what is free.",
    )
    retain_bytes: Bytes | None = Field(
        None,
        ge=1024 * 1024,
        description="The most that the embedded server keeps of a stream, the newest; 1MiB or more; default: all.",
    )
    retain_age: Seconds | None = Field(
        # A restart looks for the last batch in the stream: it must not be gone by then.
        None,
        ge=60,
        description="How long the embedded server keeps records, in time that it runs; default: for ever.",
    )

    @property
    def is_embedded(self) -> bool:
        """Whether the server runs in this process."""
        return self.url == EMBEDDED

    @property
    def base_url(self) -> str:
        """Where the streams are, for requests and for people."""
        if not self.is_embedded:
            return self.url
        host, port = host_and_port(self.listen)
        return f"http://{reachable_host(host)}:{port}{STREAMS_PATH}"

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value == EMBEDDED:
            return value
        match = re.fullmatch(r"https?://([^/\s?#@]+)(/[^\s?#\x00-\x20]*)?", value)
        if match is None:
            raise ValueError(
                "must be an http:// or https:// URL without query and fragment, or embedded; a user and password "
                "go into headers"
            )
        host_and_port(match[1])
        return value.rstrip("/")

    @field_validator("listen")
    @classmethod
    def _listen(cls, value: str) -> str:
        return address_and_port(value)

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^/\s?#]+/?", value):
            raise ValueError("a proxy is an http:// or https:// URL of a host and a port")
        return value

    @field_validator("headers")
    @classmethod
    def _headers(cls, value: dict[str, Credential]) -> dict[str, Credential]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
                raise ValueError(f"{name!r} is no header name")
            if name.lower().startswith(("producer-", "stream-", "content-", "transfer-encoding")):
                raise ValueError(f"{name} belongs to the protocol and cannot be set")
        return value

    @model_validator(mode="after")
    def _certificates(self) -> Self:
        # With the embedded server they are refused by `checks`, which says why.
        if self.tls != TlsSettings() and not self.url.startswith(("https:", EMBEDDED)):
            raise ValueError("tls is for https:// URLs")
        return self
