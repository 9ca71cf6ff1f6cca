"""Listening to a broker beside the gateway: a client of its own, without a session, that leaves nothing behind."""

from __future__ import annotations

import secrets
import select
import time
from typing import TYPE_CHECKING, Final, Self, TypeVar

from ds_gateway.captures import Chunk
from ds_gateway.errors import DeviceError
from ds_gateway.mqtt._connection import Connection
from ds_gateway.mqtt.events import Connack, Suback
from ds_gateway.mqtt.packets import Publication

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from ds_gateway.config.mqtt import MqttSettings
    from ds_gateway.mqtt.events import Event

CONNECT_SECONDS: Final = 10.0
_Wanted = TypeVar("_Wanted", Connack, Suback)
_GOODBYE_SECONDS: Final = 1.0
_TURN_SECONDS: Final = 1.0


class BrokerListener:
    """Connected and subscribed once it is entered; a context manager, for one thread.

    `DeviceError` with the reason: no connection, refused, or it ended.
    """

    def __init__(
        self, settings: MqttSettings, filters: Sequence[str], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.trouble = ""
        """Nothing: what goes wrong ends it."""
        self.is_away = False
        self.refused: dict[str, str] = {}
        """Filters that the broker refused, with its reasons."""
        self._filters = tuple(filters)
        self._monotonic = monotonic
        # Short enough for brokers that keep to the 23 characters of MQTT 3.1.
        self._connection = Connection(settings, f"ds-look-{secrets.token_hex(4)}", has_session=False)
        self._begun_at = monotonic()
        self._early: list[Publication] = []

    def __enter__(self) -> Self:
        try:
            self._connection.open(CONNECT_SECONDS)
            self._connection.greet()
            self._wait(Connack, "CONNACK")
            self._connection.subscribe(self._filters, ())
            suback = self._wait(Suback, "SUBACK")
        except BaseException:
            self._connection.close()
            raise
        self.refused = dict(suback.refused)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection.ended is None:
            self._connection.subscribe((), self._filters)
            self._connection.disconnect(_GOODBYE_SECONDS)
        self._connection.close()

    def take(self, timeout_seconds: float) -> list[Chunk]:
        """What came; waits for so long at most if nothing did. Raises `DeviceError` when the connection ended."""
        early, self._early = self._early, []
        came = early or [each for each in self._turn(timeout_seconds) if isinstance(each, Publication)]
        after = self._monotonic() - self._begun_at
        return [_chunk(each, after) for each in came]

    def _turn(self, timeout_seconds: float) -> list[Event]:
        connection = self._connection
        if connection.ended is None and not connection.has_decrypted:
            writes = [connection.fileno()] if connection.wants_write else []
            select.select([connection.fileno()], writes, [], min(timeout_seconds, _TURN_SECONDS))
        events = connection.read()
        connection.write()
        if connection.ended is None:
            connection.keep_alive()
        confirmed = [each.mid for each in events if isinstance(each, Publication) and each.qos]
        if confirmed and connection.ended is None:
            connection.acknowledge(confirmed)
        if not events and connection.ended is not None:
            raise DeviceError(connection.ended)
        return events

    def _wait(self, wanted: type[_Wanted], name: str) -> _Wanted:
        deadline = self._monotonic() + CONNECT_SECONDS
        while (left := deadline - self._monotonic()) > 0:
            events = self._turn(left)
            # Retained messages come right behind the SUBACK, or in front of it.
            self._early += [each for each in events if isinstance(each, Publication)]
            for each in events:
                if isinstance(each, wanted):
                    return each
        raise DeviceError(f"no {name} from {self._connection.address} within {CONNECT_SECONDS:g} s")


def _chunk(message: Publication, after_seconds: float) -> Chunk:
    if message.missing_bytes:
        return Chunk(after_seconds, b"", lost_bytes=len(message.payload) + message.missing_bytes)
    return Chunk(after_seconds, message.payload, message.topic.decode("utf-8", "replace"), message.retain)
