"""What is known of this machine's wall clock: whether it is synchronised, and when it was set.

On Linux the wall clock and the boot's clock (CLOCK_BOOTTIME) are slewed alike. Their difference, the **base**, is
the UTC time at which the boot's clock was 0, and it changes only when the wall clock is set: that is a step.
So a record that was stamped by a wrong clock, and has the boot's clock in it, can be corrected with a later base.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from ds_gateway import clock
from ds_gateway.logs import event, logger
from ds_gateway.records import NANOSECONDS, ClockState, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.clock import Instant
    from ds_gateway.records import Envelope

_log = logger("clock")

LOOK_SECONDS: Final = 1.0
"""How often the clock is looked at: what is stamped within so long of a change may not know of it."""
STEP_NS: Final = NANOSECONDS // 2
"""What the base must move by to count as a step; smaller ones add up until they do."""


class WallClock(Protocol):
    """How whoever makes records learns of the clock."""

    @property
    def state(self) -> ClockState | None:
        """What is known now; None where nobody looks."""
        ...  # pragma: no cover

    def stamp(self) -> tuple[ClockState | None, bytes]:
        """What is known now, and what a record made now says of it: members of its envelope, or nothing."""
        ...  # pragma: no cover


class Unwatched:
    """A wall clock that nobody looks at, and nothing is said of."""

    state: Final = None

    def stamp(self) -> tuple[None, bytes]:
        """Nothing."""
        return None, b""


UNWATCHED: Final = Unwatched()


def member(boot: str, boot_ns: int, envelope: Envelope = "plain") -> bytes:
    """What a record says that was stamped by a clock that is not synchronised."""
    seconds, rest = divmod(boot_ns, NANOSECONDS)
    mono = b"%d.%06d" % (seconds, rest // 1000)
    if envelope == "cloudevents":
        mono = b'"%b"' % mono  # attributes of CloudEvents are no fractions
    return b',"clock":"unsynced","boot":"%b","mono":%b' % (boot.encode("ascii"), mono)


def begun(boot: str, now: Instant, *, is_synchronised: bool) -> ClockState:
    """What the first look at the clock says."""
    return ClockState(boot, is_synchronised, now.wall_ns - now.boot_ns, now.boot_ns)


def follow(state: ClockState, now: Instant, *, is_synchronised: bool) -> ClockState:
    """What is known after one more look: the same object if nothing has changed."""
    base_ns = now.wall_ns - now.boot_ns
    if is_synchronised == state.is_synchronised and abs(base_ns - state.base_ns) < STEP_NS:
        return state
    return ClockState(state.boot, is_synchronised, base_ns, now.boot_ns)


@dataclass(frozen=True, slots=True)
class Step:
    """The wall clock was set."""

    seconds: float
    """Forward, or back where it is negative."""
    boot_ns: int
    """When that was noticed."""


class Timekeeper:
    """Looks at the clock once a second, in a thread of its own, so that records need not.

    ``trusted``: it counts as synchronised whatever the machine says; steps are noticed all the same.
    """

    def __init__(
        self,
        *,
        trusted: bool,
        is_synchronised: Callable[[], bool] | None = None,
        instant: Callable[[], Instant] = clock.instant,
        boot_ns: Callable[[], int] = clock.boot_ns,
        boot: str | None = None,
        envelope: Envelope = "plain",
    ) -> None:
        self.trusted = trusted
        self._envelope = envelope
        self._machine_says = is_synchronised or clock.is_synchronised
        self._instant = instant
        self._boot_ns = boot_ns
        boot = clock.boot_id() if boot is None else boot
        self._state = begun(boot.replace("-", "")[:8], instant(), is_synchronised=self._is_synchronised())
        self._since_ns = self._state.since_ns
        self._steps = 0
        self._last_step: Step | None = None
        self._on_change: Callable[[], None] = lambda: None
        self._stop_asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    def _is_synchronised(self) -> bool:
        return self.trusted or self._machine_says()

    @property
    def state(self) -> ClockState:
        """What is known now."""
        return self._state

    def stamp(self) -> tuple[ClockState, bytes]:
        """What is known now, and what a record made now says of it. Any thread."""
        state = self._state
        if state.is_synchronised:
            return state, b""
        return state, member(state.boot, self._boot_ns(), self._envelope)

    # -- looking

    def start(self, on_change: Callable[[], None]) -> None:
        """Look at it from now on. ``on_change`` is called in the thread that looks."""
        self._on_change = on_change
        if not self._state.is_synchronised:
            event(_log, "warning", "clock.unsynchronised", boot=self._state.boot)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop_asked.set()
        if self._thread.is_alive():
            self._thread.join(2 * LOOK_SECONDS)

    def _run(self) -> None:
        while not self._stop_asked.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - supervision boundary: the next look may be better
                event(_log, "error", "clock.defect", error=repr(error), exc=error)

    def look(self) -> None:
        """Look once, and tell what has changed."""
        before = self._state
        state = follow(before, self._instant(), is_synchronised=self._is_synchronised())
        if state is before:
            return
        moved_ns = state.base_ns - before.base_ns
        if abs(moved_ns) >= STEP_NS:
            self._steps += 1
            self._last_step = Step(round(moved_ns / NANOSECONDS, 6), state.since_ns)
            event(_log, "warning", "clock.stepped", seconds=self._last_step.seconds, boot=state.boot)
        if state.is_synchronised != before.is_synchronised:
            self._since_ns = state.since_ns
            good = state.is_synchronised
            name = "clock.synchronised" if good else "clock.unsynchronised"
            event(_log, "info" if good else "warning", name, boot=state.boot)
        self._state = state
        self._on_change()

    def summary(self) -> dict[str, Any]:
        """For ``status``. Times are by the clock as it is now."""
        state, step = self._state, self._last_step
        last = None
        if step is not None:
            last = {"time": rfc3339(state.base_ns + step.boot_ns), "seconds": step.seconds}
        return {
            "synchronised": state.is_synchronised,
            "trusted": self.trusted,
            "since": rfc3339(state.base_ns + self._since_ns),
            "boot": state.boot,
            "steps": self._steps,
            "last_step": last,
        }
