"""What a caller iterates over, and the checkpoint that goes with it.

The checkpoint is the offset from which nothing is skipped that was not handed out. It stands at the start of a
page until the page's last item is handed out, and then moves behind the page. So an offset that is saved after
an item was dealt with never skips one; resuming from it repeats at most the items of one page.

Items get ready by the hundreds: `Items.ready` hands them out without any of this package's code between two of
them. Only the last item of a page is handed out separately, because the checkpoint moves with it.

An interrupt (Ctrl-C) may come between any two steps. In a wait it does no harm. Anywhere else it may leave things
half done: then nothing more comes out, and the checkpoint stays where it is safe.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from durable_streams._json_pages import CutShortError
from durable_streams.errors import DurableStreamError, ParseError, StreamConsumedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from durable_streams._decoding import Decoder
    from durable_streams._effects import Flow
    from durable_streams._pages import Page, Piece
    from durable_streams._reader import Reader

T = TypeVar("T")


class End(Enum):
    """No more items. Ask for it with ``is``, which nothing can interrupt."""

    END = "end"


END: Final = End.END


class Checkpoint:
    """What a response says about its position, to whoever iterates over it."""

    def __init__(self, offset: str, cursor: str | None) -> None:
        self.offset = offset
        self.cursor = cursor
        self.up_to_date = False
        self.closed = False

    def pass_page(self, page: Page, *, complete: bool) -> None:
        """Move behind a page whose items are all handed out.

        With an incomplete decoder the offset stays: the half character at the page's end was not handed out.
        """
        if complete:
            self.offset = page.next_offset
        self.cursor = page.cursor
        self.up_to_date = page.up_to_date
        self.closed = page.closed


class Items(Generic[T]):
    """The items of a read. Take them from ``ready``, then `take_last`; then `fill` gets the next ones.

    ``convert`` is the caller's, and called when an item is handed out: an item that it fails on costs no other.
    """

    def __init__(
        self,
        reader: Reader,
        decoder: Decoder[Any],
        checkpoint: Checkpoint,
        *,
        until_up_to_date: bool = False,
        convert: Callable[[Any], T] | None = None,
    ) -> None:
        self.ready: Iterator[T] = iter(())
        self._reader = reader
        self._decoder = decoder
        self._checkpoint = checkpoint
        self._until_up_to_date = until_up_to_date
        self._convert = None if convert is None else _guarded(convert)
        self._last: list[Any] = []
        self._passed: Page | None = None
        self._at_once = False
        self._finished = False
        self._stopped = False
        self._torn = False
        self._unreadable: ParseError | None = None

    def take_last(self) -> T | End:
        """Return the last item of a page, once all others are taken, and move the checkpoint; or `END`."""
        if self._torn or not self._last:
            return END
        item = self._last.pop()
        if self._convert is not None:
            item = self._convert(item)
        self._pass_page()
        last: T = item
        return last

    def fill(self) -> Flow[bool]:
        """Get more items; return False at the end. In a live read it waits for some.

        Raises again and again what could not be read, and that it was interrupted outside of a wait: to go on
        behind it would be to skip something.
        """
        if self._torn:
            raise StreamConsumedError(
                "the read was interrupted and cannot go on; open the stream again, from res.offset",
                url=self._reader.url,
            )
        if self._unreadable is not None:
            raise self._unreadable
        flow = self._fill()
        outcome: Any = None
        while True:
            self._torn = True  # unless what follows comes to an end of its own
            try:
                effect = flow.send(outcome)
            except StopIteration as done:
                self._torn = False
                more: bool = done.value
                return more
            except DurableStreamError:
                self._torn = False
                raise
            self._torn = False
            outcome = yield effect

    def tear(self) -> None:
        """Note that whoever took an item was interrupted, and may not have got it: nothing more comes out."""
        self._torn = True
        self.ready = iter(())

    def stop(self) -> None:
        """Let nothing more come out. The checkpoint stays at what did."""
        self._finished = self._stopped = True
        self._torn, self._unreadable = False, None
        self.ready, self._last, self._passed = iter(()), [], None

    def all(self) -> Flow[list[T]]:
        """Return the items that are left. An error costs them all: the checkpoint moves behind them at the end."""
        self._at_once = True
        items: list[T] = []
        while True:
            items.extend(self.ready)
            last = self.take_last()
            if last is not END:
                items.append(last)
            more = yield from self.fill()
            if not more:
                self._at_once = False
                self._pass_page()
                return items

    def _fill(self) -> Flow[bool]:
        self._pass_page()
        try:
            while not self._finished:
                piece = yield from self._reader.pull(until_up_to_date=self._until_up_to_date)
                if self._stopped:
                    break
                try:
                    items = self._decoder.finish() if piece is None else self._decode(piece)
                except CutShortError:
                    if piece is not None and self._reader.read_again(piece.page):
                        continue
                    raise
                self._finished = piece is None
                if items:
                    self._offer(items)
                    return True
                self._pass_page()
        except ParseError as error:
            self._unreadable = error
            error.url, error.status = self._reader.url, self._reader.status
            raise
        return False

    def _decode(self, piece: Piece) -> Sequence[Any]:
        if piece.first:
            self._decoder.begin_page(piece.page.start)
        items = self._decoder.feed(piece.data)
        if piece.whole:
            items = _joined(items, self._decoder.end_document())
        if piece.last:
            items = _joined(items, self._decoder.end_page(piece.page))
        if piece.last or self._decoder.page_complete:
            self._passed = piece.page
        return items

    def _offer(self, items: Sequence[Any]) -> None:
        if self._passed is not None:
            self._last = [items[-1]]
            items = items[:-1]
        self.ready = iter(items) if self._convert is None else map(self._convert, items)

    def _pass_page(self) -> None:
        if self._passed is not None and not self._at_once:
            self._checkpoint.pass_page(self._passed, complete=self._decoder.complete)
            self._passed = None


def _guarded(convert: Callable[[Any], T]) -> Callable[[Any], T]:
    """Keep a StopIteration of the caller's own from being taken for the end of the items."""

    def guarded(item: Any) -> T:
        try:
            return convert(item)
        except StopIteration as error:
            raise RuntimeError("decode raised StopIteration") from error

    return guarded


def _joined(items: Sequence[Any], more: Sequence[Any]) -> Sequence[Any]:
    return [*items, *more] if items and more else items or more
