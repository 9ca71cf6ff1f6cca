"""Whether a message is the answer to a command, and what it says: pure.

An answer with correlation data is matched by that alone; otherwise by the id in its payload, where the device puts
one there; otherwise the first message after the command counts, if no other command waits for one on that topic.
On the response topic, where all devices answer, that would be anybody's.

A retained message says what was true once, so it is no answer. A repeated copy (DUP) may be the answer to the
command before, so without an id it is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from ds_gateway.commands import Progress
from ds_gateway.mqtt.keys import id_in_json
from ds_gateway.mqtt.packets import correlation_data

if TYPE_CHECKING:
    from ds_gateway.commands import MqttReply
    from ds_gateway.mqtt.packets import Publication

MAX_CHARACTERS: Final = 4096
"""As much of an answer is kept, and seen by its patterns."""
_MAX_UTF8_BYTES: Final = 4
_MAX_SHOWN: Final = 200
_SAFE: Final = "/!$&'()*,:;=?@[]"


def response_topic(client_id: str) -> str:
    """The topic that devices are asked to answer on, where none is configured (MQTT 5, 4.10)."""
    return f"ds-gateway/{quote(client_id, safe=_SAFE)}/reply"


def answer_of(publication: Publication, command_id: str, reply: MqttReply, *, is_alone: bool) -> Progress | None:
    """What the device says about this command; None: nothing. Raises `ProtocolError`.

    The message came on the topic of the answers, after the command was sent. ``is_alone``: no other command waits
    for an answer on this topic.
    """
    if publication.retain or not _is_for(publication, command_id, reply, is_alone=is_alone):
        return None
    text = publication.payload[: _MAX_UTF8_BYTES * MAX_CHARACTERS].decode(errors="replace")[:MAX_CHARACTERS]
    if reply.error is not None and reply.error.search(text):
        shown = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
        return Progress("failed", is_final=True, reason=f"the device answered {shown!a}", reply=text)
    if reply.pattern is None or reply.pattern.search(text):
        return Progress("acknowledged", is_final=True, reply=text)
    return None


def _is_for(publication: Publication, command_id: str, reply: MqttReply, *, is_alone: bool) -> bool:
    correlation = correlation_data(publication.properties) if publication.properties else b""
    if correlation:
        return correlation == command_id.encode()
    if reply.id_pointer is not None:
        found = id_in_json(_path(reply.id_pointer), publication)
        return found[1:] == command_id.encode()
    return is_alone and reply.topic is not None and not publication.dup


def _path(pointer: str) -> tuple[str, ...]:
    # In this order: ~01 is ~1, not a slash.
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
