"""One serial port, and the device behind it, or several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import core_schema

from ds_gateway.config.base import Model, NonEmpty
from ds_gateway.config.commands import CommandRate, SerialCommandSettings
from ds_gateway.config.decoding import DecodeSettings, FieldSettings, ReportSettings, TimeSettings
from ds_gateway.config.framing import FramingSettings
from ds_gateway.config.polling import PollSettings, RequestSettings
from ds_gateway.config.quantities import Seconds
from ds_gateway.config.texts import StreamPattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

NETWORK_SCHEMES: Final = ("socket", "rfc2217")
"""Ports of another machine."""
_RFC2217_OPTIONS: Final = frozenset({"ign_set_control"})
_OF_A_DEVICE: Final = ("decode", "fields", "drop", "time", "report", "name", "max_rate", "commands", "poll")
"""What belongs to each of the ``devices``, where there are some."""
_OF_A_LINE: Final = ("baudrate", "bytesize", "parity", "stopbits")


def _stopbits(value: float) -> float:
    if value not in {1, 1.5, 2}:
        raise ValueError("must be 1, 1.5 or 2")
    return value


def _port(value: str) -> str:
    scheme, found, _ = value.partition("://")
    if not found:
        return value
    if scheme not in NETWORK_SCHEMES:
        raise ValueError("must be the path of a device, socket://HOST:PORT or rfc2217://HOST:PORT")
    try:
        url = urlsplit(value)
        is_whole = url.hostname is not None and url.port is not None and url.path in {"", "/"} and not url.fragment
    except ValueError:
        is_whole = False
    options = set(url.query.split("&")) - {""} if is_whole else set()
    if not is_whole or "@" in url.netloc:
        raise ValueError(f"must be {scheme}://HOST:PORT, with a number for the port")
    if options - (_RFC2217_OPTIONS if scheme == "rfc2217" else frozenset()):
        raise ValueError(f"must be {scheme}://HOST:PORT without {'?' + min(options)}")
    return value


class UsbNumber(str):
    """A vendor's or product's number: four hex digits, whether it was written 0403, "0403" or 0x0403."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: Any) -> Self:
        """ValueError if it is no such number."""
        text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        match = re.fullmatch(r"(?:0[xX])?([0-9a-fA-F]{1,4})", text)
        if match is None:
            raise ValueError("must be up to four hex digits, as lsusb shows them: 0403")
        return cls(match[1].lower().zfill(4))

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(cls.parse, core_schema.any_schema())

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: core_schema.CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        # An editor sees 6001 as a number.
        text = {"type": "string", "pattern": "^(0[xX])?[0-9a-fA-F]{1,4}$"}
        return {"anyOf": [text, {"type": "integer", "minimum": 0}]}


class UsbSettings(Model):
    """A USB adapter by what it says of itself, whatever socket it is in."""

    vid: UsbNumber = Field(description="Vendor, in hex as lsusb shows it: 0403.")
    pid: UsbNumber = Field(description="Product, in hex as lsusb shows it: 6001.")
    serial: NonEmpty | None = Field(
        None, description="Serial number; default: any, as long as there is one such adapter only."
    )

    def __str__(self) -> str:
        return f"usb {self.vid}:{self.pid}" + (f" {self.serial}" if self.serial else "")


class Rs485Settings(Model):
    """The driver switches the direction of an RS-485 line by RTS; an adapter that does so itself needs nothing."""

    rts_level_for_tx: bool = Field(default=True, description="Level of RTS while it sends.")
    rts_level_for_rx: bool = Field(default=False, description="Level of RTS while it receives.")
    loopback: bool = Field(default=False, description="Whether it receives what it sends.")
    delay_before_tx_seconds: Annotated[Seconds, Field(le=1)] = Field(
        0.0, description="From the switching to the first bit."
    )
    delay_before_rx_seconds: Annotated[Seconds, Field(le=1)] = Field(
        0.0, description="From the last bit to the switching back."
    )


class SerialDeviceSettings(Model):
    """One of several devices on a line."""

    name: NonEmpty = Field(description="Device name.")
    decode: DecodeSettings = Field(
        default_factory=lambda: DecodeSettings.of("text"), description="How answers are read; default: text."
    )
    fields: dict[str, FieldSettings] | None = Field(
        None, description="Fields to keep; default: every decoded one."
    )
    drop: list[NonEmpty] = Field([], description="Fields to leave out, where fields does not say which to keep.")
    time: TimeSettings | None = Field(
        None, description="Where the answer says when it was measured; default: the time it was read."
    )
    report: ReportSettings | None = Field(None, description="Which readings become records; default: all.")
    stream: StreamPattern | None = Field(
        None, description="Stream name, {gateway} and {name} allowed; default: the port's."
    )
    poll: PollSettings | None = Field(None, description="What this device is asked; default: nothing.")
    max_rate: CommandRate | None = Field(
        None, description="Most commands a second to this device; default: as they come."
    )
    commands: SerialCommandSettings | None = Field(
        None, description="How commands reach this device; default: it takes none."
    )

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.poll is None and self.commands is None:
            raise ValueError("is never asked and takes no commands: give it poll, or commands")
        if self.poll is not None:
            _check_poll(self.poll, self)
            if self.poll.unasked == "keep":
                raise ValueError("unasked: keep has no use here: nobody could tell whose readings they are")
        return self


class SerialSettings(Model):
    """One serial port; it is one device, unless it lists devices."""

    port: Annotated[str, Field(min_length=1), AfterValidator(_port)] | None = Field(
        None,
        description="Device path, best a stable one from /dev/serial/by-id; or socket://HOST:PORT, or "
        "rfc2217://HOST:PORT.",
    )
    usb: UsbSettings | None = Field(None, description="The USB adapter that is the port, instead of port.")
    baudrate: int = Field(9600, ge=50, le=4_000_000, description="Bits per second.")
    bytesize: Literal[5, 6, 7, 8] = Field(8, description="Data bits.")
    parity: Literal["none", "even", "odd", "mark", "space"] = Field("none", description="Parity.")
    stopbits: Annotated[float, AfterValidator(_stopbits)] = Field(1, description="Stop bits: 1, 1.5 or 2.")
    rs485: Rs485Settings | None = Field(
        None, description="Let the driver switch an RS-485 line; default: it is none, or switches itself."
    )
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
    poll: PollSettings | None = Field(None, description="What the device is asked; default: it speaks by itself.")
    silent_after_seconds: Annotated[Seconds, Field(ge=0.1)] | None = Field(
        None, description="From when on an open port without a frame is an alarm; default: never."
    )
    max_rate: CommandRate | None = Field(
        None, description="Most commands a second to this device; default: as they come."
    )
    commands: SerialCommandSettings | None = Field(
        None, description="How commands reach this device; default: it takes none."
    )
    devices: Annotated[list[SerialDeviceSettings], Field(min_length=1, max_length=247)] | None = Field(
        None, description="Several devices on one line, as on RS-485; default: the port is one device."
    )

    @property
    def where(self) -> str:
        """The port, as people know it."""
        return self.port if self.port is not None else str(self.usb)

    @property
    def is_network(self) -> bool:
        """Whether the port is another machine's."""
        return self.port is not None and "://" in self.port

    @model_validator(mode="after")
    def _identity(self) -> Self:
        if self.port is None and self.usb is None:
            raise ValueError("has no port: give port: /dev/serial/by-id/..., or usb: {vid: 0403, pid: 6001}")
        if self.port is not None and self.usb is not None:
            raise ValueError("has port and usb: give one of them")
        if self.is_network:
            useless = ["rs485"] if self.rs485 is not None else []
            if self.port is not None and self.port.startswith("socket://"):
                useless += [key for key in _OF_A_LINE if key in self.model_fields_set]
            if useless:
                raise ValueError(
                    f"{useless[0]} has no use with {self.port}, which sets up its line itself: remove it"
                )
        return self

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if self.devices is None:
            if self.poll is not None:
                _check_poll(self.poll, self)
            return self
        given = [key for key in _OF_A_DEVICE if key in self.model_fields_set and getattr(self, key) is not None]
        if given:
            raise ValueError(f"{given[0]} belongs to each of the devices: move it there")
        names = [device.name for device in self.devices]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two devices have the name {twice!r}: give each its own")
        return self

    def each_device(self, source: str) -> Iterator[tuple[int | None, SerialDeviceSettings]]:
        """Every device with its index in ``devices``, None where the port is one; ``stream`` is filled in."""
        for index, device in enumerate(self.devices or ()):
            yield index, device.model_copy(update={"stream": device.stream or self.stream})
        if self.devices is None:
            keys = ("decode", "fields", "drop", "time", "report", "stream", "poll", "max_rate", "commands")
            values = {key: getattr(self, key) for key in keys}
            yield None, SerialDeviceSettings.model_construct(name=self.name or source, **values)

    def asked(self, source: str) -> list[Asked]:
        """Everything that is asked on this line, in order."""
        return [
            Asked(device, request, device.poll.turnaround_seconds)
            for _, device in self.each_device(source)
            if device.poll is not None
            for request in device.poll.resolved()
        ]

    @property
    def keeps_unasked(self) -> bool:
        """Whether frames that answer nothing are readings: nothing is asked here, or the device also speaks."""
        return self.devices is None and (self.poll is None or self.poll.unasked == "keep")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to one device. Nothing in the request is left to defaults."""

    device: SerialDeviceSettings
    request: RequestSettings
    turnaround_seconds: float

    @property
    def name(self) -> str:
        """The device that the answers are readings of."""
        return self.device.name if self.request.name is None else f"{self.device.name}/{self.request.name}"

    @property
    def decode(self) -> DecodeSettings:
        """How its answers are read; those of Modbus are made JSON first."""
        if self.request.modbus is not None:
            return DecodeSettings.of("json")
        return self.device.decode if self.request.decode is None else self.request.decode

    @property
    def drop(self) -> list[str]:
        """Fields to leave out."""
        return self.device.drop

    @property
    def time(self) -> TimeSettings | None:
        """Where an answer says when it was measured."""
        return self.device.time

    @property
    def report(self) -> ReportSettings | None:
        """Which of its answers become records."""
        return self.device.report

    @property
    def fields(self) -> dict[str, FieldSettings] | None:
        """What is kept of its answers."""
        fields = self.device.fields if self.request.fields is None else self.request.fields
        if self.request.modbus is None or fields is not None:
            return fields
        return {
            each.name: FieldSettings.model_validate(
                {"from": each.name, "scale": each.scale, "offset": each.offset, "unit": each.unit}
            )
            for each in self.request.modbus.registers
        }


def _check_poll(poll: PollSettings, device: SerialSettings | SerialDeviceSettings) -> None:
    """ValueError for what a device says and its Modbus registers have no use for."""
    modbus = [each.modbus for each in poll.resolved() if each.modbus is not None]
    if modbus and "decode" in device.model_fields_set:
        raise ValueError("decode has no use with modbus, whose answers say what they are: remove it")
    scaled = [
        each.name for one in modbus for each in one.registers if {each.scale, each.offset, each.unit} != {None}
    ]
    if scaled and device.fields is not None:
        raise ValueError(
            f"the register {scaled[0]} has scale, offset or unit, and there are fields: give them in one place"
        )
