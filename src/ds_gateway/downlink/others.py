"""Whose receipts are in the receipts stream, and what did other gateways with this identity do? Pure.

    birth, life a (ours)    receipts of ours    birth, life b (another's)    receipts of the other    birth, ours

Whoever claims the stream says so with a birth record, which has a word of this run of this journal, its **life**.
Nobody else can write until the next claim, so a receipt belongs to the life whose birth comes before it. Where no
birth says it, the record's id does: a journal knows which positions it gave.

A journal that was copied while its gateway ran shares that one's life up to the copy: what comes under a life of
ours, and was never accepted by this journal, is another's all the same.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, get_args

import orjson

from ds_gateway.commands import Status
from ds_gateway.downlink.pages import elements
from ds_gateway.records import control_info

if TYPE_CHECKING:
    from collections.abc import Collection

_STATUSES: Final = frozenset(get_args(Status))
_UNKNOWN_STILL: Final = frozenset({"malformed", "too_large"})
"""Codes of what was refused before it was looked at: its id is not taken for done."""


@dataclass(frozen=True, slots=True)
class Told:
    """What another gateway's receipt says."""

    command_id: str
    number: int
    status: Status
    is_final: bool
    time_ns: int


class Others:
    """Takes the records of the stream in their order."""

    def __init__(self, *, install: str, accepted: int, lives: Collection[str], since_ns: int = 0) -> None:
        """``install``, ``accepted``: what ids of this journal begin with, and the last position that it gave.

        ``lives``: of this journal, the present one last. What is older than ``since_ns`` is of no interest.
        """
        self.was_there = False
        """Whether another gateway had the claim."""
        self.is_ours_now = False
        """Whether the last claim is the present life's."""
        self._prefix = f"{install}."
        self._accepted = accepted
        self._lives = frozenset(lives)
        self._life = list(lives)[-1]
        self._since_ns = since_ns
        self._is_ours: bool | None = None
        """Whose the claim is; None: nobody knows."""

    def take(self, record: object) -> Told | None:
        """Look at one record; return what it says of a command, if it is another gateway's receipt."""
        if not isinstance(record, dict):
            return None  # not a gateway's
        match record:
            case {"kind": "birth"}:
                self._take_claim(record)
            case {"kind": "receipt", "id": str(record_id)} if info := control_info(record, "receipt"):
                if not self._gave(record_id) and self._is_recent(record):
                    self.was_there = True
                    return _told(info, _time_ns(record))
            case _:
                pass
        return None

    def _take_claim(self, birth: dict[str, Any]) -> None:
        match control_info(birth, "birth"):
            case {"life": str(life)}:
                self._is_ours, self.is_ours_now = life in self._lives, life == self._life
                self.was_there |= not self._is_ours and self._is_recent(birth)
            case _:
                self._is_ours, self.is_ours_now = None, False  # of a version that did not tell

    def _gave(self, record_id: str) -> bool:
        """Whether this journal gave a record its position."""
        if self.is_ours_now:
            return True
        if self._is_ours is False or not record_id.startswith(self._prefix):
            return False
        position = record_id.rpartition(".")[2]
        return position.isdigit() and int(position) <= self._accepted

    def _is_recent(self, record: dict[str, Any]) -> bool:
        return _time_ns(record) >= self._since_ns


def records(page: bytes) -> list[Any]:
    """The records of a page, without what nobody can read. Raises `DownlinkError` for what is no page.

    A page that has something unreadable in it is cut by brackets, which takes ten times as long.
    """
    try:
        found = orjson.loads(page)
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, list):
        return found
    readable = []
    for element in elements(page):
        with contextlib.suppress(orjson.JSONDecodeError):
            readable.append(orjson.loads(element))
    return readable


def _told(info: dict[str, Any], time_ns: int) -> Told | None:
    match info:
        case {
            "command": str(command_id),
            "number": int(number),
            "status": str(status),
            "final": bool(is_final),
        } if status in _STATUSES and not info.get("repeated") and info.get("code") not in _UNKNOWN_STILL:
            return Told(command_id, max(number, 0), status, is_final, time_ns)  # type: ignore[arg-type]
        case _:
            return None


def _time_ns(record: dict[str, Any]) -> int:
    """When it was written; 0 of a record that does not say it."""
    try:
        return int(datetime.fromisoformat(record["time"]).timestamp() * 1000) * 1_000_000
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0
