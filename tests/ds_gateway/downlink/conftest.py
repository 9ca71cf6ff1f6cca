"""A downlink over a real server, with a device that a test speaks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from durable_streams.testing import InMemoryStreamServer
from harness.downlink_box import Device, DownlinkBox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server() -> Iterator[InMemoryStreamServer]:
    with InMemoryStreamServer() as server:
        yield server


@pytest.fixture
def device() -> Iterator[Device]:
    device = Device()
    yield device
    device.close()


@pytest.fixture
def box(tmp_path: Path, server: InMemoryStreamServer, device: Device) -> DownlinkBox:
    return DownlinkBox(tmp_path / "j", server, device)
