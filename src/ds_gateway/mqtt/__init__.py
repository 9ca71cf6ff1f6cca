"""MQTT: broker -> journal, without loss and, where the broker makes that possible, duplicates; and commands to it.

    socket -> packets -> publication -> item --(intake)--> gate, in the journal's transaction
    broker <- PUBACKs <- acks.mark <------------------------- committed
    broker <- PUBLISH <- outgoing <-- orders; their PUBACKs and answers are progress

`source` owns the network thread, `_connection` is the only importer of paho, `dedupe` holds the rules.
"""

from __future__ import annotations

from ds_gateway.mqtt.dedupe import DedupeGate
from ds_gateway.mqtt.snapshot import MqttSnapshot
from ds_gateway.mqtt.source import MqttSource

__all__ = ["DedupeGate", "MqttSnapshot", "MqttSource"]
