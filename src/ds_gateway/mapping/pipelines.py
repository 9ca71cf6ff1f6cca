"""What a source's thread calls for each message or frame: bytes in, `Record` or `Rejected` out.

None comes out for what was read and is not reported: the source acknowledges it as if it were a record.

A pipeline belongs to one thread; only ``devices()`` may be called from others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import orjson

from ds_gateway.decoding import MAX_PAYLOAD_BYTES, Report, UndecodableError
from ds_gateway.mapping.errors import RefusedNameError
from ds_gateway.mapping.routes import Reader, Route, RouteTable, compile_rules, subscriptions
from ds_gateway.mapping.serial_routes import serial_routes
from ds_gateway.records import Frame, Record, Rejected, received_member, telemetry_prefix, telemetry_tail_after
from ds_gateway.timekeeping import UNWATCHED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ds_gateway.config.decoding import ReportSettings
    from ds_gateway.config.models import LimitSettings
    from ds_gateway.config.mqtt import DeviceSettings
    from ds_gateway.config.serial_port import SerialSettings
    from ds_gateway.records import Envelope
    from ds_gateway.timekeeping import WallClock

MAX_KEPT_READING_BYTES: Final = 4096
"""Largest last reading that is kept for ``status``: every device holds one in memory."""

MAX_KEPT_RAW_BYTES: Final = 64 * 1024
"""What is kept for the quarantine of a payload that was refused for its size."""

_MAX_SHOWN_TOPIC: Final = 256


@dataclass(frozen=True, slots=True)
class LastReading:
    """The newest reading of a device, for ``status``.

    ``time_ns`` (UTC, nanoseconds since 1970) and ``data`` (a JSON object) are None before the first reading;
    ``data`` is None too if it was larger than `MAX_KEPT_READING_BYTES`. ``units`` are by field.
    """

    device: str
    stream: str
    time_ns: int | None
    data: bytes | None
    units: Mapping[str, str]
    count: int
    rejected: int
    """Payloads since the start that did not become a reading; they are in the quarantine."""
    last_rejection: str = ""
    """Why the last one did not."""
    suppressed: int = 0
    """Readings since the start that were not reported: no change, or one more than the sampling takes."""
    untimed: int = 0
    """Readings since the start whose own time could not be read; they have the time of their reception."""
    last_untimed: str = ""
    """Why that of the last one could not."""


@dataclass(frozen=True, slots=True)
class _Making:
    """What all records of a pipeline are made with."""

    clock: WallClock
    monotonic: Callable[[], float]
    envelope: Envelope
    reports_all: bool = False
    """Whether ``report`` does not count."""


class _Device:
    """What is kept of a device. Written by the pipeline's thread; `_last` and `_fields` are replaced whole."""

    __slots__ = (
        "_about",
        "_clock",
        "_count",
        "_fields",
        "_last",
        "_last_rejection",
        "_last_untimed",
        "_monotonic",
        "_prefix",
        "_rejected",
        "_report",
        "_reports_all",
        "_route",
        "_suppressed",
        "_untimed",
    )

    def __init__(self, route: Route, gateway_id: str, making: _Making) -> None:
        self._route = route
        self._clock = making.clock
        self._monotonic = making.monotonic
        # Several entries may make one device: what each of them reports is decided by itself.
        self._report: dict[Reader, Report] = {}
        self._reports_all = making.reports_all
        self._prefix = telemetry_prefix(gateway=gateway_id, device=route.device, envelope=making.envelope)
        self._last: tuple[int | None, bytes | None] = (None, None)
        self._fields = route.reader.fields
        self._about = _about(self._fields)
        self._count = 0
        self._rejected = 0
        self._last_rejection = ""
        self._suppressed = 0
        self._untimed = 0
        self._last_untimed = ""

    def read(self, source: str, route: Route, payload: bytes, time_ns: int) -> Record | Rejected | None:
        reader = route.reader
        measured_ns: int | None = None
        try:
            if reader.decode_timed is None:
                data = reader.decode(payload)
            else:
                data, measured_ns, problem = reader.decode_timed(payload)
                if problem:
                    self._untimed += 1
                    self._last_untimed = problem
        except UndecodableError as error:
            self._rejected += 1
            self._last_rejection = str(error)
            return _rejected(source, route.device, str(error), payload, time_ns)
        if reader.fields is not self._fields:
            self._learn(reader.fields)
        if not data:
            self._suppressed += 1
            return None
        self._last = (measured_ns or time_ns, data if len(data) <= MAX_KEPT_READING_BYTES else None)
        wants = self._reports_all or reader.report is None or self._wants(reader, reader.report, data)
        if not wants:
            self._suppressed += 1
            return None
        self._count += 1
        clock, said = self._clock.stamp()
        if measured_ns is None:
            tail = telemetry_tail_after(self._prefix, time_ns, data, said)
        else:
            tail = telemetry_tail_after(self._prefix, measured_ns, data, received_member(time_ns) + said)
        return Record(route.stream, route.device, tail, self._about, clock)

    def _wants(self, reader: Reader, settings: ReportSettings, data: bytes) -> bool:
        report = self._report.get(reader)
        if report is None:
            report = self._report[reader] = Report(settings)
        return report.wants(data, self._monotonic())

    def forget_reports(self) -> None:
        """Whatever comes next is reported."""
        self._report.clear()

    def _learn(self, fields: Mapping[str, str | None]) -> None:
        """Several entries may make one device: it has the fields of all, and is not announced at each change."""
        if not fields.keys() <= self._fields.keys():
            self._fields = {**fields, **self._fields}
            self._about = _about(self._fields)

    def last_reading(self) -> LastReading:
        time_ns, data = self._last
        return LastReading(
            device=self._route.device,
            stream=self._route.stream,
            time_ns=time_ns,
            data=data,
            units={name: unit for name, unit in self._fields.items() if unit is not None},
            count=self._count,
            rejected=self._rejected,
            last_rejection=self._last_rejection,
            suppressed=self._suppressed,
            untimed=self._untimed,
            last_untimed=self._last_untimed,
        )


class MqttPipeline:
    """Messages of one broker. The constructor raises `MappingError` (a ValueError) for a wrong device.

    ``monotonic`` gives seconds and never goes back: intervals between reports are measured with it.
    ``reports_all``: ``report`` does not count, because what is read is not what came one after the other.
    """

    def __init__(
        self,
        source_name: str,
        gateway_id: str,
        devices: Sequence[DeviceSettings],
        limits: LimitSettings,
        clock: WallClock = UNWATCHED,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        envelope: Envelope = "plain",
        reports_all: bool = False,
    ) -> None:
        rules = compile_rules(devices, gateway_id)
        self.filters = subscriptions(rules)
        """What to subscribe to: no filter twice, and none that another one contains."""
        self._source = source_name
        self._gateway_id = gateway_id
        self._making = _Making(clock, monotonic, envelope, reports_all)
        self._routes = RouteTable(rules, limits)
        self._devices: dict[str, _Device] = {}

    def __call__(self, topic: str, payload: bytes, time_ns: int) -> Record | Rejected | None:
        """The record of a message received at ``time_ns``, or why it is none; None if it is not reported."""
        made = self._read(topic, payload, time_ns)
        # With its topic it can be read again under another configuration.
        return replace(made, topic=topic) if isinstance(made, Rejected) else made

    def _read(self, topic: str, payload: bytes, time_ns: int) -> Record | Rejected | None:
        try:
            route = self._routes.route(topic)
        except RefusedNameError as error:
            shown = ascii(topic[:_MAX_SHOWN_TOPIC])[1:-1]
            return _rejected(self._source, shown, f"topic {shown}: {error}", payload, time_ns)
        device = self._devices.get(route.device)
        if device is None:
            device = self._devices[route.device] = _Device(route, self._gateway_id, self._making)
        return device.read(self._source, route, payload, time_ns)

    @property
    def alarms(self) -> tuple[str, ...]:
        """What an operator must see to. Any thread."""
        count, why = self._routes.beyond
        if not count:
            return ()
        way_out = "raise the limit, or let the topic filters take fewer"
        return (f"{count} messages are in the quarantine, because {why}: {way_out}",)

    def forget_reports(self, devices: Collection[str] | None = None) -> None:
        """Records of these devices (None: of any) were dropped: what was reported last is not known any more."""
        for name in self._devices if devices is None else devices:
            if name in self._devices:
                self._devices[name].forget_reports()

    def devices(self) -> dict[str, LastReading]:
        """Last reading of each device seen since the start, by its name. Any thread."""
        # dict.copy is one step under the interpreter lock, so a device that appears meanwhile does no harm.
        return {name: device.last_reading() for name, device in self._devices.copy().items()}


class SerialPipeline:
    """Frames of one port, of its device or of several. `MappingError` from the constructor if it is wrong."""

    def __init__(
        self,
        source_name: str,
        gateway_id: str,
        settings: SerialSettings,
        clock: WallClock = UNWATCHED,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        envelope: Envelope = "plain",
        reports_all: bool = False,
    ) -> None:
        self._source = source_name
        self._routes = serial_routes(source_name, gateway_id, settings)
        making = _Making(clock, monotonic, envelope, reports_all)
        self._devices: dict[str, _Device] = {}
        for route in filter(None, self._routes):
            self._devices.setdefault(route.device, _Device(route, gateway_id, making))

    def __call__(self, frame: Frame) -> Record | Rejected | None:
        """The record of a frame, or why it is none; None if it is not reported."""
        route = self._routes[frame.route]
        assert route is not None, "what nobody asked for is dropped where there is no route for it"
        return self._devices[route.device].read(self._source, route, frame.data, frame.time_ns)

    def again(self, device: str, payload: bytes, time_ns: int) -> Record | Rejected | None:
        """What a frame becomes now that was refused as that device's: nobody knows any more what it answered.

        So all ways to read this device are tried. If there is none of this name any more, the port's device has
        another name now; where the port has several, nobody can say whose reading it would be.
        """
        routes = [(number, route.device) for number, route in enumerate(self._routes) if route is not None]
        names = {name for _, name in routes}
        if device not in names and len(names) == 1:
            (device,) = names
        numbers = [number for number, name in routes if name == device]
        reason = "nothing is read here any more"
        if names and device not in names:
            reason = f"none of the devices here ({', '.join(sorted(names))}) has this name any more"
        outcome: Record | Rejected | None = _rejected(self._source, device, reason, payload, time_ns)
        for number in numbers:
            outcome = self(Frame(payload, time_ns, number))
            if not isinstance(outcome, Rejected):
                break
        return outcome

    @property
    def alarms(self) -> tuple[str, ...]:
        """None: what is wrong with a port its source knows."""
        return ()

    def forget_reports(self) -> None:
        """Records were dropped: what was reported last is not known any more."""
        for device in self._devices.values():
            device.forget_reports()

    def devices(self) -> dict[str, LastReading]:
        """Last reading of each device, by its name. Any thread."""
        return {name: device.last_reading() for name, device in self._devices.items()}


def _about(fields: Mapping[str, str | None]) -> bytes:
    """What the device's ``device`` record says; nothing where the configuration lists no fields."""
    if not fields:
        return b""
    described = {name: {} if unit is None else {"unit": unit} for name, unit in sorted(fields.items())}
    return orjson.dumps({"fields": described})


def _rejected(source: str, device: str, reason: str, payload: bytes, time_ns: int) -> Rejected:
    raw = payload
    if len(payload) > MAX_PAYLOAD_BYTES:
        raw = payload[:MAX_KEPT_RAW_BYTES]
        reason = f"{reason}; the first {MAX_KEPT_RAW_BYTES} bytes are kept"
    return Rejected(source=source, device=device, reason=reason, raw=raw, time_ns=time_ns)
