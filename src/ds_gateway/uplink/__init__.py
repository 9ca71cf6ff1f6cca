"""From the journal to the streams: one durable producer for each stream, all over one HTTP client.

What an answer means and what comes next is decided in `durable_streams`; here is what the gateway adds: which
stream goes where, with which credentials, and what an operator is told about it.

| state    | means                                                                                     |
|----------|-------------------------------------------------------------------------------------------|
| starting | looking for the stream, claiming it, or asking the server what it remembers               |
| idle     | everything accepted is in the stream                                                      |
| sending  | a batch is on its way                                                                     |
| waiting  | the server or the way to it is in trouble; tried again for ever                           |
| repairing | the server forgot or lost something: everything kept is read back, what is missing is sent  |
| halted   | only this stream stopped: sending on could lose or repeat records. Its records are kept   |
| skipping | an operator skips records: they are being set aside, into files                          |
| settling | an operator moves it: what became of its last batch is being found out at the old server  |
| parked   | the stream itself has ended (closed, deleted)                                             |

    decisions   what may be done when, and the words for it; pure
    stream      one stream: runs its producer, follows it
    uplinks     all streams, and what an operator decides about them
    client      the HTTP client and its headers
    probe       whether the server is there at all, for ``check --live``
"""

from ds_gateway.uplink.client import http_client, request_headers
from ds_gateway.uplink.decisions import DAMAGED, STRANDED
from ds_gateway.uplink.probe import probe
from ds_gateway.uplink.stream import UplinkSnapshot
from ds_gateway.uplink.uplinks import Uplinks

__all__ = ["DAMAGED", "STRANDED", "UplinkSnapshot", "Uplinks", "http_client", "probe", "request_headers"]
