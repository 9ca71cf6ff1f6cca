"""Runs the demo: does the faults at their times, reads the streams back, audits, and takes everything down."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.demo.audit import audit, read_records
from ds_gateway.demo.faults import Action, schedule
from ds_gateway.demo.parts import HOST, DemoError, Folder, Part, accepts
from ds_gateway.demo.report import Done, Report
from ds_gateway.demo.setup import SCALE, stream
from ds_gateway.demo.stage import START_SECONDS, set_stage
from ds_gateway.demo.table import Row, View
from ds_gateway.demo.tare import Tare
from durable_streams import stream as read_stream
from durable_streams.errors import DurableStreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ds_gateway.demo.stage import Listener, Stage
    from ds_gateway.demo.table import Show

_TURN_SECONDS: Final = 0.05
_ASK_SECONDS: Final = 0.2
_PATIENCE_SECONDS: Final = 60.0
"""How long the parts may take for what they do in a second on an idle machine."""
_RECEIPT_SECONDS: Final = 90.0
"""How long the last receipt of a command is waited for, once the server has it."""
_HURRY_SECONDS: Final = 0.5
"""How long the sensors send as fast as the broker takes it before the gateway is killed."""
_STOP_SECONDS: Final = 30.0
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_QUIET: Final = "nothing is done to it now"


def run_demo(seconds: int, *, faults: bool, mosquitto: Path | None, show: Show) -> tuple[Report, Path | None]:
    """Run it; the report, and the folder of logs and data, which is kept if the audit failed.

    ``seconds`` is how long the devices send, at least `faults.MIN_SECONDS`. Nothing else remains, whatever
    happens. Main thread only. Raises `DemoError`, and `KeyboardInterrupt` for SIGINT, SIGTERM and SIGHUP.
    """
    kept = None
    with ExitStack() as stack:
        stack.enter_context(_signals_interrupt())
        folder = stack.enter_context(Folder())
        stage = set_stage(stack, folder.path, mosquitto)
        stack.enter_context(show)
        report = _Run(stage, seconds, show, stack).run(with_faults=faults)
        _ignore_signals()  # from here on it only takes things down
        if not report.ok:
            kept = folder.keep()
    return report, kept


class _Run:
    """One run on its stage."""

    def __init__(self, stage: Stage, seconds: int, show: Show, stack: ExitStack) -> None:
        self._stage = stage
        self._seconds = seconds
        self._show = show
        self._stack = stack
        self._done = Done()
        self._problems: list[str] = []
        self._doing = ""
        self._started_at: float | None = None
        self._ask_at = 0.0
        self._scale_may_send = False
        self._away: set[Part] = set()
        """Parts that are down on purpose."""
        self._server_stopped_at = 0.0
        self._tares: list[Tare] = []

    def run(self, *, with_faults: bool) -> Report:
        """From the gateway's first start to the audit."""
        stage = self._stage
        if stage.broker is None:
            self._say("there is no mosquitto: the broker and the MQTT sensors are left out")
        self._say(f"the gateway starts; its page: {stage.page}")
        stage.gateway.start()
        self._until(stage.sources_are_connected, "the gateway is connected to its devices", START_SECONDS)
        for sensor in stage.sensors:
            self._stack.enter_context(sensor)
        self._scale_may_send = True
        self._started_at = time.monotonic()
        self._say("the devices send", _QUIET)
        with_broker = stage.broker is not None
        for step in schedule(self._seconds, with_broker=with_broker, with_faults=with_faults):
            self._until(partial(self._is_time, step.at_seconds))
            self._perform(step.action)
        self._until(partial(self._is_time, self._seconds))
        self._come_to_rest()
        devices = audit(stage.sent(), self._read_back())
        self._problems += [f"{name} sent nothing" for name, sent in stage.sent().items() if not sent]
        commands = tuple(tare.outcome() for tare in self._tares)
        return Report(
            self._seconds, with_broker, devices, self._done, tuple(self._problems), commands, stage.scale.tares
        )

    # -- the faults

    def _perform(self, action: Action) -> None:
        match action:
            case Action.TARE:
                self._tare()
            case Action.HOLD_SCALE:
                self._hold_scale()
            case Action.KILL_GATEWAY:
                self._kill_gateway()
            case Action.RESTART_BROKER:
                self._restart_broker()
            case Action.STOP_SERVER:
                self._stop_server()
            case Action.START_SERVER:
                self._start_server()

    def _tare(self) -> None:
        stage = self._stage
        if stage.server.part not in self._away:
            self._until(
                lambda: stage.watch.answers(stage.gateway.pid) and stage.watch.has_read_commands,
                "the gateway takes commands",
                _PATIENCE_SECONDS,
            )
        name = f"tare-{len(self._tares) + 1}"
        waits = "" if stage.server.part not in self._away else ", which waits for the server"
        self._say(f"the scale is tared by a command, {name}{waits}", self._doing)
        tare = Tare(
            name,
            stage.address(),
            server_is_there=partial(accepts, stage.server.port),
            # The server may be away for as long as the demo runs, and the command shall be done after that.
            expires_after_seconds=_PATIENCE_SECONDS + self._seconds,
            timeout_seconds=_RECEIPT_SECONDS,
        )
        self._tares.append(self._stack.enter_context(tare))

    def _until_tared(self) -> None:
        """Wait for the last receipts; a timeout of their own ends that, and the report tells."""
        self._until(lambda: all(tare.has_ended for tare in self._tares))
        self._tell_tares()

    def _tell_tares(self) -> None:
        for tare in self._tares:
            for text in tare.take_said():
                self._say(f"{tare.name}: {text}", self._doing)

    def _hold_scale(self) -> None:
        stage = self._stage
        # A command that was done and is not acknowledged yet would be done again by the next gateway: repeated
        # rather than left out is what `at_least_once` says.
        self._until_tared()
        self._say("serial has no acknowledgement: the scale holds its line until after the kill")
        self._scale_may_send = False
        stage.scale.hold()
        self._until(
            lambda: stage.scale.holds and stage.watch.has_all(stream(SCALE), stage.scale.sent, stage.gateway.pid),
            "the scale's last reading is in its stream",
            _PATIENCE_SECONDS,
        )

    def _kill_gateway(self) -> None:
        gateway, sensors = self._stage.gateway, self._stage.sensors
        # A gateway that idles has nothing to lose: the kill shall find it in the middle of its work.
        self._hurry(hurries=True)
        self._until(partial(self._is_time, self._elapsed() + _HURRY_SECONDS))
        self._say(f"kill -9 of the gateway (process {gateway.pid}){'; the sensors go on' if sensors else ''}")
        gateway.kill()
        self._hurry(hurries=False)
        if gateway.status != -signal.SIGKILL:
            raise DemoError(f"the gateway ended before its kill, with {gateway.status}\n{gateway.last_words()}")
        self._done = replace(self._done, kills=self._done.kills + 1)
        gateway.start()
        # Opened by the new gateway, the port is there again, and the scale sends.
        self._scale_may_send = True

    def _hurry(self, *, hurries: bool) -> None:
        for sensor in self._stage.sensors:
            sensor.hurries = hurries

    def _restart_broker(self) -> None:
        stage = self._stage
        broker = stage.broker
        assert broker is not None, "the schedule knows of it"
        self._say("the broker is restarted; the sensors wait for it")
        for sensor in stage.sensors:
            sensor.leave()
        self._until(
            lambda: all(sensor.is_away for sensor in stage.sensors),
            "the sensors have left the broker",
            _PATIENCE_SECONDS,
        )
        self._away.add(broker.part)
        status = broker.part.terminate(_STOP_SECONDS)
        if status != 0:
            raise DemoError(f"the broker ended with {status}\n{broker.part.last_words()}")
        self._start_again(broker)
        for sensor in stage.sensors:
            sensor.come_back()
        self._done = replace(self._done, broker_restarts=self._done.broker_restarts + 1)
        self._say("the broker is back", _QUIET)

    def _stop_server(self) -> None:
        server = self._stage.server
        self._say("the stream server is killed and stays away: readings gather in the journal")
        self._away.add(server.part)
        self._server_stopped_at = time.monotonic()
        server.part.kill()

    def _start_server(self) -> None:
        self._start_again(self._stage.server)
        away_seconds = time.monotonic() - self._server_stopped_at
        self._done = replace(self._done, server_outage_seconds=self._done.server_outage_seconds + away_seconds)
        self._say(f"the stream server is back after {away_seconds:.1f} s; the journal drains", _QUIET)

    def _start_again(self, listener: Listener) -> None:
        part = listener.part
        part.start()
        self._until(listener.is_decided, f"{part.name} listens on port {listener.port} again", START_SECONDS)
        if part.status is not None:
            raise DemoError(f"{part.name} does not start again\n{part.last_words()}")
        self._away.remove(part)

    # -- the end

    def _come_to_rest(self) -> None:
        """Stop the devices, wait for the last reading, stop the gateway. What does not come is the audit's."""
        stage = self._stage
        self._until_tared()
        self._say("the devices stop; the rest is on its way")
        self._scale_may_send = False
        stage.scale.hold()
        for sensor in stage.sensors:
            sensor.stop()
        self._until(
            lambda: stage.scale.holds and all(sensor.has_ended for sensor in stage.sensors),
            "the devices stop",
            _PATIENCE_SECONDS,
        )
        self._problems += [f"{sensor.name}: {sensor.problem}" for sensor in stage.sensors if sensor.problem]
        sent = {stream(device): count for device, count in stage.sent().items()}
        patience_seconds = 30.0 + self._seconds / 2
        try:
            self._until(
                lambda: all(stage.watch.has_all(name, count, stage.gateway.pid) for name, count in sent.items()),
                "everything is in its stream",
                patience_seconds,
            )
            status = stage.gateway.terminate(_STOP_SECONDS)
        except DemoError as error:
            self._problems.append(str(error))
            return
        if status != 0:
            self._problems.append(f"the gateway ended with {status}\n{stage.gateway.last_words()}")
        if stage.watch.quarantined:
            self._problems.append(f"{stage.watch.quarantined} readings are in the gateway's quarantine")

    def _read_back(self) -> dict[str, list[int]]:
        """The numbers of the readings in all streams, by device."""
        records: list[Any] = []
        try:
            with _without_proxy():
                for numbers in self._stage.watch.streams.values():
                    with read_stream(numbers.url, live=False) as response:
                        records += response.read_json()
        except DurableStreamError as error:
            raise DemoError(f"the streams cannot be read back: {error}") from error
        found = read_records(records)
        self._problems += [f"a strange record in a stream: {record}" for record in found.strange]
        return {device: list(numbers) for device, numbers in found.numbers.items()}

    # -- while it runs

    def _until(
        self,
        condition: Callable[[], bool],
        what: str = "it is time",
        timeout_seconds: float = float("inf"),
    ) -> None:
        """Let the show go on until the condition holds. Raises `DemoError` at the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._tick()
            if condition():
                return
            if time.monotonic() > deadline:
                numbers = "; ".join(f"{row.device} {row.counts}" for row in self._view().rows)
                raise DemoError(
                    f"waited {timeout_seconds:g} s in vain until {what}: {numbers}\n"
                    f"{self._stage.gateway.last_words()}"
                )
            time.sleep(_TURN_SECONDS)

    def _tick(self) -> None:
        stage = self._stage
        for part in self._expected():
            if part.status is not None:
                raise DemoError(f"{part.name} ended by itself, with {part.status}\n{part.last_words()}")
        self._tell_tares()
        now = time.monotonic()
        if now < self._ask_at:
            return
        self._ask_at = now + _ASK_SECONDS
        stage.watch.ask()
        port_is_open = stage.watch.source_is(SCALE, "open", stage.gateway.pid)
        if self._scale_may_send and stage.scale.holds and port_is_open:
            stage.scale.release()
            if self._done.kills:
                self._say("the gateway is back, and the scale sends again", self._quiet())
        self._show.update(self._view())

    def _expected(self) -> Iterator[Part]:
        """The parts that should be running, if they were started."""
        stage = self._stage
        listeners = [stage.server] if stage.broker is None else [stage.server, stage.broker]
        yield stage.gateway
        yield from (listener.part for listener in listeners if listener.part not in self._away)

    def _elapsed(self) -> float:
        """Seconds since the devices began to send."""
        return 0.0 if self._started_at is None else time.monotonic() - self._started_at

    def _is_time(self, at_seconds: float) -> bool:
        return self._elapsed() >= at_seconds

    def _say(self, text: str, doing: str | None = None) -> None:
        self._doing = text if doing is None else doing
        self._show.say(f"{self._elapsed():5.1f} s: {text}")

    def _quiet(self) -> str:
        return _QUIET if self._stage.server.part not in self._away else "the stream server is away"

    def _view(self) -> View:
        watch = self._stage.watch
        rows = []
        for device, sent in self._stage.sent().items():
            numbers = watch.numbers(stream(device))
            rows.append(
                Row(
                    device=device,
                    last_reading=watch.readings.get(device),
                    sent=sent,
                    accepted=numbers.accepted,
                    in_journal=numbers.in_journal,
                    in_stream=numbers.in_stream,
                )
            )
        return View(tuple(rows), self._elapsed(), self._seconds, self._doing)


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let the first signal that asks for the end raise `KeyboardInterrupt`; the rest would only disturb it."""

    def interrupt(_number: int, _frame: object) -> None:
        _ignore_signals()
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler is not signal.SIG_IGN:  # ignored under nohup
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _without_proxy() -> Iterator[None]:
    """The environment's proxy, if there is one, leads away from this machine."""
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    os.environ.update(dict.fromkeys(before, HOST))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
