"""How fast records travel from mosquitto through the journal into the SQLite server, everything durable.

    python benchmarks/uplink.py [--messages 100000] [--json]

The broker holds N messages (200-byte JSON, QoS 1) for the gateway's session. Then the gateway is started, and the
time is taken until all of them are in the stream. Beside it, in the same run and over the same number of messages:

- raw      a bare socket that takes the messages from the broker and acknowledges each, and keeps none of them
- paho     stock paho-mqtt with manual acknowledgement, which keeps none of them either

Rates of different machines are not comparable; the ratios of one run are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from ds_gateway.control import NobodyThereError, call
from ds_gateway.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOPIC = "sensors/hall/bench/telemetry"
STALL_SECONDS = 120.0


@dataclass(frozen=True)
class Result:
    """One way of taking N messages."""

    name: str
    messages: int
    seconds: float
    cpu_us_per_message: float
    peak_rss_mib: float

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds


def payload(number: int) -> bytes:
    body = b'{"n":%d,"temperature":21.4,"humidity":48.2,"pressure":1013.25,"status":"ok","note":"' % number
    return body + b"x" * (198 - len(body)) + b'"}'


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def poll(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + STALL_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"gave up waiting until {what}")
        time.sleep(0.01)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def find_mosquitto() -> str:
    beside = Path(__file__).parent.parent / ".cache" / "peers" / "bin" / "mosquitto"
    found = os.environ.get("DS_GATEWAY_MOSQUITTO") or shutil.which(
        "mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin"
    )
    if found is None and beside.exists():
        found = str(beside)
    if found is None:
        raise SystemExit("mosquitto is not installed: `make setup` fetches it")
    return found


class Broker:
    """A mosquitto that keeps what nobody has taken yet."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
            "max_inflight_messages 1000\nlog_type error\n"
        )
        self._process = subprocess.Popen([find_mosquitto(), "-c", str(config)])
        poll(lambda: accepts(self.port), "the broker answers")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def client(self, client_id: str, *, clean: bool) -> mqtt.Client:
        return mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=clean)

    def make_session(self, client_id: str) -> None:
        """Leave a subscription behind, as a gateway does that was switched off."""
        subscribed = threading.Event()
        client = self.client(client_id, clean=False)

        def on_connect(*_: object) -> None:
            client.subscribe(TOPIC, 1)

        def on_subscribe(*_: object) -> None:
            subscribed.set()

        client.on_connect = on_connect
        client.on_subscribe = on_subscribe
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        assert subscribed.wait(STALL_SECONDS)
        client.disconnect()
        client.loop_stop()

    def fill(self, messages: int) -> None:
        """Publish; return when the broker has confirmed every one."""
        client = self.client("filler", clean=True)
        client.max_inflight_messages_set(1000)
        client.max_queued_messages_set(0)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        for number in range(messages):
            last = client.publish(TOPIC, payload(number), qos=1)
            if number % 5000 == 0:
                last.wait_for_publish()
        last.wait_for_publish()
        client.disconnect()
        client.loop_stop()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} has no VmHWM")


# -- the gateway


def run_gateway(folder: Path, broker: Broker, messages: int) -> Result:
    with ExitStack() as stack:
        server_port = free_port()
        serve = [sys.executable, "-m", "durable_streams", "serve"]
        server = subprocess.Popen(
            [*serve, "--data", str(folder / "server"), "--port", str(server_port)], stdout=subprocess.DEVNULL
        )
        stack.callback(server.wait)
        stack.callback(server.terminate)
        poll(lambda: accepts(server_port), "the stream server answers")
        config = folder / "gateway.yaml"
        config.write_text(
            "gateway: {id: bench}\n"
            f"data_dir: {folder / 'data'}\n"
            f'server: {{url: "http://127.0.0.1:{server_port}/v1"}}\n'
            "log: {level: warning}\n"
            "mqtt:\n  broker:\n"
            f'    url: "mqtt://127.0.0.1:{broker.port}"\n'
            "    client_id: bench-gateway\n    packet_ids: sequential\n"
            f"    devices:\n      - {{topic: {TOPIC}, name: bench, stream: telemetry/bench}}\n"
        )
        environ = {key: value for key, value in os.environ.items() if key != "RUNTIME_DIRECTORY"}
        command = [sys.executable, "-m", "ds_gateway", "run", "--config", str(config)]
        control = folder / "data" / "control.sock"

        def in_stream() -> int:
            try:
                streams = call(control, "status", 30.0)["streams"]
            except (NobodyThereError, ControlError):
                return -1
            return sum(stream["in_stream"] for stream in streams)

        # Once without messages, so that the session is the gateway's own and its files exist.
        idle = subprocess.Popen(command, env=environ)
        poll(lambda: connected(control), "the gateway is connected")
        idle.terminate()
        idle.wait()
        broker.fill(messages)
        gateway = subprocess.Popen(command, env=environ)
        stack.callback(gateway.wait)
        stack.callback(gateway.terminate)
        poll(lambda: in_stream() > 0, "the first records are in the stream")
        already, begun, cpu = in_stream(), time.monotonic(), cpu_seconds(gateway.pid)
        poll(lambda: in_stream() >= messages, "all records are in the stream")
        seconds, cpu = time.monotonic() - begun, cpu_seconds(gateway.pid) - cpu
        taken = messages - already
        return Result("gateway", taken, seconds, cpu / taken * 1e6, peak_rss_mib(gateway.pid))


def connected(control: Path) -> bool:
    try:
        return bool(call(control, "status", 30.0)["sources"][0]["state"] == "connected")
    except ControlError:
        return False


# -- the limits


def run_raw(broker: Broker, messages: int) -> Result:
    """A bare socket: count PUBLISH packets, acknowledge each read's worth at once."""
    broker.make_session("bench-raw")
    broker.fill(messages)
    with socket.create_connection(("127.0.0.1", broker.port)) as connection:
        begun, cpu = time.monotonic(), time.process_time()
        client_id = b"bench-raw"
        body = b"\x00\x04MQTT\x04\x00\x00\x3c" + struct.pack(">H", len(client_id)) + client_id
        connection.sendall(b"\x10" + bytes([len(body)]) + body)
        taken, rest = 0, b""
        while taken < messages:
            rest += connection.recv(65536)
            whole = list(packets(rest))
            rest = rest[sum(length for length, _ in whole) :]
            acks = b"".join(b"\x40\x02" + mid for _, mid in whole if mid)
            if acks:
                connection.sendall(acks)
                taken += len(acks) // 4
        seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    return Result("raw", messages, seconds, cpu / messages * 1e6, 0.0)


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Length of each whole packet, with the packet id if it is a PUBLISH."""
    start = 0
    while len(data) - start >= 2:
        length, shift, at = 0, 0, start + 1
        while at < len(data):
            length |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not data[at - 1] & 0x80:
                break
        else:
            return
        if at + length > len(data):
            return
        mid = b""
        if data[start] & 0xF0 == 0x30:
            topic_end = at + 2 + int.from_bytes(data[at : at + 2])
            mid = data[topic_end : topic_end + 2]
        yield at + length - start, mid
        start = at + length


def run_paho(broker: Broker, messages: int) -> Result:
    broker.make_session("bench-paho")
    broker.fill(messages)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="bench-paho", clean_session=False, manual_ack=True)
    taken = 0

    def on_message(client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        nonlocal taken
        taken += 1
        client.ack(message.mid, message.qos)

    client.on_message = on_message
    begun, cpu = time.monotonic(), time.process_time()
    client.connect("127.0.0.1", broker.port)
    while taken < messages:
        client.loop(1.0)
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    client.disconnect()
    return Result("paho", messages, seconds, cpu / messages * 1e6, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        broker = Broker(Path(name))
        try:
            raw = run_raw(broker, arguments.messages)
            paho = run_paho(broker, arguments.messages)
            gateway = run_gateway(Path(name), broker, arguments.messages)
        finally:
            broker.close()
    if arguments.json:
        print(json.dumps([{**asdict(result), "per_second": result.per_second} for result in (gateway, raw, paho)]))
        return
    print(f"{'':10}{'messages/s':>12}{'CPU us each':>13}{'peak RSS MiB':>14}{'of raw':>8}")
    for result in (gateway, raw, paho):
        rss = f"{result.peak_rss_mib:.0f}" if result.peak_rss_mib else "-"
        print(
            f"{result.name:10}{result.per_second:12,.0f}{result.cpu_us_per_message:13.1f}{rss:>14}"
            f"{result.per_second / raw.per_second:8.2f}"
        )


if __name__ == "__main__":
    main()
