"""One broker, and the devices behind it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from ds_gateway.config.addresses import host_and_port, is_host_and_port
from ds_gateway.config.base import Model, NonEmpty
from ds_gateway.config.commands import CommandRate, MqttCommandSettings
from ds_gateway.config.credential import Credential
from ds_gateway.config.decoding import DecodeSettings, FieldSettings, ReportSettings, TimeSettings
from ds_gateway.config.dedupe_key import DedupeKey
from ds_gateway.config.quantities import WholeSeconds
from ds_gateway.config.server import TlsSettings
from ds_gateway.config.texts import StreamPattern


class DeviceSettings(Model):
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
    decode: DecodeSettings = Field(
        default_factory=lambda: DecodeSettings.of("json"), description="How payloads are read; default: json."
    )
    fields: dict[str, FieldSettings] | None = Field(
        None, description="Fields to keep; default: every decoded one."
    )
    drop: list[NonEmpty] = Field([], description="Fields to leave out, where fields does not say which to keep.")
    time: TimeSettings | None = Field(
        None, description="Where the payload says when it was measured; default: the time it was read."
    )
    report: ReportSettings | None = Field(None, description="Which readings become records; default: all.")
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


class MqttSettings(Model):
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
