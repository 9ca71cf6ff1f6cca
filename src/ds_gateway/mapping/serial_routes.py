"""Where the frames of a port go: those that came by themselves, and the answers to each of its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds_gateway.mapping.errors import MappingError, RefusedNameError
from ds_gateway.mapping.routes import Reader, Route
from ds_gateway.mapping.streams import StreamTemplate, check_device_name

if TYPE_CHECKING:
    from ds_gateway.config.serial_port import Asked, SerialDeviceSettings, SerialSettings


def serial_routes(source_name: str, gateway_id: str, settings: SerialSettings) -> list[Route | None]:
    """The route of each `Frame.route`; the first is None where what nobody asked for is dropped.

    `MappingError` for a name, a stream or a way to read that cannot be used.
    """
    devices = list(settings.each_device(source_name))
    places = {device.name: (_place(index), _stream(index, device, gateway_id)) for index, device in devices}
    routes: list[Route | None] = [None]
    if settings.keeps_unasked:
        first = devices[0][1]
        place, stream = places[first.name]
        routes = [Route(first.name, stream, _reader(place, first))]
    for each in settings.asked(source_name):
        place, stream = places[each.device.name]
        routes.append(Route(each.name, stream, _reader(place, each)))
    return routes


def _reader(place: str, settings: SerialDeviceSettings | Asked) -> Reader:
    try:
        return Reader.of(settings)
    except MappingError as error:
        raise MappingError(str(error), key=f"{place}{error.key}") from error


def _place(index: int | None) -> str:
    return "" if index is None else f"devices.{index}."


def _stream(index: int | None, device: SerialDeviceSettings, gateway_id: str) -> str:
    place = _place(index)
    try:
        check_device_name(device.name)
    except RefusedNameError as error:
        raise MappingError(str(error), key=f"{place}name") from error
    values = {"gateway": gateway_id, "name": device.name}
    assert device.stream is not None, "each_device fills it in"
    try:
        return StreamTemplate(device.stream, tuple(values)).render(values)
    except RefusedNameError as error:
        raise MappingError(str(error), key=f"{place}stream") from error
