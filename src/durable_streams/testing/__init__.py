"""A stream server for tests: real HTTP on a free port, or no socket at all.

    import httpx

    from durable_streams import DurableStream
    from durable_streams.testing import InMemoryStreamServer

    with InMemoryStreamServer() as server:
        with DurableStream.create(server.url("/test"), content_type="text/plain") as handle:  # over a socket
            handle.append("hello")
        with httpx.Client(transport=server.transport()) as client:  # or in this process
            print(DurableStream("http://any.host/test", client=client).head())

It starts itself on first use. As a pytest fixture::

    stream_server = pytest.fixture(durable_streams.testing.stream_server)

`InMemoryStreamServer.inject` makes connections break, answers get lost, requests wait: docs/testing.md.
"""

from durable_streams.in_process import InProcessTransport
from durable_streams.testing._faults import Delay, DropAfter, DropBefore, Fault, Hold, Status, Truncate
from durable_streams.testing._plans import FaultPlan, RecordedRequest
from durable_streams.testing._server import InMemoryStreamServer, Snapshot, stream_server

__all__ = [
    "Delay",
    "DropAfter",
    "DropBefore",
    "Fault",
    "FaultPlan",
    "Hold",
    "InMemoryStreamServer",
    "InProcessTransport",
    "RecordedRequest",
    "Snapshot",
    "Status",
    "Truncate",
    "stream_server",
]
