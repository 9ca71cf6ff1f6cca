"""SIGKILL under load: what was acknowledged is there, once and in order."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import httpx
import orjson
import pytest

from harness import plain_http
from harness.ports import free_port
from harness.processes import Processes, console_script
from harness.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from harness.processes import ChildProcess

STREAMS = 3
SIZES = (100, 1_000, 50_000, 300_000)


class Writer(threading.Thread):
    """An idempotent producer on a stream of its own: sends each batch until it is acknowledged."""

    def __init__(self, base_url: str, name: str, seed: int) -> None:
        super().__init__(name=name)
        self.url = f"{base_url}/{name}"
        self.acknowledged = 0
        self.enough = threading.Event()
        self.error: BaseException | None = None
        self._random = random.Random(seed)

    def run(self) -> None:
        try:
            with httpx.Client(timeout=20) as client:
                wait_until(lambda: self._try(client, "PUT", b"", {}), what="the stream is created")
                while not self.enough.is_set():
                    self._send(client, self.acknowledged)
                    self.acknowledged += 1
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's to raise
            self.error = error

    def _send(self, client: httpx.Client, seq: int) -> None:
        pad = "x" * self._random.choice(SIZES)
        body = orjson.dumps([{"batch": seq, "item": 0, "pad": pad}, {"batch": seq, "item": 1}])
        mark = {"producer-id": self.name, "producer-epoch": "0", "producer-seq": str(seq)}
        wait_until(
            lambda: self._try(client, "POST", body, mark),
            timeout_seconds=60,
            what=f"batch {seq} is acknowledged",
        )

    def _try(self, client: httpx.Client, method: str, body: bytes, mark: dict[str, str]) -> bool:
        headers = {"content-type": "application/json", **mark}
        try:
            answer = client.request(method, self.url, headers=headers, content=body)
        except httpx.TransportError:
            return False
        assert answer.is_success, f"{answer.status_code} {answer.text}"
        return True


def start(processes: Processes, data: Path, port: int) -> ChildProcess:
    command = console_script("durable-streams")
    server = processes.start([command, "serve", "--data", data, "--port", str(port)], name="server")
    server.wait_for_output(r"^http://")
    return server


def stored(url: str) -> list[tuple[int, int]]:
    """Batch and item of everything in the stream."""
    found: list[tuple[int, int]] = []
    offset = "-1"
    while True:
        page = plain_http.get(url, params={"offset": offset}, timeout=20)
        page.raise_for_status()
        found += [(value["batch"], value["item"]) for value in orjson.loads(page.content)]
        offset = page.headers["stream-next-offset"]
        if "stream-up-to-date" in page.headers:
            return found


def kill_repeatedly(processes: Processes, data: Path, *, kills: int) -> None:
    port = free_port()
    server = start(processes, data, port)
    base_url = f"http://127.0.0.1:{port}"
    writers = [Writer(base_url, f"writer-{number}", seed=number) for number in range(STREAMS)]
    moments = random.Random(7)
    for writer in writers:
        writer.start()
    try:
        for _ in range(kills):
            before = sum(writer.acknowledged for writer in writers)
            progress = moments.randint(3, 25)
            wait_until(
                lambda goal=before + progress: sum(writer.acknowledged for writer in writers) >= goal,  # type: ignore[misc]
                timeout_seconds=60,
                what="some batches are acknowledged",
            )
            server.kill()
            server = start(processes, data, port)
    finally:
        for writer in writers:
            writer.enough.set()
        for writer in writers:
            writer.join()
    assert [writer.error for writer in writers] == [None] * STREAMS
    for writer in writers:
        assert writer.acknowledged > 0
        expected = [(batch, item) for batch in range(writer.acknowledged) for item in (0, 1)]
        assert stored(writer.url) == expected
    assert server.terminate() == 0


def test_sigkill_loses_nothing_and_stores_nothing_twice(processes: Processes, tmp_path: Path) -> None:
    kill_repeatedly(processes, tmp_path / "data", kills=5)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_300_sigkills_lose_nothing_and_store_nothing_twice(processes: Processes, tmp_path: Path) -> None:
    kill_repeatedly(processes, tmp_path / "data", kills=300)
