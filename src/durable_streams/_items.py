"""What a caller iterates over, and the checkpoint that goes with it.

The checkpoint is the offset from which nothing is skipped that was not handed out. It stands at the start of a
page until the page's last item is handed out, and then moves behind the page. So an offset that is saved after
an item was dealt with never skips one; resuming from it repeats at most the items of one page.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

if TYPE_CHECKING:
    from durable_streams._decoding import Decoder, Page
    from durable_streams._effects import Flow
    from durable_streams._reader import Reader

T = TypeVar("T")


@final
class End:
    """No more items."""


END: Final = End()


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
    """The items of a read, one at a time."""

    def __init__(
        self, reader: Reader, decoder: Decoder[T], checkpoint: Checkpoint, *, until_up_to_date: bool = False
    ) -> None:
        self._reader = reader
        self._decoder = decoder
        self._checkpoint = checkpoint
        self._until_up_to_date = until_up_to_date
        self._ready: deque[T] = deque()
        self._passed: Page | None = None
        self._finished = False

    def next(self) -> Flow[T | End]:
        """Return the next item, or `END`. In a live read it waits for one."""
        while not self._ready:
            if self._finished:
                return END
            piece = yield from self._reader.pull(until_up_to_date=self._until_up_to_date)
            if piece is None:
                self._finished = True
                self._ready.extend(self._decoder.finish())
                continue
            if piece.first:
                self._decoder.begin_page()
            self._ready.extend(self._decoder.feed(piece.data))
            if piece.last:
                self._ready.extend(self._decoder.end_page(piece.page))
                self._passed = piece.page
                self._pass_page()
        item = self._ready.popleft()
        self._pass_page()
        return item

    def all(self) -> Flow[list[T]]:
        """Return the items that are left."""
        items: list[T] = []
        while True:
            item = yield from self.next()
            if isinstance(item, End):
                return items
            items.append(item)

    def _pass_page(self) -> None:
        if self._passed is not None and not self._ready:
            self._checkpoint.pass_page(self._passed, complete=self._decoder.complete)
            self._passed = None
