"""Every setting of the gateway: its unit, its default and what it is for.

The models are frozen, strict and refuse unknown keys. They know nothing of files: `loader` reads YAML and the
environment, resolves ``${credential:...}`` and turns pydantic's errors into problems with file and line.

A message that begins with "must" gets the refused value appended by the loader; other messages name it
themselves. Messages never contain a secret.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ds_gateway.config.addresses import (
    host_and_port,
    is_host_and_port,
    is_loopback,
    listening_address,
    reachable_host,
)
from ds_gateway.config.base import Model as _Model
from ds_gateway.config.base import NonEmpty
from ds_gateway.config.commands import (
    CommandRate,
    DownlinkSettings,
    MqttCommandSettings,
    SerialCommandSettings,
)
from ds_gateway.config.credential import Credential
from ds_gateway.config.dedupe_key import DedupeKey
from ds_gateway.config.quantities import Bytes, Number, Seconds, WholeSeconds  # noqa: TC001 - read by pydantic
from ds_gateway.config.texts import StreamPattern, line_ends

EMBEDDED: Final = "embedded"
"""The ``server.url`` of the server in the gateway's own process; the journal knows that server by this word."""
STREAMS_PATH: Final = "/v1/stream"
"""Where the embedded server has its streams."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "must be 1 to 64 letters, digits, dots, underscores and hyphens, the first a letter or digit"
        )
    return value


def _header_value(value: Credential) -> Credential:
    # The HTTP library would refuse it much later, with the secret in its message.
    text = value.get()
    if not text or not text.isascii() or _CONTROL_CHARACTERS.search(text):
        raise ValueError("a header's value is not empty, and has only printable ASCII characters")
    if text != text.strip():
        # HTTP strips a header's value: the embedded server would wait for what no reader can send. Not stripped
        # here, because a changed file is read later, and because a broker's password may end with a blank.
        raise ValueError("a header's value has no blanks around it: remove them here, or in its file or variable")
    return value


def _address_and_port(value: str) -> str:
    listening_address(value)
    return value


Name = Annotated[str, AfterValidator(_name)]
HeaderValue = Annotated[Credential, AfterValidator(_header_value)]


class GatewaySettings(_Model):
    """Who this box is."""

    id: Name = Field(
        description="Name of this gateway, frozen in the journal at the first start; default: the host name."
    )


class TlsSettings(_Model):
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


class ServerSettings(_Model):
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
        return _address_and_port(value)

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


class BatchSettings(_Model):
    """How records are put together into one POST."""

    max_bytes: Bytes = Field(
        512 * 1024, ge=1024, le=64 * 1024 * 1024, description="Largest body of one POST, in bytes."
    )
    max_delay_seconds: Seconds = Field(0.05, le=60, description="How long records wait for company, in seconds.")
    parallel: int = Field(4, ge=1, le=64, description="Streams that send at the same time.")
    compression: Literal["none"] = Field("none", description="Compression of bodies.")


class JournalSettings(_Model):
    """The disk buffer."""

    max_bytes: Bytes | None = Field(
        None,
        ge=1024 * 1024,
        description="Limit of the journal; default: 2 GiB or 10 % of the file system, the smaller.",
    )
    min_free_bytes: Bytes = Field(
        256 * 1024 * 1024, description="Space left free on the file system, by the embedded server, too."
    )
    when_full: Literal["backpressure", "shed_oldest", "shed_newest"] = Field(
        "backpressure",
        description="What happens when the journal is full: the sources wait, or the oldest unsent records give "
        "way, or what comes is not kept. Each loss is told in its stream.",
    )
    max_age: Seconds | None = Field(
        None,
        ge=1,
        description="Records not sent for so long are dropped, and told as lost. Only time that the machine is "
        "known to have run counts; default: none.",
    )
    retain_bytes: Bytes = Field(64 * 1024 * 1024, description="Sent batches kept for repair, in bytes.")
    commit_interval_seconds: Seconds | None = Field(
        None,
        le=60,
        description="Least time between commits; default: self-clocking, a commit as soon as the last is done.",
    )


class FieldSettings(_Model):
    """Where one field of a record comes from: ``value = raw * scale + offset``, in decimal."""

    from_: NonEmpty | None = Field(
        None, alias="from", description="Name in the payload; default: the field's own name."
    )
    scale: Number | None = Field(None, description="Factor.")
    offset: Number | None = Field(None, description="Summand, after the factor.")
    unit: str | None = Field(None, description="Unit (UCUM), announced in the stream's device record.")


Decode = Literal["json", "text"]


class DeviceSettings(_Model):
    """A device, or a family of devices, behind an MQTT topic filter."""

    topic: str = Field(
        min_length=1,
        max_length=65535,
        description="Topic filter; {name} captures one level, a last {name...} the rest; + and # work too.",
    )
    name: NonEmpty | None = Field(
        None, description="Device name with captures; default: all captures joined by /."
    )
    stream: StreamPattern = Field("telemetry/{gateway}", description="Stream name with captures and {gateway}.")
    decode: Decode = Field("json", description="How payloads are read: json or text.")
    fields: dict[str, FieldSettings] | None = Field(
        None, description="Fields to keep; default: every decoded one."
    )
    max_rate: CommandRate | None = Field(
        None, description="Most commands a second to each of these devices; default: as they come."
    )
    commands: MqttCommandSettings | None = Field(
        None, description="How commands reach these devices; default: they take none."
    )


def _client_id(value: str) -> str:
    if not re.fullmatch(r"[!-~]{1,64}", value):
        raise ValueError("must be 1 to 64 printable ASCII characters without spaces")
    return value


def _message_id(value: str) -> str:
    DedupeKey.parse(value)
    return value


class MqttSettings(_Model):
    """One broker."""

    url: str = Field(description="mqtt://host:1883 or mqtts://host:8883.")
    version: Literal["5", "3.1.1"] = Field("5", description="MQTT version.")
    username: NonEmpty | None = Field(None, description="User name.")
    password: Credential | None = Field(None, description="Password, as in ${credential:mqtt_password}.")
    tls: TlsSettings = Field(default_factory=TlsSettings, description="Certificates.")
    client_id: Annotated[str, AfterValidator(_client_id)] | None = Field(
        None, description="Client id; default: the gateway id and six characters of the install id."
    )
    keepalive_seconds: WholeSeconds = Field(30, ge=5, le=65535, description="Keep-alive, in seconds.")
    receive_maximum: int = Field(1000, ge=1, le=65535, description="Messages not yet acknowledged (MQTT 5).")
    qos: Literal[0, 1] = Field(1, description="Quality of service of the subscriptions.")
    packet_ids: Literal["auto", "sequential", "unknown"] = Field(
        "auto", description="How the broker numbers deliveries; mosquitto and EMQX: sequential."
    )
    dedupe_key: Annotated[str, AfterValidator(_message_id)] | None = Field(
        None,
        description="Where the publisher's own message id is: a JSON pointer into the payload (/id), "
        "user_property:NAME or correlation_data. A message whose id was there before on the same topic, whatever "
        "its payload, is dropped; one without an id is taken.",
    )
    devices: list[DeviceSettings] = Field(min_length=1, description="What to subscribe to.")

    @field_validator("dedupe_key", mode="before")
    @classmethod
    def _dedupe_key(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) == 1:
            ((name, place),) = value.items()
            raise ValueError(f"is one word without a blank: write {name}:{place}")
        return value

    @field_validator("version", mode="before")
    @classmethod
    def _version(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if not separator or scheme not in {"mqtt", "mqtts"} or not is_host_and_port(rest.rstrip("/")):
            raise ValueError(
                "must be mqtt://host[:port] or mqtts://host[:port]; user and password have their own keys"
            )
        host_and_port(rest.rstrip("/"))
        return value

    @field_validator("qos", mode="before")
    @classmethod
    def _qos(cls, value: Any) -> Any:
        if value == 2:
            raise ValueError(
                "qos 2 would lose messages when the gateway is killed (the client confirms them before they are "
                "stored); use qos: 1, the broker delivers QoS 2 publications at QoS 1 then"
            )
        return value

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.tls != TlsSettings() and not self.url.startswith("mqtts:"):
            raise ValueError("tls is for mqtts:// URLs")
        if self.version == "3.1.1" and self.password is not None and self.username is None:
            raise ValueError("MQTT 3.1.1 allows no password without a username")
        if self.version == "3.1.1" and self.dedupe_key and DedupeKey.parse(self.dedupe_key).is_property:
            raise ValueError(
                f'MQTT 3.1.1 has no properties, and dedupe_key is {self.dedupe_key}: set version: "5", or take a '
                "JSON pointer into the payload"
            )
        return self


class LineSettings(_Model):
    """Frames that end with a delimiter."""

    delimiter: Annotated[str, Field(min_length=1, max_length=16)] = Field("\n", description="End of a frame.")
    max_bytes: Bytes = Field(4096, ge=1, le=1024 * 1024, description="Longest frame; a longer one is discarded.")

    @field_validator("delimiter")
    @classmethod
    def _delimiter(cls, value: str) -> str:
        return line_ends(value)


class FramingSettings(_Model):
    """How a byte stream is cut into frames."""

    line: LineSettings = Field(default_factory=LineSettings, description="Lines.")


def _stopbits(value: float) -> float:
    if value not in {1, 1.5, 2}:
        raise ValueError("must be 1, 1.5 or 2")
    return value


class SerialSettings(_Model):
    """One serial port; it is one device."""

    port: str = Field(min_length=1, description="Device path; best a stable one from /dev/serial/by-id.")
    baudrate: int = Field(9600, ge=50, le=4_000_000, description="Bits per second.")
    bytesize: Literal[5, 6, 7, 8] = Field(8, description="Data bits.")
    parity: Literal["none", "even", "odd", "mark", "space"] = Field("none", description="Parity.")
    stopbits: Annotated[float, AfterValidator(_stopbits)] = Field(1, description="Stop bits: 1, 1.5 or 2.")
    framing: FramingSettings = Field(default_factory=FramingSettings, description="How bytes become frames.")
    decode: Decode = Field("text", description="How frames are read: json or text.")
    fields: dict[str, FieldSettings] | None = Field(
        None, description="Fields to keep; default: every decoded one."
    )
    stream: StreamPattern = Field("telemetry/{gateway}", description="Stream name, {gateway} and {name} allowed.")
    name: NonEmpty | None = Field(None, description="Device name; default: the source's name.")
    max_rate: CommandRate | None = Field(
        None, description="Most commands a second to this device; default: as they come."
    )
    commands: SerialCommandSettings | None = Field(
        None, description="How commands reach this device; default: it takes none."
    )


class ExactlyOnceSettings(_Model):
    """What the uplink may do by itself."""

    recover: Literal["auto", "halt"] = Field(
        "auto", description="Repair without an operator a server that forgot, went back or has a gap; or halt."
    )
    fence_on_start: bool = Field(
        False,
        description="Claim a higher epoch and read everything back at every start: for images that may be cloned.",
    )
    read_back: bool = Field(True, description="Look into the stream before an ambiguous batch is sent again.")


class StatusSettings(_Model):
    """The status page. These settings are checked; this version does not serve the page yet."""

    listen: str = Field("127.0.0.1:8437", description="Address and port.")
    token: HeaderValue | None = Field(None, description="Bearer token; needed off loopback.")

    @field_validator("listen")
    @classmethod
    def _listen(cls, value: str) -> str:
        return _address_and_port(value)

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if self.token is None and not is_loopback(host_and_port(self.listen)[0]):
            raise ValueError(f"a page that listens on {self.listen} can be read by others: set status.token")
        return self


class LogSettings(_Model):
    """Logging."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity.")
    format: Literal["auto", "logfmt", "json"] = Field("auto", description="logfmt on a terminal, else JSON.")


class LimitSettings(_Model):
    """Captures come from outside: how many devices and streams they may make."""

    max_devices: int = Field(1000, ge=1, description="Devices.")
    max_streams: int = Field(200, ge=1, description="Streams.")


SourceName = Annotated[str, AfterValidator(_name)]


class Settings(BaseSettings):
    """The whole configuration.

    ``env_prefix`` and ``env_nested_delimiter`` say how overriding variables are called; `overrides` reads them.
    The library's own reader of the environment is switched off: it passes over misspelt variables, lowers the
    case of sources' names, and cannot tell which variable a value came from.
    """

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        hide_input_in_errors=True,
        env_prefix="DS_GATEWAY__",
        env_nested_delimiter="__",
    )

    gateway: GatewaySettings = Field(description="Who this box is; default: its host name.")
    data_dir: NonEmpty = Field(
        description="Folder of the journal; default: $STATE_DIRECTORY, as root /var/lib/ds-gateway, otherwise "
        "~/.local/state/ds-gateway."
    )
    server: ServerSettings = Field(description="The stream server.")
    batch: BatchSettings = Field(default_factory=BatchSettings, description="How records become POSTs.")
    journal: JournalSettings = Field(default_factory=JournalSettings, description="The disk buffer.")
    mqtt: dict[SourceName, MqttSettings] = Field(default_factory=dict, description="Brokers by name.")
    serial: dict[SourceName, SerialSettings] = Field(default_factory=dict, description="Ports by name.")
    downlink: DownlinkSettings = Field(
        default_factory=DownlinkSettings, description="Commands for devices, and their receipts."
    )
    exactly_once: ExactlyOnceSettings = Field(
        default_factory=ExactlyOnceSettings, description="What the uplink may do by itself."
    )
    status: StatusSettings = Field(default_factory=StatusSettings, description="The status page.")
    log: LogSettings = Field(default_factory=LogSettings, description="Logging.")
    limits: LimitSettings = Field(default_factory=LimitSettings, description="Bounds of what captures make.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the loader gives: it has merged the file and the environment already."""
        return (init_settings,)
