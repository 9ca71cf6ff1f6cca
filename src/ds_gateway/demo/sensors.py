"""Simulated MQTT sensors: QoS 1, one reading at a time, numbered, and kept until the broker has acknowledged it.

How the source is exact
- A sensor waits for the PUBACK before it publishes the next reading, so its readings reach the broker in order.
- A PUBACK that is lost with the broker would make MQTT publish the reading again, with DUP, and the broker could
  hold it twice; nobody behind it could tell. That is a repetition at the source, not the gateway's. So the
  sensors leave, with nothing on its way, before the broker is restarted, and come back after.
- Every other loss of a connection is a fault of the demo itself, and told.
- MQTT 5: "no matching subscribers" in a PUBACK says that nobody will ever get the reading, as before the
  gateway's first subscription. It is kept then and published again. Later that answer would mean that the broker
  has lost the gateway's session, and is told.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Self

import orjson
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from ds_gateway.demo.parts import HOST

if TYPE_CHECKING:
    from types import TracebackType

    from paho.mqtt.client import ConnectFlags, DisconnectFlags
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

_TURN_SECONDS: Final = 0.1
_ANSWER_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 0.2
_NO_MATCHING_SUBSCRIBERS: Final = 0x10


class SensorError(Exception):
    """The sensor cannot say any more what it has sent."""


class MqttSensor:
    """Publishes from a thread of its own until `stop`, except while it is away."""

    def __init__(self, name: str, topic: str, port: int, interval_seconds: float) -> None:
        self.name = name
        self.sent = 0
        """Readings that the broker has taken for somebody."""
        self.problem = ""
        """What went wrong with the sensor itself; it has ended then."""
        self._topic = topic
        self._port = port
        self._interval_seconds = interval_seconds
        self.hurries = False
        """While it is set, the next reading follows the PUBACK of the last one at once."""
        self._leave = threading.Event()
        self._away = threading.Event()
        self._stopping = threading.Event()
        self._answers: deque[int] = deque()
        self._thread = threading.Thread(target=self._run, name=f"demo-{name}", daemon=True)
        self._client = client = Client(
            CallbackAPIVersion.VERSION2, client_id=f"sensor-{name}", protocol=MQTTProtocolVersion.MQTTv5
        )
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        self._connected = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        del self._client  # it has descriptors that only its end closes

    @property
    def is_away(self) -> bool:
        """Whether it has left the broker, with nothing on its way."""
        return self._away.is_set()

    @property
    def has_ended(self) -> bool:
        """Whether it will publish nothing more."""
        return not self._thread.is_alive()

    def leave(self) -> None:
        """Disconnect as soon as nothing is on its way, and stay away."""
        self._leave.set()

    def come_back(self) -> None:
        """Connect again and go on."""
        self._away.clear()
        self._leave.clear()

    def stop(self) -> None:
        """Send no new reading, and end as soon as nothing is on its way."""
        self._stopping.set()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn()
        except SensorError as error:
            self.problem = str(error)
        # Supervision boundary: a sensor that ended unnoticed would look like one that has nothing to say.
        except Exception as error:  # noqa: BLE001
            self.problem = f"internal error: {error!r}"
        finally:
            self._disconnect()
            self._away.set()

    def _turn(self) -> None:
        if self._leave.is_set():
            self._disconnect()
            self._away.set()
            self._stopping.wait(_TURN_SECONDS)
            return
        if not self._connected and not self._connect():
            self._stopping.wait(_RETRY_SECONDS)
            return
        due_at = time.monotonic() + self._interval_seconds
        if self._publish():
            self.sent += 1
            if self.hurries:
                return
        while (left := due_at - time.monotonic()) > 0 and not self._stopping.is_set():
            self._serve(min(left, _TURN_SECONDS))

    def _publish(self) -> bool:
        """Publish the next reading and wait for its PUBACK. Whether somebody will get it."""
        number = self.sent + 1
        temperature = round(20.0 + 5.0 * math.sin(number / 50), 1)
        self._answers.clear()
        self._client.publish(self._topic, orjson.dumps({"seq": number, "temp": temperature}), qos=1)
        deadline = time.monotonic() + _ANSWER_SECONDS
        while not self._answers:
            if time.monotonic() > deadline:
                raise SensorError(f"no answer of the broker for reading {number} in {_ANSWER_SECONDS:g} s")
            self._serve(_TURN_SECONDS)
        answer = self._answers.popleft()
        if answer == _NO_MATCHING_SUBSCRIBERS:
            if self.sent:
                raise SensorError(f"the broker has lost the gateway's subscription before reading {number}")
            return False
        if answer:
            raise SensorError(f"the broker refuses reading {number}: reason code {answer:#04x}")
        return True

    def _serve(self, timeout_seconds: float) -> None:
        """Send and receive what there is. Raises `SensorError` if the connection is lost."""
        result = self._client.loop(timeout_seconds)
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or not self._connected:
            raise SensorError(f"the connection to the broker was lost after reading {self.sent}: {result.name}")

    def _connect(self) -> bool:
        with contextlib.suppress(OSError):
            self._client.connect(HOST, self._port, clean_start=True)
            deadline = time.monotonic() + _ANSWER_SECONDS
            while not self._connected and time.monotonic() < deadline:
                if self._client.loop(_TURN_SECONDS) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    break
        return self._connected

    def _disconnect(self) -> None:
        if self._connected:
            self._client.disconnect()
            self._connected = False

    def _on_connect(
        self, _client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, _more: Properties | None
    ) -> None:
        self._connected = not reason.is_failure

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, _reason: ReasonCode, _more: Properties | None
    ) -> None:
        self._connected = False

    def _on_publish(
        self, _client: Client, _data: Any, _mid: int, reason: ReasonCode, _more: Properties | None
    ) -> None:
        self._answers.append(reason.value)
