"""The status page: what the gateway does, for people with a browser and for programs that watch it.

    gateway's event loop --status document--> the page's thread --status.listen--> /  /status.json  /metrics
                                                                                   /healthz  /readyz

It only looks. Nothing here changes anything, and nothing here can stop the gateway: it has an event loop and a
thread of its own, an address that cannot be had is tried again for ever, and a request that fails is told in the
log.
"""

from ds_gateway.page.inside import Inside
from ds_gateway.page.service import StatusPage

__all__ = ["Inside", "StatusPage"]
