"""Modbus RTU: registers as requests, and their answers as one JSON object. Without I/O.

pymodbus builds the requests and reads the answers; its clients, which want a port of their own, are not used. The
end of an answer is known by the length that the request makes it have, and by its checksum: pauses on the line are
not to be relied on in user space. What comes before it, as an echo of the request, is skipped.

The only importer of pymodbus, whose names change with its minor versions: `pyproject.toml` holds it to one.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
from pymodbus.constants import ExcCodes
from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest

from ds_gateway.framing.framer import Counters
from ds_gateway.serial_port.exchange import Answer, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pymodbus.pdu import ModbusPDU

    from ds_gateway.config.polling import ModbusSettings, RegisterSettings

_REQUESTS: Final[dict[str, type[ModbusPDU]]] = {
    "holding": ReadHoldingRegistersRequest,
    "input": ReadInputRegistersRequest,
    "coil": ReadCoilsRequest,
    "discrete": ReadDiscreteInputsRequest,
}
_TABLES: Final = {
    "holding": "holding register",
    "input": "input register",
    "coil": "coil",
    "discrete": "discrete input",
}
_MAX_BITS: Final = 2000
_HEAD_BYTES: Final = 2
"""Unit and function."""
_CHECK_BYTES: Final = 2
REQUEST_BYTES: Final = 8
_EXCEPTION_BYTES: Final = 5
_IS_EXCEPTION: Final = 0x80
_CODES: Final = {"u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q", "f32": "f", "f64": "d"}

_rtu = FramerRTU(DecodePDU(is_server=False))


@dataclass(frozen=True, slots=True)
class Batch:
    """Registers that are read with one request."""

    function: str
    address: int
    count: int
    registers: Sequence[RegisterSettings]

    @property
    def name(self) -> str:
        """What is read, for people."""
        last = self.address + self.count - 1
        table = _TABLES[self.function]
        return f"{table}s {self.address} to {last}" if last > self.address else f"{table} {last}"

    @property
    def byte_count(self) -> int:
        """Of the values in the answer."""
        is_bits = self.function in {"coil", "discrete"}
        return (self.count + 7) // 8 if is_bits else 2 * self.count


def batches(settings: ModbusSettings) -> list[Batch]:
    """The fewest requests that read all registers, as far as merging is allowed."""
    found: list[Batch] = []
    for function in _REQUESTS:
        limit = _MAX_BITS if function in {"coil", "discrete"} else settings.max_registers
        mine = [each for each in settings.registers if each.function == function]
        group: list[RegisterSettings] = []
        end = 0
        for register in sorted(mine, key=lambda each: (each.address, each.count)):
            after = max(end, register.address + register.count)
            fits = group and register.address <= end + settings.gap and after - group[0].address <= limit
            if not (fits and settings.merge):
                found += _batch(function, group, end)
                group, after = [], register.address + register.count
            group.append(register)
            end = after
        found += _batch(function, group, end)
    return found


def _batch(function: str, group: list[RegisterSettings], end: int) -> list[Batch]:
    return [Batch(function, group[0].address, end - group[0].address, tuple(group))] if group else []


def requests(
    settings: ModbusSettings,
    *,
    turnaround_seconds: float,
    timeout_seconds: float,
    retries: int,
    write_seconds: float,
) -> tuple[list[Request], Callable[[Sequence[bytes]], bytes]]:
    """The requests for all registers, and what makes one JSON object of their answers."""
    all_batches = batches(settings)
    made: list[Request] = []
    for batch in all_batches:
        pdu = _REQUESTS[batch.function](dev_id=settings.unit, address=batch.address, count=batch.count)
        made.append(
            Request(
                _rtu.buildFrame(pdu),
                matcher=_answer,
                turnaround_seconds=turnaround_seconds,
                timeout_seconds=timeout_seconds,
                retries=retries,
                write_seconds=write_seconds,
                framer=ResponseFramer(settings.unit, pdu.function_code, batch.byte_count),
                name=batch.name,
            )
        )
    order = {register.name: index for index, register in enumerate(settings.registers)}

    def join(frames: Sequence[bytes]) -> bytes:
        values: dict[str, Any] = {}
        for batch, frame in zip(all_batches, frames, strict=True):
            values.update(_values(batch, _decode(frame)))
        return orjson.dumps(dict(sorted(values.items(), key=lambda item: order[item[0]])))

    return made, join


def _decode(frame: bytes) -> ModbusPDU:
    pdu = _rtu.decoder.decode(frame[1:-_CHECK_BYTES])
    assert pdu is not None, "the framer gives sound answers only"
    return pdu


def _answer(frame: bytes, _start: int) -> Answer | None:
    pdu = _decode(frame)
    if not pdu.isError():
        return Answer("", is_error=False)
    try:
        name = ExcCodes(pdu.exception_code).name.replace("UNAVIABLE", "UNAVAILABLE").lower().replace("_", " ")
    except ValueError:
        name = "an exception that the standard does not know"
    return Answer(f"the device says {name} (exception {pdu.exception_code})", is_error=True)


def _values(batch: Batch, pdu: ModbusPDU) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for register in batch.registers:
        first = register.address - batch.address
        if register.is_bit:
            values[register.name] = pdu.bits[first]
        else:
            values[register.name] = _number(register, pdu.registers[first : first + register.count])
    return values


def _number(register: RegisterSettings, words: Sequence[int]) -> int | float | None:
    if register.order in {"little", "word_swapped"}:
        words = words[::-1]
    layout = "<" if register.order in {"little", "byte_swapped"} else ">"
    data = b"".join(struct.pack(f"{layout}H", word) for word in words)
    (number,) = struct.unpack(f">{_CODES[register.kind]}", data)
    if not isinstance(number, float):
        return int(number)
    if not math.isfinite(number):
        return None  # a device says with it that there is no reading, and JSON has no word for it
    return _shortest(number, data) if register.kind == "f32" else number


def _shortest(number: float, data: bytes) -> float:
    """230.1 and not 230.10000610351562: the number with the fewest digits that has these four bytes."""
    for digits in (6, 7, 8):
        shorter = float(f"{number:.{digits}g}")
        if struct.pack(">f", shorter) == data:
            return shorter
    return float(f"{number:.9g}")


class ResponseFramer(Counters):
    """Finds one answer in the bytes that come: of that unit, to that function, of that length.

    Satisfies `ds_gateway.framing.Framer`; holds less than one answer (256 bytes).
    """

    def __init__(self, unit: int, function: int, byte_count: int) -> None:
        super().__init__()
        self._unit = unit
        self._function = function
        self._byte_count = byte_count
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an unfinished answer held now."""
        return len(self._buffer)

    @property
    def begun_bytes(self) -> int:
        """Bytes that the answer begins with, as it seems."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came and return the answers that they complete."""
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        at = 0
        while at < len(buffer):
            size = self._size(buffer, at)
            if size == 0:
                at += 1
            elif len(buffer) - at < size:
                break
            elif self._is_sound(buffer[at : at + size]):
                frames.append(bytes(buffer[at : at + size]))
                at += size
            else:
                self.bad_checks += 1
                at += 1
        del buffer[:at]
        return frames

    def reset(self, *, discard_to_boundary: bool) -> None:  # noqa: ARG002 - an answer finds itself
        """Forget what was read."""
        self._buffer.clear()

    def _size(self, buffer: bytearray, at: int) -> int:
        """How many bytes an answer has that begins there, as far as that can be seen; 0: none begins there."""
        if buffer[at] != self._unit:
            return 0
        if len(buffer) - at < _HEAD_BYTES:
            return _HEAD_BYTES
        if buffer[at + 1] == self._function | _IS_EXCEPTION:
            return _EXCEPTION_BYTES
        if buffer[at + 1] != self._function:
            return 0
        if len(buffer) - at > _HEAD_BYTES and buffer[at + _HEAD_BYTES] != self._byte_count:
            return 0
        return _HEAD_BYTES + 1 + self._byte_count + _CHECK_BYTES

    @staticmethod
    def _is_sound(frame: bytearray) -> bool:
        return FramerRTU.check_CRC(bytes(frame[:-_CHECK_BYTES]), int.from_bytes(frame[-_CHECK_BYTES:], "big"))
