"""A machine's clocks that a test sets, and a `Timekeeper` over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ds_gateway.clock import Instant
from ds_gateway.timekeeping import Timekeeper

if TYPE_CHECKING:
    from ds_gateway.records import Envelope

SECOND: Final = 1_000_000_000
YEAR: Final = 365 * 24 * 3600 * SECOND
TRUE_NS: Final = 1_790_000_000 * SECOND
"""What the time really is when the boot's clock shows 0."""


class Clocks:
    """Time passes and the wall clock is set when a test says so."""

    def __init__(self, *, off_ns: int = 0, is_synchronised: bool = False) -> None:
        self.off_ns = off_ns
        self.is_synchronised = is_synchronised
        self.boot_ns = 0

    @property
    def true_ns(self) -> int:
        return TRUE_NS + self.boot_ns

    def wall_ns(self) -> int:
        return self.true_ns + self.off_ns

    def timekeeper(
        self, boot: str = "11111111", *, trusted: bool = False, envelope: Envelope = "plain"
    ) -> Timekeeper:
        return Timekeeper(
            trusted=trusted,
            is_synchronised=lambda: self.is_synchronised,
            instant=lambda: Instant(self.wall_ns(), self.boot_ns),
            boot_ns=lambda: self.boot_ns,
            boot=boot,
            envelope=envelope,
        )
