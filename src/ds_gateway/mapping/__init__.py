"""From a topic or a port to a device and a stream, and from a payload to a `Record`: pure, no I/O.

Captured names come from outside: whoever may publish chooses them. They are kept as text and refused where
they would lead out of the stream's place (``..``, empty parts, wildcards, control characters); how many
devices and streams they can make is limited. `stream_path` encodes a stream's name for a URL.
"""

from __future__ import annotations

from ds_gateway.mapping.checks import check_device, check_devices, check_serial
from ds_gateway.mapping.commands import CommandRoute, CommandRoutes
from ds_gateway.mapping.errors import MappingError, RefusedNameError, RefusedPayloadError
from ds_gateway.mapping.pipelines import LastReading, MqttPipeline, SerialPipeline
from ds_gateway.mapping.streams import (
    check_beside_health,
    check_downlink_streams,
    check_health_stream,
    check_telemetry_stream,
    stream_path,
)
from ds_gateway.mapping.topics import TopicPattern, topic_filter

__all__ = [
    "CommandRoute",
    "CommandRoutes",
    "LastReading",
    "MappingError",
    "MqttPipeline",
    "RefusedNameError",
    "RefusedPayloadError",
    "SerialPipeline",
    "TopicPattern",
    "check_beside_health",
    "check_device",
    "check_devices",
    "check_downlink_streams",
    "check_health_stream",
    "check_serial",
    "check_telemetry_stream",
    "stream_path",
    "topic_filter",
]
