"""What the gateway knows durably about its commands, and what it decides about it. Pure: no I/O, no clock.

    at.offset        at.through                            head
       |  ended, all    |  open, or ended out of order       |  not read yet

| row          | holds                                                                                       |
|--------------|---------------------------------------------------------------------------------------------|
| `at`         | the checkpoint (`Place`), and `through`: all commands before this number ended              |
| `c<number>`  | a command from `through` on that was accepted, or that ended                                |
| `i<digest>`  | the id of one that ended in the last day (`ids`)                                            |
| `life`       | the words by which claims of this journal are known (`others`), and `Looked`                |

A number is counted from the first offset that was read, so it is the same however pages fall. It is never given
twice, not even when the stream begins anew. Every method returns the rows that go with it; they are committed in
one transaction with the receipt that they belong to, and in the order of the calls.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from ds_gateway.downlink.ids import FLOOR, PREFIX, Done, DoneIds
from ds_gateway.downlink.parsing import OWN_ID_PREFIX
from ds_gateway.errors import JournalDamagedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ds_gateway.commands import Delivery, Status

AT: Final = "at"
LIFE: Final = "life"
MAX_LIVES: Final = 256
"""Starts whose claims are known as this journal's own."""
START_OFFSET: Final = "-1"
_ENTRY: Final = "c"

Rows = dict[str, bytes | None]
Mark = tuple[str, str]
"""An offset, and the digest of the element that follows on it: by that the same stream is known again."""
State = Literal[
    "accepted",  # not a byte of it was sent
    "given",  # it may have been sent
    "ended",  # it has its terminal receipt
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where reading goes on."""

    offset: str
    number: int
    """Of the next command."""
    mark: Mark | None = None
    """Of the last page before, if that is known."""


@dataclass(frozen=True, slots=True)
class Looked:
    """How far the receipts stream was looked through for what other gateways did."""

    url: str
    offset: str
    epoch: int
    """What is behind the offset, and was written under this epoch, is ours."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One command behind the contiguous prefix."""

    number: int
    id: str
    device: str
    delivery: Delivery
    state: State
    deadline_ns: int
    since_ns: int
    """When it was accepted."""
    status: Status = "accepted"
    """What its last receipt said."""

    @property
    def is_open(self) -> bool:
        """Whether it has no terminal receipt yet."""
        return self.state != "ended"


class Book:
    """Used on the event loop; the rows that it was restored from are its only past."""

    def __init__(self) -> None:
        self.at: Place | None = None
        """The checkpoint; None before the first."""
        self.through = 0
        """All commands before this number ended."""
        self.is_doubtful = False
        """Whether some of what is read next may have been done: the place in the stream was lost, or another
        gateway did commands without ids meanwhile."""
        self.ids = DoneIds()
        self.lives: list[str] = []
        """Of this journal, the present one last."""
        self.looked: Looked | None = None
        self.entries: dict[int, Entry] = {}
        self._by_id: dict[str, int] = {}
        self._ends: deque[Place] = deque()
        """Ends of pages behind the checkpoint."""

    @classmethod
    def restored(cls, rows: Mapping[str, bytes]) -> Book:
        """From the gate's rows. Raises `JournalDamagedError` if they are not what a book wrote."""
        book = cls()
        try:
            if AT in rows:
                at: dict[str, Any] = orjson.loads(rows[AT])
                mark = None if at["mark"] is None else (at["mark"][0], at["mark"][1])
                book.at = Place(at["offset"], at["number"], mark)
                book.through, book.is_doubtful = at["through"], at["doubtful"]
            if LIFE in rows:
                life: dict[str, Any] = orjson.loads(rows[LIFE])
                book.lives = [str(each) for each in life["lives"]]
                book.looked = None if life["looked"] is None else Looked(**life["looked"])
            for name, row in rows.items():
                if name[0] == _ENTRY:
                    book._put(Entry(**orjson.loads(row)))
            book.ids = DoneIds.restored(rows)
        except (LookupError, TypeError, ValueError) as error:
            raise JournalDamagedError(f"a row of the downlink is not readable: {error}") from error
        return book

    # -- what is known

    @property
    def open_entries(self) -> list[Entry]:
        """Commands without a terminal receipt, oldest first."""
        return [self.entries[number] for number in sorted(self.entries) if self.entries[number].is_open]

    @property
    def open_count(self) -> int:
        """How many those are."""
        return len(self._by_id)

    @property
    def lost_entries(self) -> list[Entry]:
        """Those of them that lie before the checkpoint, and so are never read again."""
        return [entry for entry in self.open_entries if entry.number < self.through]

    def has_ended(self, number: int) -> bool:
        """Whether this command has its terminal receipt."""
        entry = self.entries.get(number)
        return number < self.through if entry is None else not entry.is_open

    def is_open(self, command_id: str) -> bool:
        """Whether a command with this id has no terminal receipt yet."""
        return command_id in self._by_id

    def known(self, command_id: str) -> tuple[Status, bool] | None:
        """What an id's last receipt said, and whether that was final; None for an id that was never there."""
        number = self._by_id.get(command_id)
        if number is not None:
            return self.entries[number].status, False
        done = self.ids.find(command_id)
        return None if done is None else (done.status, True)

    # -- what happens

    def begin(self, offset: str) -> Rows:
        """Count from here."""
        self.at = Place(offset, self.through)
        return self._at_row()

    def begin_again(self, offset: str) -> Rows:
        """The place in the stream is lost: read anew from here, under new numbers.

        What is open stays open, but no other process can read it again (`lost_entries`).
        """
        ended = [number for number, entry in self.entries.items() if not entry.is_open]
        rows: Rows = {_name(number): None for number in ended}
        ends = (end.number for end in self._ends)
        following = max([self.through, *ends, *(number + 1 for number in self.entries)])
        for number in ended:
            del self.entries[number]
        self._ends.clear()
        self.at, self.through = Place(offset, following), following
        self.is_doubtful = True
        return rows | self._at_row()

    def settle(self) -> Rows:
        """What was there when the place was lost has been read; nothing is doubtful any more."""
        self.is_doubtful = False
        return self._at_row()

    def bound(self, end: Place) -> None:
        """A page ends here: only there can be a checkpoint. Told before its commands are dealt with.

        Pages that end elsewhere than when they were read before are told in vain, as far as they were.
        """
        last = self._ends[-1] if self._ends else self.at
        if last is None or end.number > last.number:
            self._ends.append(end)
        elif end.number == last.number and not self._ends:
            self.at = replace(last, offset=end.offset)  # nothing but an empty page lies between
        self._move()

    def begin_life(self, life: str) -> Rows:
        """This word is in the claims from now on."""
        self.lives = [*self.lives, life][-MAX_LIVES:]
        return self._life_row()

    def look_through(self, looked: Looked) -> Rows:
        """Everything of other gateways up to here is known."""
        self.looked = looked
        return self._life_row()

    def told_by_another(self, command_id: str, done: Done, *, is_final: bool) -> Rows:
        """Another gateway had this command, and must have been the only one."""
        if command_id.startswith(OWN_ID_PREFIX):
            # Its number there says nothing about the command here.
            self.is_doubtful = True
            return {} if self.at is None else self._at_row()
        if is_final:
            return self.ids.add(command_id, done)
        if self.ids.find(command_id) is not None:
            return {}
        return self.ids.add(command_id, replace(done, status="unknown"))

    def accept(self, entry: Entry) -> Rows:
        """A command is taken: from now on it is owed a terminal receipt."""
        assert not self.has_ended(entry.number), "a number is given once"
        return self._write(entry)

    def give(self, number: int) -> Rows:
        """It is about to be handed to its device: from now on it may have been sent."""
        return self._write(replace(self.entries[number], state="given"))

    def tell(self, number: int, status: Status) -> Rows:
        """A receipt that is not final."""
        return self._write(replace(self.entries[number], status=status))

    def end(self, number: int, status: Status, now_ns: int, command_id: str = "") -> Rows:
        """It has its terminal receipt. ``command_id`` is for one that was never accepted; empty: not to be known.

        Moves the checkpoint as far as everything before it ended.
        """
        entry = self.entries.get(number)
        if entry is not None:
            assert entry.is_open, "a command ends once"
            del self._by_id[entry.id]
            command_id = entry.id
        rows: Rows = {}
        if command_id and not command_id.startswith(OWN_ID_PREFIX):
            rows |= self.ids.add(command_id, Done(status, number, now_ns))
        if entry is not None and number <= self.through:
            del self.entries[number]
            rows[_name(number)] = None
        if number < self.through:
            return rows
        if number == self.through:
            self.through += 1
            while (following := self.entries.get(self.through)) is not None and not following.is_open:
                del self.entries[self.through]
                rows[_name(self.through)] = None
                self.through += 1
            self._move()
            return rows | self._at_row()
        ended = entry or Entry(number, "", "", "at_least_once", "ended", 0, now_ns)
        return rows | self._write(replace(ended, state="ended", status=status, id="", device=""))

    def _write(self, entry: Entry) -> Rows:
        self._put(entry)
        return {_name(entry.number): orjson.dumps(asdict(entry))}

    def _put(self, entry: Entry) -> None:
        self.entries[entry.number] = entry
        if entry.is_open:
            self._by_id[entry.id] = entry.number

    def _move(self) -> None:
        """Move the checkpoint to the last page's end before which everything ended."""
        while self._ends and self._ends[0].number <= self.through:
            self.at = self._ends.popleft()

    def _life_row(self) -> Rows:
        looked = None if self.looked is None else asdict(self.looked)
        return {LIFE: orjson.dumps({"lives": self.lives, "looked": looked})}

    def _at_row(self) -> Rows:
        assert self.at is not None, "counting has begun"
        at = {"offset": self.at.offset, "number": self.at.number, "mark": self.at.mark}
        return {AT: orjson.dumps(at | {"through": self.through, "doubtful": self.is_doubtful})}


def _name(number: int) -> str:
    return f"{_ENTRY}{number}"


assert AT[0] not in {_ENTRY, PREFIX}, "names tell the rows apart"
assert FLOOR[0] not in {_ENTRY, PREFIX}, "names tell the rows apart"
assert LIFE[0] not in {_ENTRY, PREFIX}, "names tell the rows apart"
