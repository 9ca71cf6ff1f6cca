"""Every setting of the gateway: its unit, its default and what it is for.

The models are frozen, strict and refuse unknown keys. They know nothing of files: `loader` reads YAML and the
environment, resolves ``${credential:...}`` and turns pydantic's errors into problems with file and line.

A message that begins with "must" gets the refused value appended by the loader; other messages name it
themselves. Messages never contain a secret.
"""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ds_gateway.config.addresses import (
    is_loopback,
    listening_address,
)
from ds_gateway.config.base import Model, NonEmpty
from ds_gateway.config.commands import DownlinkSettings
from ds_gateway.config.mqtt import MqttSettings
from ds_gateway.config.names import HeaderValue, Name, address_and_port
from ds_gateway.config.quantities import Bytes, Seconds
from ds_gateway.config.serial_port import SerialSettings
from ds_gateway.config.server import ServerSettings
from ds_gateway.config.texts import StreamPattern

NO_PAGE: Final = "off"
"""``status.listen`` without a page."""


class GatewaySettings(Model):
    """Who this box is."""

    id: Name = Field(
        description="Name of this gateway, frozen in the journal at the first start; default: the host name."
    )
    clock: Literal["auto", "trusted"] = Field(
        "auto",
        description="auto: records say when this machine's clock is not synchronised, and commands wait; trusted: "
        "it counts as synchronised, for machines and containers that cannot tell.",
    )
    envelope: Literal["plain", "cloudevents"] = Field(
        "plain", description="What records look like: as docs/records.md says, or CloudEvents 1.0 in JSON."
    )


class BatchSettings(Model):
    """How records are put together into one POST."""

    max_bytes: Bytes = Field(
        512 * 1024, ge=1024, le=64 * 1024 * 1024, description="Largest body of one POST, in bytes."
    )
    max_delay_seconds: Seconds = Field(0.05, le=60, description="How long records wait for company, in seconds.")
    parallel: int = Field(4, ge=1, le=64, description="Streams that send at the same time.")
    compression: Literal["none"] = Field("none", description="Compression of bodies.")


class JournalSettings(Model):
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


class ExactlyOnceSettings(Model):
    """What the uplink may do by itself."""

    recover: Literal["auto", "halt"] = Field(
        "auto", description="Repair without an operator a server that forgot, went back or has a gap; or halt."
    )
    fence_on_start: bool = Field(
        False,
        description="Claim a higher epoch and read everything back at every start: for images that may be cloned.",
    )
    read_back: bool = Field(True, description="Look into the stream before an ambiguous batch is sent again.")


class StatusSettings(Model):
    """The status page, metrics and health checks."""

    listen: str = Field(
        "127.0.0.1:8437", description="Address and port; off: there is no page, and nothing is listened on."
    )
    token: HeaderValue | None = Field(None, description="Bearer token; needed off loopback.")

    @property
    def address(self) -> tuple[str, int] | None:
        """Host (IPv6 in its brackets) and port; None: there is no page."""
        return None if self.listen == NO_PAGE else listening_address(self.listen)

    @field_validator("listen")
    @classmethod
    def _listen(cls, value: str) -> str:
        return value if value == NO_PAGE else address_and_port(value)

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if self.token is None and self.address is not None and not is_loopback(self.address[0]):
            raise ValueError(f"a page that listens on {self.listen} can be read by others: set status.token")
        return self


class HealthSettings(Model):
    """The stream that says how the gateway is."""

    enabled: bool = Field(True, description="Whether there is one.")
    stream: StreamPattern = Field("health/{gateway}", description="Its name; has {gateway} in it.")
    interval_seconds: Seconds = Field(
        300.0, ge=10, le=86400, description="How often a record comes at least, in seconds; another with a change."
    )

    def stream_name(self, gateway: str) -> str:
        """Name of the stream; empty where there is none."""
        return self.stream.replace("{gateway}", gateway) if self.enabled else ""


class LogSettings(Model):
    """Logging."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity.")
    format: Literal["auto", "logfmt", "json"] = Field(
        "auto", description="auto: logfmt on a terminal, fields for systemd's journal, else JSON."
    )


class LimitSettings(Model):
    """Captures come from outside: how many devices and streams they may make."""

    max_devices: int = Field(
        1000,
        ge=1,
        description="Most devices of one broker; messages of others go to the quarantine, with an alarm.",
    )
    max_streams: int = Field(
        200,
        ge=1,
        description="Most streams of one broker; messages for others go to the quarantine, with an alarm.",
    )


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
        description="Folder of the journal; default: $STATE_DIRECTORY, as root /var/lib/ds-gateway (with "
        "/etc/ds-gateway/NAME.yaml /var/lib/ds-gateway-NAME), otherwise ~/.local/state/ds-gateway."
    )
    server: ServerSettings = Field(description="The stream server.")
    batch: BatchSettings = Field(default_factory=BatchSettings, description="How records become POSTs.")
    journal: JournalSettings = Field(default_factory=JournalSettings, description="The disk buffer.")
    mqtt: dict[Name, MqttSettings] = Field(default_factory=dict, description="Brokers by name.")
    serial: dict[Name, SerialSettings] = Field(default_factory=dict, description="Ports by name.")
    downlink: DownlinkSettings = Field(
        default_factory=DownlinkSettings, description="Commands for devices, and their receipts."
    )
    exactly_once: ExactlyOnceSettings = Field(
        default_factory=ExactlyOnceSettings, description="What the uplink may do by itself."
    )
    status: StatusSettings = Field(default_factory=StatusSettings, description="The status page.")
    health: HealthSettings = Field(
        default_factory=HealthSettings, description="The stream that says how the gateway is."
    )
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
