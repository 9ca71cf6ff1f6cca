"""Every setting of the gateway: its unit, its default and what it is for.

The models are frozen and refuse unknown keys. They know nothing of files: `loader` reads YAML and the
environment, resolves ``${credential:...}`` and turns pydantic's errors into problems with file and line.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kKMGT]i?)?[bB]?\s*$")
_SIZE_UNITS = {
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?\s*$")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def _size(value: Any) -> Any:
    if isinstance(value, str):
        match = _SIZE.match(value)
        if match is None:
            raise ValueError("a size is a number of bytes, or a number with kB, MB, GB, KiB, MiB or GiB")
        return int(float(match[1]) * _SIZE_UNITS.get((match[2] or "").lower(), 1))
    return value


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        match = _DURATION.match(value)
        if match is None:
            raise ValueError("a duration is a number of seconds, or a number with ms, s, m, h or d")
        return float(match[1]) * _DURATION_UNITS.get(match[2] or "s", 1.0)
    return value


Bytes = Annotated[int, BeforeValidator(_size), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(_duration), Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class GatewaySettings(_Model):
    """Who this box is."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = Field(
        description="Name of this gateway, frozen in the journal at the first start; default: the host name."
    )


class TlsSettings(_Model):
    """Certificates; PEM files, read again at each reconnect."""

    ca: str | None = Field(
        None, description="File with the certificate authorities to trust; default: the system's."
    )
    cert: str | None = Field(None, description="File with the client certificate.")
    key: str | None = Field(None, description="File with the client certificate's private key.")

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together: give both or neither")
        return self


class ServerSettings(_Model):
    """The stream server."""

    url: str = Field(description="Base URL of the streams, as in https://streams.example.com/v1/stream.")
    token: SecretStr | None = Field(None, description="Bearer token, as in ${credential:stream_token}.")
    headers: dict[str, SecretStr] = Field(default_factory=dict, description="More headers of every request.")
    proxy: str | None = Field(None, description="HTTP proxy URL.")
    tls: TlsSettings = Field(default_factory=TlsSettings, description="Certificates.")
    create: bool = Field(True, description="Create streams that do not exist yet.")

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not re.match(r"^https?://[^/\s?#]+(/[^\s?#]*)?$", value):
            raise ValueError("must be an http:// or https:// URL without query and fragment")
        return value.rstrip("/")


class BatchSettings(_Model):
    """How records are put together into one POST."""

    max_bytes: Bytes = Field(512 * 1024, ge=1024, description="Largest body of one POST, in bytes.")
    max_delay_seconds: Seconds = Field(
        0.05, description="How long records wait for company while others are sent."
    )
    parallel: int = Field(4, ge=1, le=64, description="Streams that send at the same time.")
    compression: Literal["none"] = Field("none", description="Compression of bodies.")


class JournalSettings(_Model):
    """The disk buffer."""

    max_bytes: Bytes | None = Field(
        None,
        ge=1024 * 1024,
        description="Limit of the journal; default: 2 GiB or 10 % of the file system, the smaller.",
    )
    min_free_bytes: Bytes = Field(256 * 1024 * 1024, description="Space left free on the file system.")
    when_full: Literal["backpressure"] = Field(
        "backpressure", description="What happens when the journal is full."
    )
    retain_bytes: Bytes = Field(64 * 1024 * 1024, description="Sent batches kept for repair, in bytes.")
    commit_interval_seconds: Seconds | None = Field(
        None,
        description="Least time between commits; default: self-clocking, a commit as soon as the last is done.",
    )


class FieldSettings(_Model):
    """Where one field of a record comes from: ``value = raw * scale + offset``, in decimal."""

    from_: str | None = Field(
        None, alias="from", description="Name in the payload; default: the field's own name."
    )
    scale: float | int | None = Field(None, description="Factor.")
    offset: float | int | None = Field(None, description="Summand, after the factor.")
    unit: str | None = Field(None, description="Unit (UCUM), announced in the stream's device record.")


_NAMES_IN_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def _stream_pattern(value: str) -> str:
    for part in value.split("/"):
        if part in {"", ".", ".."}:
            raise ValueError("a stream name has no empty part, no '.' and no '..'")
    if re.search(r"[\s?#%\\\x00-\x1f]", value):
        raise ValueError("a stream name has no spaces and none of ? # % \\")
    return value


StreamPattern = Annotated[str, AfterValidator(_stream_pattern)]


class DecodeSettings(_Model):
    """How bytes become fields, when a bare word is not enough."""

    text: dict[str, Any] | None = Field(None, description="The frame as text: one field named value.")


Decode = Literal["json", "text"]


class DeviceSettings(_Model):
    """A device, or a family of devices, behind an MQTT topic filter."""

    topic: str = Field(
        min_length=1,
        max_length=65535,
        description="Topic filter; {name} captures one level, a last {name...} the rest; + and # work too.",
    )
    name: str | None = Field(
        None, description="Device name with captures; default: all captures joined by /."
    )
    stream: StreamPattern = Field(
        "telemetry/{gateway}", description="Stream name with captures and {gateway}."
    )
    decode: Decode = Field("json", description="How payloads are read: json or text.")
    fields: dict[str, FieldSettings] | None = Field(
        None, description="Fields to keep; default: every decoded one."
    )


class MqttSettings(_Model):
    """One broker."""

    url: str = Field(description="mqtt://host:1883 or mqtts://host:8883.")
    version: Literal["5", "3.1.1"] = Field("5", description="MQTT version.")
    username: str | None = Field(None, description="User name.")
    password: SecretStr | None = Field(None, description="Password, as in ${credential:mqtt_password}.")
    tls: TlsSettings = Field(default_factory=TlsSettings, description="Certificates.")
    client_id: Annotated[str, Field(pattern=r"^[!-~]{1,64}$")] | None = Field(
        None, description="Client id; default: the gateway id and six characters of the install id."
    )
    keepalive_seconds: Annotated[int, BeforeValidator(_duration), Field(ge=5, le=65535)] = Field(
        30, description="Keep-alive, in seconds."
    )
    receive_maximum: int = Field(1000, ge=1, le=65535, description="Messages not yet acknowledged (MQTT 5).")
    qos: Literal[0, 1] = Field(1, description="Quality of service of the subscriptions.")
    packet_ids: Literal["auto", "sequential", "unknown"] = Field(
        "auto", description="How the broker numbers deliveries; mosquitto and EMQX: sequential."
    )
    devices: list[DeviceSettings] = Field(min_length=1, description="What to subscribe to.")

    @field_validator("version", mode="before")
    @classmethod
    def _version(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        match = re.match(r"^mqtts?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?/?$", value)
        if match is None:
            raise ValueError(
                "must be mqtt://host[:port] or mqtts://host[:port]; user and password have their own keys"
            )
        host = match[1]
        if not host.startswith("[") and any(
            not 0 < len(label) <= 63 for label in host.rstrip(".").split(".")
        ):
            # paho's network thread dies silently of a UnicodeError on such a host.
            raise ValueError(f"{host!r} is no host name: each part between dots has 1 to 63 characters")
        if match[2] and not 0 < int(match[2][1:]) < 65536:
            raise ValueError("the port is a number from 1 to 65535")
        return value

    @field_validator("qos", mode="before")
    @classmethod
    def _qos(cls, value: Any) -> Any:
        if value == 2 and not isinstance(value, bool):
            raise ValueError(
                "qos 2 would lose messages when the gateway is killed (the client confirms them before they are "
                "stored); use qos: 1, the broker delivers QoS 2 publications at QoS 1 then"
            )
        return value


class LineSettings(_Model):
    """Frames that end with a delimiter."""

    delimiter: Annotated[str, Field(min_length=1, max_length=16)] = Field("\n", description="End of a frame.")
    max_bytes: Bytes = Field(
        4096, ge=1, le=1024 * 1024, description="Longest frame; a longer one is discarded."
    )


class FramingSettings(_Model):
    """How a byte stream is cut into frames."""

    line: LineSettings = Field(default_factory=LineSettings, description="Lines.")


class SerialSettings(_Model):
    """One serial port; it is one device."""

    port: str = Field(min_length=1, description="Device path; best a stable one from /dev/serial/by-id.")
    baudrate: int = Field(9600, ge=50, le=4_000_000, description="Bits per second.")
    bytesize: Literal[5, 6, 7, 8] = Field(8, description="Data bits.")
    parity: Literal["none", "even", "odd", "mark", "space"] = Field("none", description="Parity.")
    stopbits: Literal[1, 1.5, 2] = Field(1, description="Stop bits.")
    framing: FramingSettings = Field(default_factory=FramingSettings, description="How bytes become frames.")
    decode: Decode = Field("text", description="How frames are read: json or text.")
    fields: dict[str, FieldSettings] | None = Field(
        None, description="Fields to keep; default: every decoded one."
    )
    stream: StreamPattern = Field(
        "telemetry/{gateway}", description="Stream name, {gateway} and {name} allowed."
    )
    name: str | None = Field(None, description="Device name; default: the source's name.")


class ExactlyOnceSettings(_Model):
    """What the uplink may do by itself."""

    recover: Literal["auto", "halt"] = Field(
        "auto", description="Repair without an operator where that is safe."
    )
    fence_on_start: bool = Field(False, description="Claim a new epoch and read back at every start.")
    read_back: bool = Field(True, description="Look into the stream before an ambiguous batch is sent again.")


class StatusSettings(_Model):
    """The status page."""

    listen: str = Field("127.0.0.1:8437", description="Address and port.")
    token: SecretStr | None = Field(None, description="Bearer token; needed off loopback.")


class LogSettings(_Model):
    """Logging."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity.")
    format: Literal["auto", "logfmt", "json"] = Field("auto", description="logfmt on a terminal, else JSON.")


class LimitSettings(_Model):
    """Captures come from outside: how many devices and streams they may make."""

    max_devices: int = Field(1000, ge=1, description="Devices.")
    max_streams: int = Field(200, ge=1, description="Streams.")


SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Settings(_Model):
    """The whole configuration."""

    gateway: GatewaySettings
    data_dir: str = Field(description="Where the journal lives.")
    server: ServerSettings
    batch: BatchSettings = Field(default_factory=BatchSettings)
    journal: JournalSettings = Field(default_factory=JournalSettings)
    mqtt: dict[SourceName, MqttSettings] = Field(default_factory=dict)
    serial: dict[SourceName, SerialSettings] = Field(default_factory=dict)
    exactly_once: ExactlyOnceSettings = Field(default_factory=ExactlyOnceSettings)
    status: StatusSettings = Field(default_factory=StatusSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
