"""pymodbus' own server at the far end of a line of two pseudo-terminals, which the test can disturb."""

from __future__ import annotations

import asyncio
import os
import pty
import threading
import tty
from typing import TYPE_CHECKING, Self

from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType


def unit(
    number: int,
    *,
    holding: Sequence[int] = (0,),
    inputs: Sequence[int] = (0,),
    coils: Sequence[bool] = (False,),
    discrete: Sequence[bool] = (False,),
) -> SimDevice:
    """A device whose tables begin at address 0 and end where the values do."""
    return SimDevice(
        number,
        simdata=(
            [SimData(0, values=list(coils), datatype=DataType.BITS)],
            [SimData(0, values=list(discrete), datatype=DataType.BITS)],
            [SimData(0, values=list(holding), datatype=DataType.REGISTERS)],
            [SimData(0, values=list(inputs), datatype=DataType.REGISTERS)],
        ),
    )


class ModbusLine:
    """``path`` is the near end. The server runs in a thread of its own."""

    def __init__(self, path: Path, *units: SimDevice) -> None:
        self.path = path
        self.requests: list[bytes] = []
        """What was asked, as it was read."""
        self.change: Callable[[bytes], bytes] = lambda answer: answer
        """What the line makes of an answer; nothing is a device that does not answer."""
        self.echoes = False
        """Whether what is asked comes back first, as with many adapters."""
        self._units = list(units)
        self._ready = threading.Event()
        self._stop: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="modbus-line")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(20), "the server did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._thread.join()

    async def _run(self) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopping.set)
        (near, near_end), (far, far_end) = pty.openpty(), pty.openpty()
        for end in (near_end, far_end):
            tty.setraw(end)
        server = ModbusSerialServer(self._units, framer=FramerType.RTU, port=os.ttyname(far_end), baudrate=115200)
        await server.serve_forever(background=True)
        loop.add_reader(near, self._ask, near, far)
        loop.add_reader(far, self._answer, near, far)
        self.path.symlink_to(os.ttyname(near_end))
        self._ready.set()
        await stopping.wait()
        await server.shutdown()  # type: ignore[no-untyped-call]
        for descriptor in (near, far):
            loop.remove_reader(descriptor)
        for descriptor in (near, near_end, far, far_end):
            os.close(descriptor)

    def _ask(self, near: int, far: int) -> None:
        request = os.read(near, 4096)
        self.requests.append(request)
        if self.echoes:
            os.write(near, request)
        os.write(far, request)

    def _answer(self, near: int, far: int) -> None:
        os.write(near, self.change(os.read(far, 4096)))
