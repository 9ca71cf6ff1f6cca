"""Orders on their way to a broker: pure decisions; `sending` does what they say.

    waiting --publish--> sent --PUBACK--> listening --answer--> over
       ^                  |                  |
       +--- lost, and ----+                  | no answer, and retries are left
       |    at_least_once                    |
       +-------------------------------------+

An order is published when the broker knows the subscriptions (an answer that comes before them is lost), and few
enough others are unconfirmed. Never published: what was not yet when its deadline passed; twice, if it is
`at_most_once`. What is published again carries the same command id, and is a new message for the broker: packet
ids belong to a connection here, because brokers do not deduplicate by them at QoS 1.

Where it was published more than once, a refusal says nothing about the copies before: that ends in `unknown`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ds_gateway.commands import MqttMessage, Progress
from ds_gateway.mapping.topics import TopicPattern
from ds_gateway.mqtt.replies import answer_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ds_gateway.commands import MqttReply, Order
    from ds_gateway.mqtt.events import Connack, Puback
    from ds_gateway.mqtt.packets import Publication

MAX_IN_FLIGHT: Final = 64
"""Unconfirmed messages at a time, if the broker allows as many."""
CONFIRM_SECONDS: Final = 60.0
"""How long a confirmation is waited for, connections and all, if the deadline is not later."""
_MAX_STALE: Final = 1000
_FAILURE: Final = 0x80
_NO_SUBSCRIBERS: Final = 0x10
_HEAD_BYTES: Final = 128
"""What a PUBLISH has beside its texts, at most: lengths, ids of properties, the name of the user property."""
_MAX_TOPIC_BYTES: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Publish:
    """A message to publish now, at QoS 1 and not retained. ``number`` is the order's here."""

    number: int
    topic: str
    payload: bytes
    command_id: str
    expires_seconds: int
    """How long the broker may keep it for the device (MQTT 5)."""
    response_topic: str | None


@dataclass(slots=True)
class _Order:
    """An open order."""

    order: Order
    message: MqttMessage
    reply: MqttReply | None
    listens_on: bytes
    """Topic of the answers; empty without any."""
    retries: int
    times_sent: int = 0
    is_in_flight: bool = False
    was_confirmed: bool = False
    """Whether `published` has been told."""
    confirm_by: float = 0.0
    """When waiting for a confirmation is over: of this sending, or that it gets sent again."""
    answer_by: float | None = None
    """When waiting for an answer is over; None while there is no confirmation."""
    answer: Progress | None = None
    """What came before the confirmation."""

    @property
    def due(self) -> float:
        """When something has to be decided if nothing happens."""
        if not self.times_sent:
            return self.order.deadline
        return self.confirm_by if self.answer_by is None else self.answer_by


class Outgoing:
    """The open orders of one broker. Times are of the monotonic clock, in seconds.

    ``response_topic`` None: there is none (MQTT 3.1.1, or nobody needs it).
    """

    def __init__(self, response_topic: str | None) -> None:
        self._response_topic = response_topic
        self._orders: dict[int, _Order] = {}
        self._count = 0
        self._waiting: OrderedDict[int, None] = OrderedDict()
        """Numbers of the orders to be published, in this order."""
        self._in_flight: dict[int, int] = {}
        """Packet id -> number, also of orders that are over: the broker counts them until it confirms."""
        self._listening: dict[bytes, dict[int, _Order]] = {}
        self._due: list[tuple[float, int]] = []
        """A heap of when to look at which order; an order may be due later by then, or be over."""
        self._told: list[tuple[int, Progress]] = []
        self._connack: Connack | None = None
        self._is_subscribed = False
        self._refused: dict[str, str] = {}
        """Topic filters that the session lacks, and why."""

    def __len__(self) -> int:
        """Open orders."""
        return len(self._orders)

    @property
    def waiting(self) -> int:
        """How many wait to be published, the first time or again. Any thread."""
        return len(self._waiting)

    @property
    def due(self) -> float | None:
        """When `tick` has something to do at the earliest."""
        return self._due[0][0] if self._due else None

    def take_told(self) -> list[tuple[int, Progress]]:
        """What became of orders since the last call, by their numbers, in order."""
        told, self._told = self._told, []
        return told

    def add(self, order: Order) -> int:
        """Take an order; return its number."""
        assert isinstance(order.message, MqttMessage)
        self._count += 1
        number, message, reply = self._count, order.message, order.message.reply
        listens_on = "" if reply is None else reply.topic or self._response_topic or ""
        retries = 0 if reply is None or order.delivery == "at_most_once" else reply.retries
        entry = _Order(order, message, reply, listens_on.encode(errors="surrogatepass"), retries)
        self._orders[number] = entry
        refusal = _refusal(entry)
        if refusal:
            self._end(number, Progress("failed", is_final=True, reason=refusal))
        else:
            self._waiting[number] = None
            heapq.heappush(self._due, (entry.due, number))
        return number

    # -- what the connection says

    def connected(self, connack: Connack) -> None:
        """The broker took us."""
        self._connack = connack

    def subscribed(self, refused: Mapping[str, str] | None = None) -> None:
        """The session has the subscriptions but for those that the broker refused, with its reason."""
        self._is_subscribed = True
        self._refused = dict(refused or {})

    def disconnected(self) -> None:
        """The connection is over, or none came about. What it let go and nobody confirmed may have arrived."""
        self._connack, self._is_subscribed = None, False
        lost, self._in_flight = self._in_flight, {}
        again: list[int] = []
        for number in lost.values():
            entry = self._orders.get(number)
            if entry is None:
                continue
            entry.is_in_flight = False
            if entry.answer is not None:
                self._end(number, entry.answer)
            elif entry.order.delivery == "at_most_once":
                self._end(number, _unknown("the connection was lost before the broker confirmed it"))
            else:
                again.append(number)
        for number in sorted(again, reverse=True):
            self._waiting[number] = None
            self._waiting.move_to_end(number, last=False)

    def next(self, now: float) -> Publish | None:
        """What to publish now; then either `sent` or `disconnected` is called."""
        connack = self._connack
        if connack is None or not self._is_subscribed:
            return None
        window = min(MAX_IN_FLIGHT, connack.receive_maximum)
        while self._waiting and len(self._in_flight) < window:
            number = next(iter(self._waiting))
            entry = self._orders[number]
            if now >= entry.due:
                self._overdue(number, entry, now)
            elif refusal := _refused_by(connack, entry):
                self._refuse(number, entry, refusal)
            else:
                return self._publish(number, entry, now)
        return None

    def sent(self, publish: Publish, mid: int, now: float) -> None:
        """It was given to the connection with this packet id: from now on it may have arrived."""
        del self._waiting[publish.number]
        number = self._in_flight[mid] = publish.number
        entry = self._orders[number]
        entry.times_sent += 1
        entry.is_in_flight = True
        if entry.times_sent == 1:
            self._await_confirmation(number, entry, now)
            if entry.listens_on:
                self._listening.setdefault(entry.listens_on, {})[number] = entry

    def puback(self, puback: Puback, now: float) -> None:
        """The broker confirmed a packet, or refused it."""
        number = self._in_flight.pop(puback.mid, 0)
        entry = self._orders.get(number)
        if entry is None:
            return
        entry.is_in_flight = False
        refusal = ""
        if puback.code >= _FAILURE:
            refusal = f"the broker refuses it: {puback.reason}"
        elif puback.code == _NO_SUBSCRIBERS:
            refusal = f"nobody is subscribed to {entry.message.topic}"
        if entry.reply is not None and not refusal:
            self._confirm(number, entry)
        if entry.answer is not None:
            self._end(number, entry.answer)
        elif refusal:
            self._refuse(number, entry, refusal)
        elif entry.reply is None:
            self._end(number, Progress("published", is_final=True))
        else:
            entry.answer_by = now + entry.reply.timeout_seconds
            heapq.heappush(self._due, (entry.due, number))

    def received(self, publication: Publication) -> None:
        """A message came in. Raises `ProtocolError`."""
        listening = self._listening.get(publication.topic)
        if listening is None:
            return
        is_alone = len(listening) == 1
        for number, entry in list(listening.items()):
            assert entry.reply is not None
            answer = answer_of(publication, entry.order.command_id, entry.reply, is_alone=is_alone)
            if answer is None:
                continue
            if not entry.is_in_flight:
                self._end(number, answer)
            elif entry.answer is None:
                entry.answer = answer

    def tick(self, now: float) -> None:
        """Look at the clock."""
        while self._due and self._due[0][0] <= now:
            _, number = heapq.heappop(self._due)
            entry = self._orders.get(number)
            if entry is None:
                continue
            if entry.due > now:
                heapq.heappush(self._due, (entry.due, number))
            else:
                self._overdue(number, entry, now)

    def stop(self) -> None:
        """End all orders: the gateway stops."""
        for number, entry in list(self._orders.items()):
            if entry.answer is not None:
                self._end(number, entry.answer)
            else:
                reason = "the gateway stops"
                never_sent = Progress("expired", is_final=True, reason=reason)
                self._end(number, _unknown(reason) if entry.times_sent else never_sent)

    # -- decisions

    def _publish(self, number: int, entry: _Order, now: float) -> Publish:
        order, reply = entry.order, entry.reply
        return Publish(
            number,
            entry.message.topic,
            entry.message.payload,
            order.command_id,
            expires_seconds=max(1, min(int(order.deadline - now), 0xFFFFFFFF)),
            response_topic=self._response_topic if reply is not None and reply.topic is None else None,
        )

    def _overdue(self, number: int, entry: _Order, now: float) -> None:
        if not entry.times_sent:
            away = " before the broker was there" if self._connack is None else ""
            self._end(number, Progress("expired", is_final=True, reason=f"its time was over{away}"))
        elif entry.answer is not None:
            self._end(number, entry.answer)
        elif entry.answer_by is None and not entry.was_confirmed:
            self._end(number, _unknown("the broker did not confirm it in time"))
        elif entry.answer_by is not None and entry.retries:
            entry.retries -= 1
            entry.answer_by = None
            self._await_confirmation(number, entry, now)
            self._waiting[number] = None
        else:
            assert entry.reply is not None
            why = self._why_unheard(entry)
            self._end(number, _unknown(f"no answer within {entry.reply.timeout_seconds:g} s{why}"))

    def _why_unheard(self, entry: _Order) -> str:
        """Why no answer can come; empty if one can."""
        topic = entry.listens_on.decode(errors="surrogatepass")
        for each, reason in self._refused.items():
            if TopicPattern(each).match(topic) is not None:
                return f": the broker refuses the subscription to {each!r}, where it would come: {reason}"
        return ""

    def _await_confirmation(self, number: int, entry: _Order, now: float) -> None:
        entry.confirm_by = max(entry.order.deadline, now + CONFIRM_SECONDS)
        heapq.heappush(self._due, (entry.due, number))

    def _confirm(self, number: int, entry: _Order) -> None:
        if not entry.was_confirmed:
            entry.was_confirmed = True
            self._told.append((number, Progress("published", is_final=False)))

    def _refuse(self, number: int, entry: _Order, reason: str) -> None:
        if entry.times_sent > 1 or entry.was_confirmed:
            self._end(number, _unknown(f"{reason}, but what was sent before may have reached the device"))
        else:
            self._end(number, Progress("failed", is_final=True, reason=reason))

    def _end(self, number: int, progress: Progress) -> None:
        entry = self._orders.pop(number)
        self._waiting.pop(number, None)
        if len(self._due) > _MAX_STALE + 2 * len(self._orders):
            self._due = [(each.due, other) for other, each in self._orders.items()]
            heapq.heapify(self._due)
        listening = self._listening.get(entry.listens_on)
        if listening is not None:
            listening.pop(number, None)
            if not listening:
                del self._listening[entry.listens_on]
        self._told.append((number, progress))


def _refusal(entry: _Order) -> str:
    """Why this can never be published; empty if it can."""
    try:
        topic = entry.message.topic.encode()
    except UnicodeEncodeError:
        topic = b""
    if not 0 < len(topic) <= _MAX_TOPIC_BYTES or any(byte in topic for byte in b"+#\0"):
        return f"{entry.message.topic[:100]!a} is no topic to publish to"
    if entry.reply is not None and not entry.listens_on:
        return "there is no response topic: the device's reply needs a topic of its own with MQTT 3.1.1"
    if entry.listens_on == topic:
        return f"its answer comes on {entry.message.topic}, too, and could not be told from the command itself"
    return ""


def _refused_by(connack: Connack, entry: _Order) -> str:
    """Why this broker cannot take it; empty if it can. It would end the connection."""
    if connack.maximum_qos < 1:
        return "the broker takes messages at QoS 0 only, and does not confirm those"
    texts = (entry.message.topic, entry.order.command_id, entry.order.command_id)
    size = (
        _HEAD_BYTES
        + len(entry.message.payload)
        + len(entry.listens_on)
        + sum(len(each.encode()) for each in texts)
    )
    if size > connack.maximum_packet_bytes:
        return f"the broker takes packets of {connack.maximum_packet_bytes} bytes at most, and it has up to {size}"
    return ""


def _unknown(reason: str) -> Progress:
    return Progress("unknown", is_final=True, reason=reason)
