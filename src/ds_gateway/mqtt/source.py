"""One broker, one network thread: connect, take, hand over, and acknowledge what is committed.

The thread never waits for the journal. What is received goes to the intake at the end of each read pass; what
is committed comes back through `MqttSource._on_committed` (in the writer's thread) and a wake-up. Then, in this
order: the mark is written, the PUBACKs are sent, on the connection that brought the messages and on no other.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final, Protocol

from ds_gateway.errors import DeviceError
from ds_gateway.liveness import RESOLVE_SECONDS, Liveness
from ds_gateway.logs import event, logger
from ds_gateway.mqtt._connection import Connection
from ds_gateway.mqtt.dedupe import DedupeGate
from ds_gateway.mqtt.dialogue import Committed, Dialogue
from ds_gateway.mqtt.events import Connack, Event, Puback, Suback
from ds_gateway.mqtt.handover import Handover, Offers
from ds_gateway.mqtt.keyless import Keyless
from ds_gateway.mqtt.keys import KeyReader
from ds_gateway.mqtt.marks import MarkFile, boot_id
from ds_gateway.mqtt.poller import Poller
from ds_gateway.mqtt.publications import Pipeline, Publications
from ds_gateway.mqtt.replies import response_topic
from ds_gateway.mqtt.rivalry import Rivalry
from ds_gateway.mqtt.sending import Sender
from ds_gateway.mqtt.status import Status
from ds_gateway.mqtt.subscription import AnswerTopics, merged
from ds_gateway.mqtt.wakeup import Wakeup
from durable_streams import Backoff, RandomSource

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from ds_gateway.commands import Order, Progress
    from ds_gateway.config.mqtt import MqttSettings
    from ds_gateway.mqtt.marks import Mark
    from ds_gateway.mqtt.snapshot import MqttSnapshot
    from ds_gateway.mqtt.subscription import Plan
    from ds_gateway.records import Item

_log = logger("mqtt")

CONNECT_SECONDS: Final = 10.0
_GOODBYE_SECONDS: Final = 1.0
"""How long the broker may take to hang up at the end."""
LEAVE_SECONDS: Final = 120.0
"""How long the broker may take to read tens of thousands of PUBACKs: what it has not read, it sends again."""
_TURN_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 0.1


class IntakeFactory(Protocol):
    """Makes the intake of this source: ``Intake(name, gate=gate, on_committed=on_committed, ...)``."""

    def __call__(self, *, gate: DedupeGate, on_committed: Callable[[Sequence[Item], int], None]) -> Offers:
        """Return the intake."""
        ...  # pragma: no cover


class OnDropped(Protocol):
    """Records of these devices are dropped; None: of any."""

    def __call__(self, devices: Collection[str] | None = None) -> None:
        """Do not raise."""
        ...  # pragma: no cover


class MqttSource:
    """A broker as a source of items, and the way to its devices. What is public here may be called in any thread.

    ``filters`` are MQTT topic filters; ``pipeline`` turns a message into a record, or says why not, and does not
    raise; ``on_dropped`` is called in the same thread when a record of it is dropped: its message comes again, or
    is told as lost, or it was there before. ``on_shown`` is told of the broker's certificates, in DER.
    ``data_dir`` keeps the mark, compared with ``journal_commit``. ``max_unacked_bytes`` bounds what waits for a
    commit.
    ``reply_filters`` are the topic filters of the answers to commands. ``has_response_topic``: some devices are
    asked to answer on the response topic of MQTT 5, which is the source's own.
    """

    def __init__(
        self,
        name: str,
        settings: MqttSettings,
        *,
        client_id: str,
        filters: Sequence[str],
        reply_filters: Sequence[str] = (),
        has_response_topic: bool = False,
        pipeline: Pipeline,
        on_dropped: OnDropped = lambda _devices=None: None,
        on_shown: Callable[[Sequence[bytes]], None] = lambda _chain: None,
        intake_factory: IntakeFactory,
        data_dir: Path,
        journal_commit: int | None = None,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        random: RandomSource | None = None,
        backoff: Backoff | None = None,
        stable_seconds: float = 10.0,
        connect_seconds: float = CONNECT_SECONDS,
        leave_seconds: float = LEAVE_SECONDS,
        max_unacked_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._name = name
        self._client_id = client_id
        self._connection = partial(Connection, settings, client_id, on_shown=on_shown)
        self._journal_commit = journal_commit
        self._mark_path = data_dir / "mqtt" / f"{name}.acks.mark"
        self._monotonic = monotonic
        self._random = random or Random()  # noqa: S311 - jitter
        self._backoff = backoff or Backoff(first_seconds=0.5, max_seconds=30.0)
        self._stable_seconds = stable_seconds
        self._connect_seconds = connect_seconds
        self._leave_seconds = leave_seconds
        window = settings.receive_maximum
        self.gate = DedupeGate(
            source=name,
            packet_ids=settings.packet_ids,
            learn_after=window,
            # In MQTT 3.1.1 the window is the broker's secret.
            window_is_known=settings.version == "5",
        )
        intake = intake_factory(gate=self.gate, on_committed=self._on_committed)
        self._on_dropped = on_dropped
        self._handover = Handover(
            intake, window=window, max_unacked_bytes=max_unacked_bytes, source=name, on_dropped=on_dropped
        )
        own_topic = response_topic(client_id) if has_response_topic and settings.version == "5" else None
        own_filters = () if own_topic is None else (own_topic,)
        self._dialogue = Dialogue(merged([*filters, *reply_filters, *own_filters]), settings.qos)
        key, keyless = None, None
        if settings.dedupe_key is not None:
            key, keyless = KeyReader(settings.dedupe_key), Keyless(name, settings.dedupe_key, monotonic)
        self._clock = clock
        answers = AnswerTopics(filters, reply_filters, own_topic)
        self._publications = Publications(name, pipeline, clock, key, keyless=keyless, is_answer_topic=answers)
        self._status = Status(name, clock, monotonic, keyless)
        self._rivalry = Rivalry(name, client_id, short_seconds=stable_seconds)
        self._was_cut = False
        self._liveness = Liveness(monotonic)
        self._commits: deque[Committed] = deque()
        self._wakeup = Wakeup()
        self._sender = Sender(own_topic, self._wakeup.set, monotonic)
        self._mark: MarkFile | None = None
        self._stop_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{name}", daemon=True)

    def start(self) -> None:
        """Start the network thread. The broker may be away."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Disconnect and end the thread; False if it did not end in time.

        For half of the time at most it waits until the messages already received are committed and acknowledged.
        """
        self._stop_at = self._monotonic() + timeout_seconds / 2
        if self._thread.ident is None:
            self._sender.close()
            self._wakeup.close()
            return True
        self._wakeup.set()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def send(self, order: Order, on_progress: Callable[[Progress], None]) -> None:
        """Publish a command, now or when the broker is there. Any thread, at any time; does not block.

        ``on_progress`` is called in the network thread (after `stop`: in this one), and must neither block nor
        raise. Exactly one call is final. Orders end with `stop`.
        """
        self._sender.give(order, on_progress)

    def snapshot(self) -> MqttSnapshot:
        """Return what is known at this moment."""
        return self._status.snapshot(self._dialogue.view, self._handover, self._sender)

    @property
    def alive_at(self) -> float:
        """When the thread last turned (``monotonic``); now, while it waits for something with a deadline."""
        return self._liveness.alive_at

    @property
    def is_running(self) -> bool:
        """Whether the network thread runs."""
        return self._thread.is_alive()

    def _on_committed(self, items: Sequence[Item], commit: int) -> None:
        """Take the writer's report. Writer thread: neither blocks nor raises."""
        self._commits.append(Committed(items, commit, self.gate.view()))
        self._wakeup.set()

    # Everything below runs in the network thread.

    def _run(self) -> None:
        poller = Poller(self._wakeup)
        attempt = 0
        try:
            while self._stop_at is None:
                connected_for = self._connect_once(poller)
                attempt = 0 if connected_for >= self._stable_seconds else attempt + 1
                self._pause(poller, self._backoff.delay(max(attempt - 1, 0), self._random))
        finally:
            self._sender.close()
            poller.close()
            self._wakeup.close()
            if self._mark is not None:
                self._mark.close()

    def _connect_once(self, poller: Poller) -> float:
        """Make one connection and serve it to its end. Return the seconds it was connected."""
        self._was_cut = False
        try:
            reason = self._attempt(poller)
        except (DeviceError, OSError) as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001
            # Supervision boundary: whatever goes wrong with one message or one packet, the thread must live and
            # the broker must keep what has no PUBACK. The connection is dropped and made anew.
            event(_log, "error", "mqtt.failed", exc=error, source=self._name)
            self._on_dropped()  # what was read before it, in the same pass
            reason = f"internal error: {type(error).__name__}: {error}"
        level = "info" if self._stop_at is not None else "warning"
        seconds = self._status.connected_seconds
        reason = self._rivalry.ended(reason, seconds, cut=self._was_cut)
        event(_log, level, "mqtt.disconnected", source=self._name, reason=reason)
        self._status.disconnected(reason)
        return seconds or 0.0

    def _attempt(self, poller: Poller) -> str:
        if not self._prepare(poller):
            return "stopped"
        connection = self._connection()
        try:
            self._status.connecting(connection.address)
            with self._liveness.waiting(self._connect_seconds * 2 + RESOLVE_SECONDS):
                connection.open(self._connect_seconds)
            self._dialogue.connecting()
            self._write_mark(self._dialogue.mark)
            connection.greet()
            return self._serve(connection, poller)
        finally:
            poller.forget()
            self._was_cut = connection.cut
            connection.close()
            self._handover.disconnected()
            self._sender.disconnected()

    def _prepare(self, poller: Poller) -> bool:
        """Wait until the journal is there and has room; False when stopped meanwhile."""
        if self._mark is None:
            self._mark = MarkFile(self._mark_path, boot_id())
            opening = self._dialogue.opening(self._mark.read(), self._journal_commit, self._clock())
            self._handover.add([self._publications.marker(opening)])
        self._settle(None)
        while not (self._dialogue.opened and self._handover.has_room()):
            if self._stop_at is not None:
                return False
            self._status.waiting("the journal takes nothing now; the broker keeps the messages")
            poller.wait(-1, read=False, write=False, timeout_seconds=_RETRY_SECONDS)
            self._settle(None)
            self._sender.turn(None)
            self._liveness.turn()
        return self._stop_at is None

    def _serve(self, connection: Connection, poller: Poller) -> str:
        """Serve the connection until it ends. Return the reason."""
        connack_by = self._monotonic() + self._connect_seconds
        keep_alive_at = self._monotonic() + _TURN_SECONDS
        while connection.ended is None:
            self._liveness.turn()
            stopping = self._stop_at is not None
            reads = not stopping and not self._handover.full
            buffered = reads and connection.has_decrypted
            readable = poller.wait(
                connection.fileno(),
                read=reads,
                write=connection.wants_write,
                timeout_seconds=0 if buffered else self._sender.seconds_left(self._patience(stopping=stopping)),
            )
            # Reading comes first: a broker that closes the connection has said why before.
            if reads and (readable or buffered):
                self._take(connection, connection.read())
            else:
                self._handover.offer()
            self._settle(connection if connection.ended is None else None)
            if connection.has_taken_all and not self._handover.unacked:
                event(_log, "warning", "mqtt.unread_acknowledgements", source=self._name)
                with self._liveness.waiting(self._leave_seconds + _TURN_SECONDS):
                    connection.leave(self._leave_seconds, must_go=lambda: self._stop_at is not None)
            connection.write()
            self._sender.turn(None if stopping else connection)
            now = self._monotonic()
            if now >= keep_alive_at:
                connection.keep_alive()
                keep_alive_at = now + _TURN_SECONDS
            if not connection.connected and now >= connack_by:
                return f"no CONNACK within {self._connect_seconds:g} s"
            if self._stop_at is not None and (self._handover.unacked == 0 or now >= self._stop_at):
                connection.disconnect(_GOODBYE_SECONDS)
                return "stopped"
        self._take(connection, connection.read())
        return connection.ended

    def _patience(self, *, stopping: bool) -> float:
        return _RETRY_SECONDS if stopping or self._handover.waiting else _TURN_SECONDS

    def _take(self, connection: Connection, events: Sequence[Event]) -> None:
        """Hand over what one read pass brought, in its order."""
        items: list[Item] = []
        for happened in events:
            match happened:
                case Connack():
                    self._greeted(connection, happened)
                case Suback():
                    items.append(self._publications.marker(self._dialogue.suback(happened)))
                    self._subscribed(happened)
                case Puback():
                    self._sender.confirmed(happened)
                case _ if not connection.take(happened):
                    continue
                case _:
                    acked, generation = self._dialogue.mark.commit, self._dialogue.generation
                    items.append(self._publications.item(happened, acked=acked, generation=generation))
                    self._sender.received(happened)
        reported = sum(item.payload is not None for item in items)
        self._status.received(reported + self._publications.take_unreported())
        self._handover.add(items)

    def _subscribed(self, suback: Suback) -> None:
        self._status.subscribed(suback.refused)
        self._sender.subscribed(suback.refused)
        for each, reason in suback.refused.items():
            event(_log, "warning", "mqtt.subscription.refused", source=self._name, filter=each, reason=reason)

    def _greeted(self, connection: Connection, connack: Connack) -> None:
        token, plan = self._dialogue.connack(connack, self._clock())
        self._handover.add([self._publications.marker(token)])
        self._write_mark(self._dialogue.mark)
        self._ask(connection, plan)
        self._sender.connected(connack)
        if connack.session_present and not plan:
            self._sender.subscribed()
        self._status.connected(session_present=connack.session_present)
        event(
            _log,
            "info",
            "mqtt.connected",
            source=self._name,
            client_id=self._client_id,
            session_present=connack.session_present,
        )

    def _settle(self, connection: Connection | None) -> None:
        """Act on what was committed: mark, PUBACKs, and a subscription that waited for R0."""
        mids: list[int] = []
        wanted: Plan | None = None
        before, commit = self._dialogue.mark, None
        with contextlib.suppress(IndexError):  # the end of the deque
            while True:
                report = self._commits.popleft()
                wanted = self._dialogue.committed(report) or wanted
                self._status.judged(report.view)
                if report.view.repeated:
                    # They were compared as if they were new, but what they say was true before.
                    self._on_dropped(report.view.repeated)
                if connection is None:
                    continue
                acknowledged = self._handover.committed(report.items, self._dialogue.generation)
                if acknowledged:
                    mids += acknowledged
                    commit = report.commit
        mark = self._dialogue.acknowledging(commit)
        if mark != before:
            self._write_mark(mark)
        # Only now: if the mark cannot be written, no PUBACK is sent, and that is known at the next CONNACK.
        self._dialogue.mark = mark
        if connection is not None:
            if mids:
                connection.acknowledge(mids)
            self._ask(connection, wanted)

    def _ask(self, connection: Connection, plan: Plan | None) -> None:
        if plan:
            connection.subscribe(plan.subscribe, plan.unsubscribe)

    def _write_mark(self, mark: Mark) -> None:
        assert self._mark is not None
        self._mark.write(mark)

    def _pause(self, poller: Poller, seconds: float) -> None:
        deadline = self._monotonic() + seconds
        while self._stop_at is None and (left := deadline - self._monotonic()) > 0:
            self._liveness.turn()
            self._sender.turn(None)
            patience = self._sender.seconds_left(min(left, _TURN_SECONDS))
            poller.wait(-1, read=False, write=False, timeout_seconds=patience)
