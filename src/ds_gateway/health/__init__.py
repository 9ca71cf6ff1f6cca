"""The health stream: how the gateway is, told in a stream of its own, so that many are watched by reading.

    status document -> `report` (what is told) -> `pace` (whether it is told now) -> journal -> health/<gateway>

It never takes room from telemetry: it waits while the journal is full, and while nothing can be sent it tells
less and less often (`pace`).
"""

from ds_gateway.health.service import Health

__all__ = ["Health"]
