"""From a `Receipt` to a record of the receipts stream. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.downlink.parsing import OWN_DEVICE
from ds_gateway.records import Record, control_tail

if TYPE_CHECKING:
    from ds_gateway.commands import Receipt
    from ds_gateway.records import ClockState, Envelope

MAX_REASON_CHARACTERS: Final = 1000
MAX_REPLY_CHARACTERS: Final = 4096
MAX_OWN_REPLY_CHARACTERS: Final = 32 * 1024
"""Of the gateway itself: its status is longer than what devices say."""
TYPICAL_BYTES: Final = 3 * 1024
"""What the receipts of one command take in the journal, with an answer of a usual length."""


def record(
    receipt: Receipt,
    *,
    stream: str,
    gateway: str,
    time_ns: int,
    stamp: tuple[ClockState | None, bytes] = (None, b""),
    envelope: Envelope = "plain",
) -> Record:
    """Render a receipt. ``stamp``: from `timekeeping.WallClock.stamp`."""
    clock, said = stamp
    info: dict[str, Any] = {
        "command": receipt.command_id,
        "number": receipt.number,
        "status": receipt.status,
        "final": receipt.is_final,
    }
    if receipt.code:
        info["code"] = receipt.code
    if receipt.reason:
        info["reason"] = _text(receipt.reason, MAX_REASON_CHARACTERS)
    if receipt.reply is not None:
        longest = MAX_OWN_REPLY_CHARACTERS if receipt.device == OWN_DEVICE else MAX_REPLY_CHARACTERS
        info["reply"] = _text(receipt.reply, longest)
    if receipt.is_repeated:
        info["repeated"] = True
    tail = control_tail(
        gateway=gateway,
        device=receipt.device,
        time_ns=time_ns,
        kind="receipt",
        info=orjson.dumps(info),
        clock=said,
        envelope=envelope,
    )
    return Record(stream, receipt.device, tail, clock=clock)


def _text(text: str, longest: int) -> str:
    """Text that JSON can carry: what a device says may be cut inside a character."""
    return text[:longest].encode(errors="replace").decode()
