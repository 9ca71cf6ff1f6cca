"""One connection to a broker, from CONNECT to its end. The only importer of paho.

paho speaks everything but the broker's PUBLISH: it builds and reads CONNECT, CONNACK, SUBSCRIBE, SUBACK, PINGREQ
and DISCONNECT, it publishes, and it keeps the connection alive. Each connection has a paho of its own, so that
what one did not send is not sent by the next. Received bytes are cut into packets here, so that one `recv`
serves many of them, and PUBACKs of a whole group leave as one write; paho alone makes four `recv` and a `send` a
message. It has no hook for that, so six private names of it are used; a test fails if they change.
"""

from __future__ import annotations

import select
import ssl
import struct
import time
from typing import TYPE_CHECKING, Any, Final

from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from ds_gateway.mqtt.events import Connack, Event, Puback, Suback
from ds_gateway.mqtt.packets import PUBLISH, CutPacket, PacketBuffer, ProtocolError, parse_publication
from ds_gateway.mqtt.proof import AckProof
from ds_gateway.mqtt.transport import LOOK_SECONDS, Address, explain, hang_up, open_socket, tls_context
from ds_gateway.tls import peer_chain

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from paho.mqtt.reasoncodes import ReasonCode

    from ds_gateway.config.mqtt import MqttSettings
    from ds_gateway.mqtt.outgoing import Publish
    from ds_gateway.mqtt.packets import Publication

RECEIVE_BYTES: Final = 64 * 1024
# What OpenSSL holds decrypted is invisible to a selector, so one pass reads it to the end, but not for ever.
_MAX_READS: Final = 16
# More than a kernel keeps of a connection.
_MAX_LAST_READS: Final = 1024
_FOREVER: Final = 0xFFFFFFFF
_RETAIN_ONLY_IF_NEW: Final = 1
_COMMAND_ID: Final = "command-id"
_PUBACK: Final = 0x40
_PUBACK_LENGTH: Final = 2
_CREDENTIALS: Final = frozenset({"Not authorized", "Bad user name or password"})
_LIMITS: Final = {
    "receive_maximum": "ReceiveMaximum",
    "maximum_qos": "MaximumQoS",
    "maximum_packet_bytes": "MaximumPacketSize",
}
_puback = struct.Struct(">BBH").pack

_DISCONNECT: Final = b"\xe0\x00"
"""In MQTT 5 this short form means: normally, and the session's expiry stays what CONNECT said."""

PAHO_PRIVATE_NAMES: Final = (
    "_create_socket",
    "_sock_recv",
    "_sock_send",
    "_packet_queue",
    "_reset_sockets",
    "_send_pingreq",
)


class _PacketClient(Client):
    """paho, given a connected socket and whole packets."""

    ready_socket: socket.socket | None = None
    failure: OSError | None = None
    """Why nothing can be written any more."""
    _packet = b""
    on_pingreq: Callable[[], None]

    def take(self, packet: bytes) -> None:
        """Handle one whole packet. If paho dislikes it, it disconnects."""
        self._packet = packet
        self.loop_read()

    def send_pubacks(self, mids: Sequence[int]) -> None:
        """Queue the PUBACKs of all packet ids as one write (MQTT 3.4; in MQTT 5 this short form means success)."""
        packets = b"".join([_puback(_PUBACK, _PUBACK_LENGTH, mid) for mid in mids])
        self._packet_queue(_PUBACK, packets, 0, 1)

    def ping(self) -> None:
        """Queue a PINGREQ."""
        self._send_pingreq()

    def say_goodbye(self) -> None:
        """Queue a DISCONNECT (MQTT 3.14). Behind its own, paho closes the socket with what is unread in it."""
        self._packet_queue(_PUBACK, _DISCONNECT, 0, 0)

    def close(self) -> None:
        """Close the socket without a word."""
        self._reset_sockets()

    def _send_pingreq(self) -> MQTTErrorCode:
        # paho's own are answered in the same order.
        self.on_pingreq()
        return super()._send_pingreq()

    def _create_socket(self) -> Any:
        return self.ready_socket

    def _sock_recv(self, bufsize: int) -> bytes:
        data, self._packet = self._packet[:bufsize], self._packet[bufsize:]
        if not data:
            raise BlockingIOError
        return data

    def _sock_send(self, buf: bytes | bytearray) -> int:
        try:
            return super()._sock_send(buf)
        except BlockingIOError:
            raise
        except OSError as error:
            # paho would close the socket at once, with all in it that was received and not read yet.
            self.failure = error
            raise BlockingIOError from error


class Connection:
    """One connection. Network thread only; nothing here blocks but `open`."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        *,
        has_session: bool = True,
        on_shown: Callable[[Sequence[bytes]], None] = lambda _chain: None,
    ) -> None:
        """Without a session the broker forgets everything when the connection ends.

        ``on_shown`` is told by which certificates (DER) the broker was accepted.
        """
        self._on_shown = on_shown
        self._settings = settings
        self._has_session = has_session
        self._v5 = settings.version == "5"
        self._address = Address.parse(settings.url)
        self._socket: socket.socket | None = None
        self._packets = PacketBuffer()
        self._events: list[Event] = []
        self._subscribing: dict[int, tuple[str, ...]] = {}
        self.connected = False
        self.ended: str | None = None
        """Why the connection is over; None while it is not."""
        self._proof = AckProof()
        self.cut = False
        """Whether it was ended from outside, and nobody said why."""
        self._client = self._build(client_id)

    def open(self, timeout_seconds: float) -> None:
        """Connect and shake hands. Raises `DeviceError` with the reason."""
        context = tls_context(self._settings.tls) if self._address.secure else None
        self._socket = self._client.ready_socket = open_socket(self._address, context, timeout_seconds)
        if context is not None:
            self._on_shown(peer_chain(self._socket))

    def greet(self) -> None:
        """Send CONNECT. Answered by a `Connack`, or by the end of the connection."""
        properties = None
        if self._v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = _FOREVER if self._has_session else 0
            properties.ReceiveMaximum = self._settings.receive_maximum
        self._client.connect_async(
            self._address.host,
            self._address.port,
            self._settings.keepalive_seconds,
            clean_start=not self._has_session if self._v5 else MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
        )
        self._client.reconnect()
        self.write()

    @property
    def address(self) -> str:
        """Where the broker is, for people."""
        return str(self._address)

    def fileno(self) -> int:
        """The socket's descriptor; -1 when there is none."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait to be written."""
        return self._client.want_write()

    @property
    def has_decrypted(self) -> bool:
        """Whether bytes can be read that no selector sees."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def read(self) -> list[Event]:
        """Read what is there and return what happened, in order."""
        for _ in range(_MAX_READS):
            data = self._receive()
            if data is None or not self._take(data) or not self.has_decrypted:
                break
        events, self._events = self._events, []
        return events

    def write(self) -> None:
        """Write what waits, as far as the socket takes it. If that ends the connection, `read` has the rest."""
        if self._client.want_write():
            self._client.loop_write()
        if self._client.failure is not None:
            self._lose(self._client.failure)

    def keep_alive(self) -> None:
        """Send a PINGREQ when it is due, and end the connection when no answer comes."""
        self._client.loop_misc()
        self.write()

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Send the PUBACKs, in this order, in one write."""
        self._client.send_pubacks(mids)
        self._proof.acknowledged(len(mids))
        if self._proof.wants_proof:
            self._client.ping()
        self.write()

    def take(self, publication: Publication) -> bool:
        """Whether the message may be taken: False if too many PUBACKs may be unread at the broker.

        Then it comes again on another connection, and so do all behind it.
        """
        return not publication.qos or self._proof.take()

    @property
    def has_taken_all(self) -> bool:
        """Whether no more may be taken on this connection, so that it is time to `leave`."""
        return self._proof.exhausted

    def leave(self, timeout_seconds: float, must_go: Callable[[], bool]) -> None:
        """End the connection so that the broker has read all that was sent.

        Blocks until it closes its side, or for so long, or until ``must_go``. What it sends meanwhile is thrown
        away: without a PUBACK it comes again.
        """
        was_read = self.disconnect(timeout_seconds, must_go)
        rest = "made anew" if was_read else f"the broker has not read them in {timeout_seconds:g} s either"
        self._end(f"too many acknowledgements were not known to be read: {rest}")

    def subscribe(self, filters: Sequence[str], unsubscribe: Sequence[str]) -> None:
        """Ask for these filters, and for no longer those. Answered by one `Suback` when both are done."""
        mid = None
        if unsubscribe:
            _, mid = self._client.unsubscribe(list(unsubscribe))
        qos: int = self._settings.qos
        if filters and self._v5:
            options = SubscribeOptions(qos=qos, retainHandling=_RETAIN_ONLY_IF_NEW)
            _, mid = self._client.subscribe([(topic, options) for topic in filters])
        elif filters:
            _, mid = self._client.subscribe([(topic, qos) for topic in filters])
        # The broker answers in order, so the later of the two answers is the one to wait for.
        if mid is not None:
            self._subscribing[mid] = tuple(filters)
        self.write()

    def publish(self, message: Publish) -> int:
        """Queue a message and return its packet id. Answered by a `Puback`. Raises ValueError for a bad topic."""
        properties = None
        if self._v5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.UserProperty = (_COMMAND_ID, message.command_id)
            properties.CorrelationData = message.command_id.encode()
            properties.MessageExpiryInterval = message.expires_seconds
            if message.response_topic is not None:
                properties.ResponseTopic = message.response_topic
        return self._client.publish(message.topic, message.payload, qos=1, properties=properties).mid

    def disconnect(self, timeout_seconds: float, must_go: Callable[[], bool] = lambda: False) -> bool:
        """Say goodbye, and wait until the broker has hung up; whether it did in time. It keeps the session."""
        if self.ended is not None or self._socket is None:
            return False
        give_up_at = time.monotonic() + timeout_seconds
        self._client.say_goodbye()
        self.write()
        while self._socket is not None and self._client.want_write():
            left_seconds = give_up_at - time.monotonic()
            if left_seconds <= 0 or must_go():
                break
            readable, _, _ = select.select([self._socket], [self._socket], [], min(left_seconds, LOOK_SECONDS))
            if readable:
                self._receive()  # it may read on only when it has written
            self.write()
        return self._socket is not None and hang_up(self._socket, give_up_at - time.monotonic(), must_go)

    def close(self) -> None:
        """Close the socket. Harmless when repeated."""
        self._end("closed by the gateway")

    def _build(self, client_id: str) -> _PacketClient:
        client = _PacketClient(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if self._v5 else not self._has_session,
            protocol=MQTTProtocolVersion.MQTTv5 if self._v5 else MQTTProtocolVersion.MQTTv311,
            # With it, paho would fall back to MQTT 3.1 when a broker refuses 3.1.1.
            reconnect_on_failure=False,
            manual_ack=True,
        )
        password = self._settings.password
        if self._settings.username is not None or password is not None:
            # paho sends a password only with a user name, be it an empty one.
            client.username_pw_set(
                self._settings.username or "", None if password is None else password.get_secret_value()
            )
        client.on_pingreq = self._proof.asked
        # How many messages are unconfirmed is decided elsewhere; paho would keep the others in a queue of its own.
        client.max_inflight_messages_set(0)
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        # Without it paho writes from inside its callbacks.
        client.on_socket_register_write = _leave_it_to_the_loop
        return client

    def _receive(self) -> bytes | None:
        """Return bytes; None when none are there or the connection is over."""
        if self.ended is not None or self._socket is None:
            return None
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            self._cut(f"connection lost: {explain(error)}")
            return None
        if not data:
            self._cut("the broker closed the connection")
            return None
        return data

    def _lose(self, error: OSError) -> None:
        """End the connection, but first read what is there: a broker that was killed has forgotten it."""
        for _ in range(_MAX_LAST_READS):
            data = self._receive()
            if data is None or not self._take(data):
                break
        self._cut(f"connection lost: {explain(error)}")

    def _take(self, data: bytes) -> bool:
        """Handle received bytes; False when the connection is over."""
        try:
            for packet in self._packets.feed(data):
                if isinstance(packet, CutPacket):
                    self._take_cut(packet)
                elif packet[0] >> 4 == PUBLISH and self.connected:
                    self._events.append(parse_publication(packet, properties=self._v5))
                else:
                    self._take_other(packet)
                if self.ended is not None:
                    return False
        except ProtocolError as error:
            self._end(str(error))
            return False
        return True

    def _take_cut(self, packet: CutPacket) -> None:
        if packet.head[0] >> 4 != PUBLISH or not self.connected:
            raise ProtocolError("the broker sent a packet of many megabytes that is no message")
        publication = parse_publication(packet.head, properties=self._v5)
        self._events.append(publication._replace(missing_bytes=packet.missing_bytes))

    def _take_other(self, packet: bytes) -> None:
        if not self.connected and packet[0] >> 4 != PacketTypes.CONNACK:
            raise ProtocolError("the broker sent something else before its CONNACK")
        if not self.connected and not self._v5 and packet[3:4] == b"\x01":
            # paho, told not to fall back to MQTT 3.1, returns here without a callback.
            raise ProtocolError("the broker refuses MQTT 3.1.1")
        if packet[0] >> 4 == PacketTypes.PINGRESP:
            self._proof.answered()
        self._client.take(packet)

    def _on_connect(
        self, _client: Client, _data: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            hint = " (see username and password)" if reason.getName() in _CREDENTIALS else ""
            self._end(f"the broker refuses the connection: {_told(reason, properties)}{hint}")
            return
        self.connected = True
        given = {
            name: value
            for name, key in _LIMITS.items()
            if (value := getattr(properties, key, None))
            is not None  # paho has an attribute for what was sent only
        }
        self._events.append(Connack(session_present=flags.session_present, **given))

    def _on_disconnect(
        self,
        _client: Client,
        _data: Any,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._end(f"the broker ended the connection: {_told(reason, properties)}")
        else:
            self._end(f"connection lost: {reason.getName()}")

    def _on_subscribe(
        self,
        _client: Client,
        _data: Any,
        mid: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        filters = self._subscribing.pop(mid, ())
        if len(filters) != len(reasons):
            self._end("the broker's SUBACK does not fit the subscription")
            return
        refused: dict[str, str] = {}
        for topic, reason in zip(filters, reasons, strict=True):
            if reason.is_failure:
                refused[topic] = _told(reason, properties)
            elif reason.value < self._settings.qos:
                refused[topic] = f"granted at QoS {reason.value} only"
        granted = tuple(topic for topic in filters if topic not in refused)
        self._events.append(Suback(granted=granted, refused=refused))

    def _on_publish(
        self, _client: Client, _data: Any, mid: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._events.append(Puback(mid, reason.value, _told(reason, properties)))

    def _on_unsubscribe(
        self,
        _client: Client,
        _data: Any,
        mid: int,
        _reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        if self._subscribing.pop(mid, None) is not None:
            self._events.append(Suback(granted=(), refused={}))

    def _cut(self, reason: str) -> None:
        self.cut = self.cut or self.ended is None
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self.ended is None:
            self.ended = reason
        self._client.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _told(reason: ReasonCode, properties: Properties | None) -> str:
    """The reason's name, and the broker's own words where it gave any."""
    words = getattr(properties, "ReasonString", None)
    return f"{reason.getName()} ({words})" if words else str(reason.getName())


def _leave_it_to_the_loop(*_: object) -> None:
    """Writing is done in one place."""
