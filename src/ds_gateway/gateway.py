"""The composition root: builds the parts, lets them run, watches them, and takes them down in order.

    start   journal -> embedded server -> control socket -> sources -> downlink -> READY
            -> uplinks, as their streams appear
    stop    downlink -> sources -> their last records are committed -> bounded drain -> control socket -> uplinks
            -> embedded server -> journal

Nothing that is away (a broker, a port, the server) delays the start: it shows in the status, and is retried.
The embedded server is there as long as something may be sent to it, and before the journal, whose lock stands for
the whole data folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from ds_gateway import __version__, assembly
from ds_gateway.clock import is_synchronised
from ds_gateway.control import ControlServer
from ds_gateway.downlink.service import Downlink
from ds_gateway.downlink.surroundings import Surroundings
from ds_gateway.errors import ControlError
from ds_gateway.logs import event, logger
from ds_gateway.mapping.commands import CommandRoutes
from ds_gateway.notify import Feeding
from ds_gateway.reloading import Reloading, has_terminal
from ds_gateway.resolver import Resolver
from ds_gateway.status import About, document, line
from ds_gateway.tapping import Taps
from ds_gateway.timekeeping import Timekeeper
from ds_gateway.uplink import Uplinks, http_client, request_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ds_gateway.config.last_valid import Refused
    from ds_gateway.config.loader import Loaded
    from ds_gateway.control import Verb
    from ds_gateway.journal import Journal
    from ds_gateway.journal.book import Book
    from ds_gateway.notify import Notifier

_log = logger("gateway")

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""Both mean: no more intake, drain, exit 0. So does SIGHUP of a terminal that is closed; a service takes up its
changed configuration then."""
FINISH_SECONDS: Final = 3.0
"""How long commands that are with their devices may take at the end."""
SETTLE_SECONDS: Final = 10.0
"""How long the last records of the sources may take to be committed at the end."""
DRAIN_SECONDS: Final = 5.0
"""How long the journal may be drained at the end. What remains is sent after the next start."""
STOPPING_SECONDS: Final = 60.0
"""How long the watchdog is fed while the gateway stops, if it gets on."""
SUPERVISION_SECONDS: Final = 1.0
STALLED_SECONDS: Final = 45.0
"""A part that should turn every second and has not for so long is dead: the watchdog is no longer fed."""

SOURCE_STOP_SECONDS: Final = 5.0


class Gateway:
    """One gateway process. `run` returns its exit status."""

    def __init__(
        self,
        loaded: Loaded,
        notifier: Notifier,
        *,
        load: Callable[[], Loaded] | None = None,
        on_point: Callable[[str, frozenset[str]], None] = lambda _when, _parts: None,
        dry_run_commands: bool = False,
        refused: Refused | None = None,
        on_started: Callable[[], None] = lambda: None,
    ) -> None:
        """``load`` loads and checks the configuration anew; without it there is no reload.

        ``dry_run_commands``: deliver none; its receipt says what would have been sent. ``refused``: the file is
        invalid, and ``loaded`` is the last valid one. ``on_started`` is called in a thread once it runs; an
        OSError of it is told, and nothing else.
        """
        self._on_started = on_started
        self._loaded = loaded
        self._dry_run_commands = dry_run_commands
        self._downlink: Downlink | None = None
        self._routes = CommandRoutes(loaded.settings)
        self._receipts = assembly.receipt_stream(loaded.settings, self._routes)
        self._notifier = notifier
        self._on_point = on_point
        self._stop_asked = asyncio.Event()
        self._was_told_to_end = False
        self._reloading = None if load is None else Reloading(loaded, load, self._stop_asked.set, notifier)
        self._sources: list[assembly.Source] = []
        settings = loaded.settings
        self._about = About(
            gateway=settings.gateway.id,
            version=__version__,
            pid=os.getpid(),
            started_at=datetime.now(UTC),
            started_monotonic=time.monotonic(),
            server_url=settings.server.base_url,
            config_path=str(loaded.path),
            config_digest=loaded.digest,
            data_dir=settings.data_dir,
            refused=refused,
        )

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, or for a reload (0), or until the journal fails (1).

        Raises `GatewayError` when it cannot start.
        """
        settings = self._loaded.settings
        loop = asyncio.get_running_loop()
        self._timekeeper = Timekeeper(
            trusted=settings.gateway.clock == "trusted", envelope=settings.gateway.envelope
        )
        self._embedded = assembly.embedded_server(settings)
        client = http_client(settings.server, None if self._embedded is None else self._embedded.transport())
        self._uplinks = Uplinks(
            settings.server,
            settings.batch,
            settings.exactly_once,
            client,
            gateway=settings.gateway.id,
            on_stopped=self._on_stopped,
            fenced=self._receipts,
            on_claim=self._on_claim,
        )
        try:
            self._journal = self._open_journal(loop)
        except BaseException:
            await client.aclose()
            raise
        self._catch_signals(loop)
        feeding: asyncio.Task[None] | None = None
        try:
            if self._embedded is not None:
                self._embedded.start()
            resolver = Resolver(settings, self._uplinks, self._names, http_client, self._in_journal)
            verbs: dict[str, Verb] = {"status": self._status, "resolve": resolver.answer}
            self._own_verbs = dict(verbs)
            if self._reloading is not None:
                verbs["reload"] = self._reloading.answer
                self._own_verbs["reload"] = self._reloading.prepare
            verbs["commands"] = self._commands
            verbs["quarantine"] = assembly.quarantine(settings, self._journal).answer
            verbs["tap"] = Taps(lambda: assembly.ports(self._sources)).answer
            async with ControlServer(self._loaded.control_socket, verbs):
                self._start()
                await self._tell_started()
                await self._supervise()
                feeding = asyncio.create_task(self._feed(), name="watchdog")
                await self._stop()
        finally:
            if self._downlink is not None:
                await self._downlink.stop()
                await self._downlink_client.aclose()
            await self._uplinks.close()
            if self._embedded is not None:
                await self._embedded.stop()
            await asyncio.to_thread(self._timekeeper.stop)
            await asyncio.to_thread(self._journal.stop)
            if feeding is not None:
                feeding.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await feeding
            await self._restore_signals(loop)
        failed = self._journal.failure is not None
        event(_log, "error" if failed else "info", "gateway.stopped", failed=failed)
        return 1 if failed else 0

    @property
    def starts_anew(self) -> bool:
        """Whether it ended well and for a reload: the process is to execute itself anew."""
        return (
            self._reloading is not None
            and self._reloading.has_begun
            and not self._was_told_to_end
            and self._journal.failure is None
        )

    def _end(self) -> None:
        """A signal came: it is not for starting anew."""
        if self._is_reloading and not self._was_told_to_end:
            self._notifier.stopping("stopping, while the configuration was taken up anew")
        self._was_told_to_end = True
        self._stop_asked.set()

    @property
    def _is_reloading(self) -> bool:
        return self._reloading is not None and self._reloading.has_begun

    def _catch_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._end)
        hang_up = self._end if self._reloading is None or has_terminal() else self._reloading.hang_up
        loop.add_signal_handler(signal.SIGHUP, hang_up)

    async def _restore_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """From here on a signal ends the process: everything is committed. What came before still counts."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for _ in range(3):  # turns of the loop: its pipe is read, the signal is told, `_end` is called
            await asyncio.sleep(0)
        for number in (*STOP_SIGNALS, signal.SIGHUP):
            loop.remove_signal_handler(number)
        # Whatever it asks for is under way; and whoever starts anew must not die of it in between.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _open_journal(self, loop: asyncio.AbstractEventLoop) -> Journal:
        def on_stream(book: Book) -> None:
            loop.call_soon_threadsafe(self._add_stream, book.number, book.name, book.url)

        return assembly.open_journal(
            self._loaded.settings,
            self._receipts,
            on_stream=on_stream,
            on_confirmed=self._on_confirmed,
            on_point=self._on_point,
            wall_clock=self._timekeeper,
        )

    # -- start

    def _start(self) -> None:
        self._sources = assembly.sources(self._loaded.settings, self._journal, self._routes, self._timekeeper)
        if self._routes:
            self._downlink = self._make_downlink()
        self._journal.start()
        self._timekeeper.start(self._journal.on_clock)
        for each in self._sources:
            each.source.start()
        if self._downlink is not None:
            self._downlink.start()
        for number, name, url in self._journal.streams():
            if name != self._receipts:
                self._add_stream(number, name, url)
        event(
            _log,
            "info",
            "gateway.started",
            gateway=self._about.gateway,
            version=__version__,
            sources=len(self._sources),
            data_dir=self._about.data_dir,
            server=self._about.server_url,
        )
        self._notifier.ready(self._line())

    async def _tell_started(self) -> None:
        try:
            await asyncio.to_thread(self._on_started)
        except OSError as error:
            event(_log, "warning", "gateway.config.not_kept", file=error.filename, error=error.strerror)

    def _make_downlink(self) -> Downlink:
        settings = self._loaded.settings
        # A client of its own: reads that last for minutes take no connection away from the uplinks.
        self._downlink_client = http_client(
            settings.server, None if self._embedded is None else self._embedded.transport()
        )
        return Downlink(
            assembly.downlink_options(settings, self._receipts, dry_run=self._dry_run_commands),
            Surroundings(
                journal=self._journal,
                routes=self._routes,
                targets={each.name: each.source for each in self._sources},
                verbs=self._own_verbs,
                client=self._downlink_client,
                headers=request_headers(settings.server),
                install=self._journal.identity.short_install,
                claim=self._claim_receipts,
                claimed=lambda: self._uplinks.claimed(self._receipts),
                why_not_claimed=lambda: self._uplinks.why_not_claimed(self._receipts),
                is_fenced=lambda: self._uplinks.is_stopped(self._receipts),
                is_synchronised=is_synchronised,
                wall_clock=self._timekeeper,
                afterwards={} if self._reloading is None else {"reload": self._reloading.begin},
            ),
        )

    def _claim_receipts(self, life: str) -> None:
        """Let the stream of receipts be claimed: the downlink says when."""
        for number, name, url in self._journal.streams():
            if name == self._receipts:
                self._add_stream(number, name, url, life=life)

    def _on_claim(self) -> None:
        if self._downlink is not None:
            self._downlink.on_confirmed()

    def _on_confirmed(self, _stream: int) -> None:
        if self._downlink is not None:
            self._downlink.on_confirmed()

    def _commands(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._downlink is None:
            raise ControlError("no device of this gateway takes commands: add commands to one")
        return self._downlink.commands(arguments)

    def _names(self) -> list[tuple[int, str]]:
        return [(number, name) for number, name, _ in self._journal.streams()]

    def _on_stopped(self, number: int, reason: str) -> None:
        self._journal.set_stopped(number, reason)

    def _add_stream(self, number: int, name: str, url: str, **more: str) -> None:
        birth = {"version": __version__, "config": self._about.config_digest, **more}
        self._uplinks.add(number, name, url, self._journal.store(number, birth=birth))

    # -- while it runs

    @property
    def _feed_seconds(self) -> float:
        return min(SUPERVISION_SECONDS, (self._notifier.watchdog_seconds or 60.0) / 4)

    @property
    def _stalled_seconds(self) -> float:
        return min(STALLED_SECONDS, (self._notifier.watchdog_seconds or 60.0) * 0.75)

    async def _feed(self) -> None:
        """Feed the watchdog while the gateway stops. Its own turns do not count, but the journal's."""
        feeding = Feeding(time.monotonic() + STOPPING_SECONDS, self._stalled_seconds)
        while True:
            if feeding.is_due(self._journal.alive_at, time.monotonic()):
                self._notifier.watchdog()
            await asyncio.sleep(self._feed_seconds)

    async def _supervise(self) -> None:
        last_line = ""
        while not self._stop_asked.is_set():
            if not self._journal.running:
                return
            stalled = self._stalled()
            if stalled:
                event(_log, "error", "gateway.stalled", parts=", ".join(stalled))
            else:
                self._notifier.watchdog()
            now_line = self._line()
            if now_line != last_line:
                self._notifier.status(now_line)
                last_line = now_line
            try:
                async with asyncio.timeout(self._feed_seconds):
                    await self._stop_asked.wait()
            except TimeoutError:
                continue

    def _stalled(self) -> list[str]:
        """Parts that should have turned and have not."""
        parts = {"journal": self._journal.alive_at}
        parts.update({each.name: each.source.alive_at for each in self._sources})
        if self._embedded is not None:
            parts["embedded server"] = self._embedded.alive_at
        oldest = time.monotonic() - self._stalled_seconds
        return [name for name, alive_at in parts.items() if alive_at < oldest]

    def _in_journal(self, number: int) -> int:
        return sum(each.in_journal for each in self._journal.snapshot().streams if each.number == number)

    def _line(self) -> str:
        """One line for the service manager."""
        return line(
            [(each.name, each.source.snapshot().reason) for each in self._sources],
            self._journal.snapshot(),
            self._uplinks.snapshots(),
            embedded="" if self._embedded is None else self._embedded.snapshot().reason,
            downlink="" if self._downlink is None else self._downlink.trouble,
            config="" if self._about.refused is None else str(self._about.refused.problems[0]),
        )

    def _status(self, _arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        return document(
            self._about,
            [each.status() for each in self._sources],
            self._journal.snapshot(),
            self._uplinks.snapshots(),
            None if self._embedded is None else self._embedded.snapshot(),
            downlink=None if self._downlink is None else self._downlink.summary(),
            clock=self._timekeeper.summary(),
        )

    # -- stop

    async def _stop(self) -> None:
        if self._is_reloading and not self._was_told_to_end:
            self._notifier.reloading("taking up the configuration anew: no more intake")
        else:
            self._notifier.stopping("stopping: no more intake")
        event(_log, "info", "gateway.stopping", reload=self._is_reloading)
        if self._downlink is not None:
            await self._downlink.finish(FINISH_SECONDS)
            await self._downlink.stop()
        stops = [asyncio.to_thread(each.source.stop, SOURCE_STOP_SECONDS) for each in self._sources]
        for each, ended in zip(self._sources, await asyncio.gather(*stops), strict=True):
            if not ended:
                event(_log, "error", "gateway.source.stuck", source=each.name)
        if not self._journal.running:
            return
        await _until(self._settled, SETTLE_SECONDS)
        self._notifier.status("stopping: sending what is left")
        await _until(self._drained, DRAIN_SECONDS)
        backlog = sum(stream.in_journal for stream in self._journal.snapshot().streams)
        event(_log, "info", "gateway.drained", backlog=backlog)

    def _settled(self) -> bool:
        if self._downlink is not None and self._downlink.has_uncommitted:
            return False
        return self._journal.full or not any(each.intake.uncommitted for each in self._sources)

    def _drained(self) -> bool:
        return not any(
            stream.in_journal and self._uplinks.is_sending(stream.number)
            for stream in self._journal.snapshot().streams
        )


async def _until(condition: Callable[[], bool], timeout_seconds: float) -> None:
    """Wait for a condition, but not longer than the timeout; what it is for can go on without."""
    deadline = time.monotonic() + timeout_seconds
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110 - threads' counters have no event
        await asyncio.sleep(0.02)
