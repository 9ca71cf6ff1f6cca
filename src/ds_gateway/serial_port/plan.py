"""From the settings of a port to what it asks by itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ds_gateway.serial_port.exchange import Request, any_matcher
from ds_gateway.serial_port.orders import writing_seconds
from ds_gateway.serial_port.polls import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ds_gateway.config.serial_port import Asked, SerialSettings

_MODBUS_SILENT_CHARACTERS: Final = 3.5
_MODBUS_SILENT_SECONDS: Final = 0.00175
"""Above 19200 baud it is a fixed time."""
_MODBUS_FAST_BAUD: Final = 19200
_BITS_PER_CHARACTER: Final = 11


def jobs(source: str, settings: SerialSettings) -> list[Job]:
    """What the port asks, in the order of the settings."""
    return [_job(index + 1, asked, settings) for index, asked in enumerate(settings.asked(source))]


def _job(route: int, asked: Asked, settings: SerialSettings) -> Job:
    request = asked.request
    assert request.interval_seconds is not None, "resolved"
    assert request.timeout_seconds is not None, "resolved"
    assert request.retries is not None, "resolved"
    if request.modbus is not None:
        # Only who has Modbus pays for this import, which takes a tenth of a second and some megabytes.
        from ds_gateway.serial_port import modbus  # noqa: PLC0415

        requests, join = modbus.requests(
            request.modbus,
            turnaround_seconds=max(asked.turnaround_seconds, _modbus_silence(settings.baudrate)),
            timeout_seconds=request.timeout_seconds,
            retries=request.retries,
            write_seconds=writing_seconds(modbus.REQUEST_BYTES, settings.baudrate),
        )
        return Job(f"{asked.name}, unit {request.modbus.unit}", route, requests, request.interval_seconds, join)
    pattern = None if request.reply is None else re.compile(request.reply)
    one = Request(
        request.data,
        matcher=any_matcher(request.data, pattern),
        turnaround_seconds=asked.turnaround_seconds,
        timeout_seconds=request.timeout_seconds,
        retries=request.retries,
        write_seconds=writing_seconds(len(request.data), settings.baudrate),
        name=_shown(request.write or request.hex or ""),
    )
    return Job(asked.name, route, [one], request.interval_seconds, _only)


def _only(frames: Sequence[bytes]) -> bytes:
    (frame,) = frames
    return frame


def _shown(text: str) -> str:
    shown = repr(text.strip())[1:-1]
    return shown if len(shown) <= 40 else f"{shown[:40]}..."


def _modbus_silence(baudrate: int) -> float:
    """How long the line is silent between two frames, at least."""
    if baudrate > _MODBUS_FAST_BAUD:
        return _MODBUS_SILENT_SECONDS
    return _MODBUS_SILENT_CHARACTERS * _BITS_PER_CHARACTER / baudrate
