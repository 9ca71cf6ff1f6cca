"""Reads of a scripted server, without a front: what a flow asks for is answered from a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from durable_streams._decoding import BytesDecoder
from durable_streams._effects import CloseBody, Consult, Effect, Flow, NextChunk, Open, Sleep
from durable_streams._items import Checkpoint, Items
from durable_streams._reader import Reader
from durable_streams._sync_response import ItemIterator
from durable_streams._wire import Answer, Failure, Reply, Request
from harness.stream_client import URL, Clock, policy

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

BROKE = Failure("the answer broke off")

Exchange = tuple[Answer, list[bytes | Failure]]


def page(next_offset: str, *chunks: bytes | Failure, **headers: str) -> Exchange:
    """A page, and the chunks that it arrives in."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(200, {"stream-next-offset": next_offset, **named}), list(chunks)


def idle(offset: str, **headers: str) -> Exchange:
    """The end of a long-poll without news."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(204, {"stream-next-offset": offset, "stream-up-to-date": "true", **named}), []


def event_stream(*chunks: bytes | Failure, **headers: str) -> Exchange:
    """The head of an event stream, and the chunks that its events arrive in."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(200, {"content-type": "text/event-stream", **named}), list(chunks)


def refusal(status: int, **headers: str) -> Exchange:
    """An answer without data."""
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}), []


def failure(reason: str = "down", *, sent: bool = False) -> Exchange:
    """No answer."""
    return Failure(reason, sent=sent), []


def data(*lines: str) -> bytes:
    """A data event."""
    return ("event: data\n" + "".join(f"data: {line}\n" for line in lines) + "\n").encode()


def control(
    next_offset: str, *, cursor: str | None = None, up_to_date: bool = False, closed: bool = False
) -> bytes:
    """A control event."""
    fields = [f'"streamNextOffset":"{next_offset}"']
    fields += [f'"streamCursor":"{cursor}"'] if cursor is not None else []
    fields += ['"upToDate":true'] if up_to_date else []
    fields += ['"streamClosed":true'] if closed else []
    return f"event: control\ndata: {{{','.join(fields)}}}\n\n".encode()


@dataclass
class Script:
    """Answers in order; each has the chunks of its body."""

    exchanges: list[Exchange]
    clock: Clock = field(default_factory=Clock)
    requests: list[Request] = field(default_factory=list)
    sleeps: list[float] = field(default_factory=list)
    consulted: list[Exception] = field(default_factory=list)
    try_again: bool = False
    interrupted: type[Effect] | None = None
    """Effects of this kind are interrupted, as by a cancellation."""
    seconds_per_request: float = 0.0
    closed: int = 0
    """How many bodies were let go of before their end."""
    _body: list[bytes | Failure] | None = None

    def run(self, flow: Flow[T]) -> T:
        """Perform the flow's effects from the script until it returns."""
        outcome: Any = None
        try:
            while True:
                outcome = self._perform(flow.send(outcome))
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            flow.close()

    def _perform(self, effect: Effect) -> Any:
        if self.interrupted is not None and isinstance(effect, self.interrupted):
            raise KeyboardInterrupt
        match effect:
            case Open(request):
                return self._open(request)
            case NextChunk():
                assert self._body is not None, "nothing is open"
                return self._body.pop(0) if self._body else b""
            case CloseBody():
                self.closed += self._body is not None and bool(self._body)
                self._body = None
            case Sleep(seconds):
                self.sleeps.append(seconds)
                self.clock.seconds += seconds
            case Consult(error):
                self.consulted.append(error)
                return self.try_again
            case Request():
                raise AssertionError("reads stream their answers")
        return None

    def _open(self, request: Request) -> Answer:
        self.requests.append(request)
        self.clock.seconds += self.seconds_per_request
        answer, chunks = self.exchanges.pop(0)
        self._body = list(chunks)
        return answer


@dataclass
class Stored(Script):
    """Answers by the offset that is asked for, however often."""

    pages: dict[str, Exchange] = field(default_factory=dict)

    def _open(self, request: Request) -> Answer:
        self.exchanges.append(self.pages[dict(request.params)["offset"]])
        return super()._open(request)


class Reading:
    """A read of a scripted server, item by item."""

    def __init__(self, script: Script, decoder: Any = None, **options: Any) -> None:
        chosen: dict[str, Any] = {"offset": "-1", "live": False, **options}
        until_up_to_date = chosen.pop("until_up_to_date", False)
        convert = chosen.pop("convert", None)
        self.script = script
        self.reader = Reader(URL, policy(script.clock), **chosen)
        self.checkpoint = Checkpoint(chosen["offset"], chosen.get("cursor"))
        self.items: Items[Any] = Items(
            self.reader,
            decoder or BytesDecoder(),
            self.checkpoint,
            until_up_to_date=until_up_to_date,
            convert=convert,
        )
        carrier: Any = script
        self._iterator = ItemIterator(self.items, carrier)

    def open(self) -> None:
        """Wait for the first answer."""
        self.script.run(self.reader.open())

    def next(self) -> Any:
        """The next item; StopIteration at the end."""
        return next(self._iterator)

    def rest(self) -> list[Any]:
        """All items that are left."""
        return list(self._iterator)

    def asked(self) -> list[dict[str, str]]:
        """The parameters of each request."""
        return [dict(request.params) for request in self.script.requests]


def read(exchanges: Iterable[Exchange], decoder: Any = None, **options: Any) -> Reading:
    """A read of a server that gives these answers."""
    scripted = {name: options.pop(name) for name in ("try_again", "seconds_per_request") if name in options}
    return Reading(Script(list(exchanges), **scripted), decoder, **options)
