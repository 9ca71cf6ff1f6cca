"""One serial port, and the device behind it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ds_gateway.config.base import Model, NonEmpty
from ds_gateway.config.commands import CommandRate, SerialCommandSettings
from ds_gateway.config.decoding import DecodeSettings, FieldSettings, ReportSettings, TimeSettings
from ds_gateway.config.framing import FramingSettings
from ds_gateway.config.texts import StreamPattern


def _stopbits(value: float) -> float:
    if value not in {1, 1.5, 2}:
        raise ValueError("must be 1, 1.5 or 2")
    return value


class SerialSettings(Model):
    """One serial port; it is one device."""

    port: str = Field(min_length=1, description="Device path; best a stable one from /dev/serial/by-id.")
    baudrate: int = Field(9600, ge=50, le=4_000_000, description="Bits per second.")
    bytesize: Literal[5, 6, 7, 8] = Field(8, description="Data bits.")
    parity: Literal["none", "even", "odd", "mark", "space"] = Field("none", description="Parity.")
    stopbits: Annotated[float, AfterValidator(_stopbits)] = Field(1, description="Stop bits: 1, 1.5 or 2.")
    framing: FramingSettings = Field(default_factory=FramingSettings, description="How bytes become frames.")
    decode: DecodeSettings = Field(
        default_factory=lambda: DecodeSettings.of("text"), description="How frames are read; default: text."
    )
    fields: dict[str, FieldSettings] | None = Field(
        None, description="Fields to keep; default: every decoded one."
    )
    drop: list[NonEmpty] = Field([], description="Fields to leave out, where fields does not say which to keep.")
    time: TimeSettings | None = Field(
        None, description="Where the frame says when it was measured; default: the time it was read."
    )
    report: ReportSettings | None = Field(None, description="Which readings become records; default: all.")
    stream: StreamPattern = Field("telemetry/{gateway}", description="Stream name, {gateway} and {name} allowed.")
    name: NonEmpty | None = Field(None, description="Device name; default: the source's name.")
    max_rate: CommandRate | None = Field(
        None, description="Most commands a second to this device; default: as they come."
    )
    commands: SerialCommandSettings | None = Field(
        None, description="How commands reach this device; default: it takes none."
    )
