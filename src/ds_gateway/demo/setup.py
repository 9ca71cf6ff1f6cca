"""The configurations of the demo: the broker's, and the gateway's, which is an everyday one. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ds_gateway.demo.parts import HOST

if TYPE_CHECKING:
    from pathlib import Path

GATEWAY_ID: Final = "demo"
SENSORS: Final = ("freezer", "oven", "boiler")
SCALE: Final = "scale"
HALL: Final = "hall"
"""The broker's name in the gateway's configuration."""

# What the demo's broker needs beyond its defaults. Persistence: a broker that is stopped and started keeps the
# gateway's session. The queue: 1000 messages by default, the rest is dropped although the sensor has its PUBACK.
_BROKER: Final = """\
listener {port} {host}
allow_anonymous true
persistence true
persistence_location {folder}/
max_queued_messages 100000
"""

# mosquitto gives up root's rights for those of a user that cannot enter the demo's folder.
_AS_ROOT: Final = "user root\n"

_GATEWAY: Final = """\
# A machine that a demo runs on may have no time service, and commands would wait for one. Who sends them here has
# the same clock as the gateway, so their age is right, whatever the clock says.
gateway: {{id: {gateway}, clock: trusted}}
data_dir: {data_dir}
server: {{url: "{server_url}"}}
# A machine with little room in its temporary folder can run the demo, too.
journal: {{min_free_bytes: 16MiB}}
status: {{listen: "{host}:{status_port}"}}
log: {{level: info}}
"""

_MQTT: Final = """\
mqtt:
  {hall}:
    url: mqtt://{host}:{broker_port}
    packet_ids: sequential
    devices:
      - topic: sensors/{{sensor}}/telemetry
        name: "{{sensor}}"
        stream: telemetry/{{gateway}}/{{sensor}}
"""

_SERIAL: Final = """\
serial:
  {scale}:
    port: {scale_path}
    framing: {{line: {{delimiter: "\\r\\n"}}}}
    stream: telemetry/{{gateway}}/{{name}}
    commands:
      write: "T\\r\\n"
      # Two seconds unless told otherwise, which is little for a machine that is busy with something else.
      reply: {{pattern: "^T OK", timeout_seconds: 20}}
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts listen."""

    server: int
    status: int
    broker: int | None
    """None without a broker."""


def topic(sensor: str) -> str:
    """Where a sensor publishes."""
    return f"sensors/{sensor}/telemetry"


def server_url(port: int) -> str:
    """Where the stream server has its streams."""
    return f"http://{HOST}:{port}/v1/stream"


def stream(device: str) -> str:
    """The stream that the configuration below gives a device: each has its own, so that a table can show it."""
    return f"telemetry/{GATEWAY_ID}/{device}"


def broker_configuration(port: int, folder: Path, *, as_root: bool) -> str:
    """What mosquitto reads."""
    return _BROKER.format(host=HOST, port=port, folder=folder) + (_AS_ROOT if as_root else "")


def gateway_configuration(ports: Ports, data_dir: Path, scale_path: Path) -> str:
    """What the gateway reads."""
    # A JSON string is a YAML string, whatever is in it.
    text = _GATEWAY.format(
        gateway=GATEWAY_ID,
        data_dir=json.dumps(str(data_dir)),
        server_url=server_url(ports.server),
        host=HOST,
        status_port=ports.status,
    )
    if ports.broker is not None:
        text += _MQTT.format(hall=HALL, host=HOST, broker_port=ports.broker)
    return text + _SERIAL.format(scale=SCALE, scale_path=json.dumps(str(scale_path)))
