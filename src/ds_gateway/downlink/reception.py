"""What becomes of an element when it is read: taken, refused, answered again, or known already. Pure.

unreadable -> failed      id was there -> its status, repeated      too old -> expired
no route, no message for this payload -> failed                     else -> accepted, and `Ready` to be executed
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ds_gateway.commands import Receipt
from ds_gateway.downlink.ageing import Deadline, TooOld, age
from ds_gateway.downlink.book import Entry
from ds_gateway.downlink.parsing import OWN_ID_PREFIX, Refusal, parse

if TYPE_CHECKING:
    from ds_gateway.commands import Command, Delivery, Status
    from ds_gateway.downlink.ageing import Now
    from ds_gateway.downlink.book import Book, Rows
    from ds_gateway.downlink.ports import Message, Route, Routes

_UNREADABLE_AGAIN: Final = "it cannot be read again: the command stream was trimmed, or made anew"


@dataclass(frozen=True, slots=True)
class Write:
    """What is committed in one transaction."""

    rows: Rows
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A command that was accepted, with all that its execution needs."""

    number: int
    id: str
    device: str
    delivery: Delivery
    deadline: Deadline
    route: Route
    message: Message
    size_bytes: int
    """Of the element: what it takes in memory, roughly."""
    may_have_been_sent: bool = False
    """Whether an earlier process was about to send it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Under which circumstances an element is read."""

    now: Now
    is_live: bool
    """As it came, not in a catch-up."""


@dataclass(frozen=True, slots=True)
class Received:
    """What to do now."""

    write: Write | None = None
    ready: Ready | None = None
    is_lost: bool = field(default=False, kw_only=True)
    """Whether the stream has another command in this place than before: it is not the same stream."""


def receive(book: Book, element: bytes, number: int, routes: Routes, reading: Reading) -> Received:
    """Deal with an element that is read for the first time, or again after a restart."""
    if book.has_ended(number):
        return Received()
    parsed = parse(element, number)
    entry = book.entries.get(number)
    if entry is not None:
        if isinstance(parsed, Refusal) or (parsed.id, parsed.device) != (entry.id, entry.device):
            return Received(is_lost=True)
        return _resume(book, parsed, routes, reading, len(element))
    if isinstance(parsed, Refusal):
        return Received(_refuse(book, parsed, reading))
    known = book.known(parsed.id)
    if known is not None:
        return Received(_repeat(book, parsed, known, reading))
    if book.is_doubtful and parsed.id.startswith(OWN_ID_PREFIX):
        reason = (
            "the stream is read anew, or another gateway was at work: without an id nobody can tell whether this "
            "was done; give it one"
        )
        return Received(_refuse(book, _refusal(parsed, "no_id", reason), reading))
    return _take(book, parsed, routes, reading, len(element))


def abandon(book: Book, entry: Entry, now: Now) -> Write:
    """End a command that cannot be read again."""
    why = Refusal(entry.number, "unreadable_again", _UNREADABLE_AGAIN)
    return _unless_sent(book, entry, why, now)


def stranded(book: Book, now: Now) -> list[Write]:
    """End what an earlier process may have sent and nobody may send again. Once, at the start."""
    reason = "the gateway ended while it was sent, and at_most_once forbids to send it again"
    return [
        end(book, entry, "unknown", now, code="interrupted", reason=reason)
        for entry in book.open_entries
        if entry.state == "given" and entry.delivery == "at_most_once"
    ]


def overdue(book: Book, entry: Entry, now: Now, *, may_have_been_sent: bool) -> Write:
    """End a command whose time is over before it could be sent, or sent again."""
    if may_have_been_sent:
        reason = "its time was over before it could be sent again after a restart"
        return end(book, entry, "unknown", now, code="interrupted", reason=reason)
    return end(book, entry, "expired", now, code="expired", reason="its time was over before it could be sent")


def taken_over(book: Book, entry: Entry, status: Status | None, now: Now) -> Write:
    """End a command that another gateway may have done. ``status``: what that one told; None: nothing.

    It is a repetition in either case: whoever did it may tell so yet, when it has the claim again.
    """
    if status is None:
        code, reason = "taken_over", "another gateway with this gateway.id was at work, and may have done it"
    else:
        code, reason = "repeated", "another gateway with this gateway.id told this: it is not done again"
    told = status or "unknown"
    receipt = Receipt(
        entry.id,
        entry.number,
        entry.device,
        told,
        is_final=True,
        code=code,
        reason=reason,
        is_repeated=True,
    )
    return Write(book.end(entry.number, told, now.wall_ns), receipt)


def end(
    book: Book,
    entry: Entry,
    status: Status,
    now: Now,
    *,
    code: str = "",
    reason: str = "",
    reply: str | None = None,
) -> Write:
    """The terminal receipt of a command that was accepted."""
    receipt = Receipt(entry.id, entry.number, entry.device, status, True, code, reason, reply)
    return Write(book.end(entry.number, status, now.wall_ns), receipt)


def _unless_sent(book: Book, entry: Entry, why: Refusal, now: Now) -> Write:
    """Fail it, which is only true if it was never sent; else nobody can tell."""
    status: Status = "unknown" if entry.state == "given" else "failed"
    return end(book, entry, status, now, code=why.code, reason=why.reason)


def _refusal(command: Command, code: str, reason: str) -> Refusal:
    return Refusal(command.number, code, reason, command.device, command.id)


def _refuse(
    book: Book, refusal: Refusal, reading: Reading, status: Status = "failed", command_id: str = ""
) -> Write:
    """End a command that is not taken. ``command_id``: to be known as done from now on; empty: not."""
    receipt = Receipt(
        refusal.id,
        refusal.number,
        refusal.device,
        status,
        is_final=True,
        code=refusal.code,
        reason=refusal.reason,
    )
    return Write(book.end(refusal.number, status, reading.now.wall_ns, command_id), receipt)


def _repeat(book: Book, command: Command, known: tuple[Status, bool], reading: Reading) -> Write:
    status, is_final = known
    receipt = Receipt(
        command.id,
        command.number,
        command.device,
        status,
        is_final=is_final,
        code="repeated",
        reason="this id was there before: it is not done again",
        is_repeated=True,
    )
    return Write(book.end(command.number, status, reading.now.wall_ns), receipt)


def _take(book: Book, command: Command, routes: Routes, reading: Reading, size: int) -> Received:
    found = _route(command, routes)
    if isinstance(found, Refusal):
        return Received(_refuse(book, found, reading, command_id=command.id))
    route, message = found
    deadline = age(
        command,
        reading.now,
        expires_after_seconds=route.expires_after_seconds,
        floor_ns=book.ids.floor_ns,
        is_live=reading.is_live,
    )
    if isinstance(deadline, TooOld):
        refusal = _refusal(command, deadline.code, deadline.reason)
        return Received(_refuse(book, refusal, reading, deadline.status, command.id))
    delivery = command.delivery or route.delivery
    entry = Entry(
        command.number,
        command.id,
        command.device,
        delivery,
        "accepted",
        deadline.wall_ns,
        reading.now.wall_ns,
    )
    receipt = Receipt(command.id, command.number, command.device, "accepted", is_final=False)
    ready = Ready(command.number, command.id, command.device, delivery, deadline, route, message, size)
    return Received(Write(book.accept(entry), receipt), ready)


def _resume(book: Book, parsed: Command, routes: Routes, reading: Reading, size: int) -> Received:
    """Go on with a command that an earlier process, or this one before an error, has accepted."""
    entry = book.entries[parsed.number]
    deadline = Deadline.at(entry.deadline_ns, reading.now)
    if deadline.is_over(reading.now):
        return Received(overdue(book, entry, reading.now, may_have_been_sent=entry.state == "given"))
    found = _route(parsed, routes)
    if isinstance(found, Refusal):
        return Received(_unless_sent(book, entry, found, reading.now))
    route, message = found
    return Received(
        None,
        Ready(
            entry.number,
            entry.id,
            entry.device,
            entry.delivery,
            deadline,
            route,
            message,
            size,
            may_have_been_sent=entry.state == "given",
        ),
    )


def _route(command: Command, routes: Routes) -> tuple[Route, Message] | Refusal:
    """The way to the device and what is sent there, or why not."""
    try:
        route = routes.route(command.device)
    except ValueError as error:
        return _refusal(command, getattr(error, "code", "unknown_device"), str(error))
    try:
        message = route.message(command.payload)
    except ValueError as error:
        return _refusal(command, getattr(error, "code", "bad_payload"), str(error))
    return route, message
