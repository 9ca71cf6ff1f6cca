"""Serial ports: opened and configured by pyserial, read on their descriptor, one thread each."""

from __future__ import annotations

from ds_gateway.serial_port.port import Port, open_port
from ds_gateway.serial_port.snapshot import SerialSnapshot
from ds_gateway.serial_port.source import SerialSource

__all__ = ["Port", "SerialSnapshot", "SerialSource", "open_port"]
