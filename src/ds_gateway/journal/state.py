"""The journal's memory: what opening reads from the small rows, and what every transaction carries on."""

from __future__ import annotations

import base64
import secrets
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.errors import JournalDamagedError, JournalFormatError, JournalIdentityError
from ds_gateway.journal import rows
from ds_gateway.journal.book import Book

if TYPE_CHECKING:
    from ds_gateway.journal.disk import Disk
    from ds_gateway.records import Envelope

_FIRST_OF_THE_MANY: Final = "q/"
"""Keys from here on are numerous and are not read at open."""
_AFTER_ALL: Final = "~"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this journal belongs to; frozen when it is made."""

    gateway: str
    install: str
    """26 letters and digits, made once."""
    first_install: str = ""
    """The install that brokers know our sessions by; empty: this one.

    A salvaged journal is a new install, but what brokers hold for us must not be left behind with the old one.
    """
    first_gateway: str = ""
    """Likewise the gateway id, where the journal was given to another one (`adopting`); empty: this one."""

    @property
    def short_install(self) -> str:
        """What record ids begin with."""
        return self.install[:8]

    @property
    def producer_id(self) -> str:
        """The producer id on every stream."""
        return f"{self.gateway}-{self.install}"

    @property
    def mqtt_client(self) -> str:
        """The client id that brokers know us by: its end tells two machines with one gateway id apart."""
        return f"{self.first_gateway or self.gateway}-{(self.first_install or self.install)[:6]}"


@dataclass(slots=True)
class Counters:
    """What is counted over the journal's whole life."""

    commit: int = 0
    quarantine_first: int = 1
    quarantine_next: int = 1
    quarantine_size: int = 0
    quarantined: int = 0
    losses: dict[str, list[int]] = field(default_factory=dict)
    """For each cause: entries in the loss ledger, and records that they count."""
    quarantine_untold: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Payloads that the quarantine deleted and the ledger does not have yet; from when to when they came."""
    age_boot: str = ""
    """The boot in which the ages were last counted (`ages.Ages`), and the clocks then."""
    age_boot_seconds: float = 0.0
    age_seconds: float = 0.0

    def lose_quarantined(self, time_ns: int) -> None:
        """The quarantine deleted a payload that came at this time."""
        count, first_ns, last_ns = self.quarantine_untold
        self.quarantine_untold = [
            count + 1,
            min(first_ns, time_ns) if count else time_ns,
            max(last_ns, time_ns),
        ]
        self.losses.setdefault("quarantined", [0, 0])[1] += 1


@dataclass(slots=True)
class State:
    """Everything but the segments themselves."""

    identity: Identity
    counters: Counters = field(default_factory=Counters)
    books: dict[int, Book] = field(default_factory=dict)
    by_name: dict[str, Book] = field(default_factory=dict)
    announced: dict[int, dict[str, int]] = field(default_factory=dict)
    """For each stream, the checksum of what was last announced about each device."""
    gates: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Rows of each source's gate, as they were at open."""
    format: int = rows.PLAIN_FORMAT
    """The format number that the journal has on the disk."""
    envelope: Envelope = "plain"
    """What stands around the control records that are written from now on; not in the journal."""

    def add(self, book: Book) -> None:
        """Know a stream."""
        self.books[book.number] = book
        self.by_name[book.title] = book

    def new_book(self, name: str, url: str, *, imported: str = "") -> Book:
        """Begin a stream; ``imported``: for what comes with this export, which has a producer of its own."""
        book = Book(
            number=len(self.books) + 1,
            name=name,
            url=url,
            producer_id=f"export-{imported}" if imported else self.identity.producer_id,
            incarnation=random_letters(6),
            imported=imported,
        )
        self.add(book)
        return book

    @property
    def size(self) -> int:
        """Bytes of all segments and of the quarantine."""
        return self.counters.quarantine_size + sum(book.size for book in list(self.books.values()))


def random_letters(count: int) -> str:
    """Lower-case letters and digits that are not easily mistaken for one another (base 32)."""
    return base64.b32encode(secrets.token_bytes(count)).decode("ascii").lower()[:count]


def new_identity(gateway: str) -> Identity:
    """Make the identity of a new journal."""
    install = base64.b32encode(uuid.uuid4().bytes).decode("ascii").rstrip("=").lower()
    return Identity(gateway, install)


def load(disk: Disk, gateway: str) -> State:
    """Read the state, or begin a new journal for ``gateway``.

    Raises `JournalFormatError`, `JournalIdentityError` or `JournalDamagedError`; the journal is unchanged then.
    """
    meta = disk.read(rows.META)
    if meta is None:
        if any(True for _ in disk.keys_before(_AFTER_ALL)):
            raise JournalDamagedError(f"journal row {rows.META} is missing, and others are there")
        return begin(disk, new_identity(gateway))
    fields = rows.decode_json(rows.META, meta)
    state = State(check_meta(fields, gateway), format=max(fields["format"], rows.PLAIN_FORMAT))
    for key in disk.keys_before(_FIRST_OF_THE_MANY):
        row = disk.read(key)
        if row is None:
            raise JournalDamagedError(f"journal row {key} is in the index only")
        try:
            _load_row(state, key, row)
        except (KeyError, TypeError, ValueError) as error:
            # Its checksum is right, so it is another row: the database's index is damaged.
            raise JournalDamagedError(f"journal row {key} is damaged: {error!r}") from error
    if sorted(state.books) != list(range(1, len(state.books) + 1)):
        raise JournalDamagedError(f"journal rows of streams are missing: there are {sorted(state.books)}")
    if fields["format"] < rows.PLAIN_FORMAT:
        # From here on rows are written that older programs take for damaged.
        with disk.transaction():
            disk.write(rows.META, rows.encode_json(rows.META, {**fields, "format": rows.PLAIN_FORMAT}))
    return state


def move_streams(disk: Disk, state: State, url: str) -> None:
    """Begin a new epoch at the configured server for every stream that has nothing unresolved at its old one."""
    moved = [book for book in state.books.values() if book.url != url and book.move_to(url)]
    if moved:
        with disk.transaction():
            for book in moved:
                disk.write(
                    rows.stream_key(book.number), rows.encode_json(rows.stream_key(book.number), book.to_row())
                )
                # Readers of the new stream have not seen them.
                if state.announced.pop(book.number, None) is not None:
                    disk.delete(rows.announced_key(book.number))


def begin_stream(disk: Disk, state: State, name: str, url: str) -> None:
    """Let there be a stream, also before it has a record: its producer claims it then."""
    if name in state.by_name:
        return
    book = state.new_book(name, url)
    key = rows.stream_key(book.number)
    with disk.transaction():
        disk.write(key, rows.encode_json(key, book.to_row()))


def begin(disk: Disk, identity: Identity) -> State:
    """Write the first row of a new journal."""
    with disk.transaction():
        disk.write(rows.META, meta_row(identity, rows.PLAIN_FORMAT))
    return State(identity)


def meta_row(identity: Identity, number: int) -> bytes:
    """The first row of a journal, with its format number."""
    meta = {"format": number, "gateway": identity.gateway, "install": identity.install}
    if identity.first_install:
        meta["first_install"] = identity.first_install
    if identity.first_gateway:
        meta["first_gateway"] = identity.first_gateway
    return rows.encode_json(rows.META, meta)


def check_meta(meta: dict[str, Any], gateway: str) -> Identity:
    """Whose journal it is. Raises `JournalFormatError` or `JournalIdentityError`."""
    if meta["format"] > rows.FORMAT:
        raise JournalFormatError(
            f"the journal has format {meta['format']}, this program knows formats up to {rows.FORMAT}: run the "
            "version that wrote it, or a newer one; nothing was changed"
        )
    if meta["gateway"] != gateway:
        raise another_gateways(meta["gateway"], gateway)
    return Identity(meta["gateway"], meta["install"], meta.get("first_install", ""), meta.get("first_gateway", ""))


def another_gateways(owner: str, gateway: str) -> JournalIdentityError:
    """The error for a journal that is not this gateway's."""
    return JournalIdentityError(
        f"the journal belongs to gateway {owner!r}, but the configuration says {gateway!r}: set gateway.id back, "
        "give the new gateway a data_dir of its own, or let `ds-gateway identity adopt` give it this journal"
    )


def _load_row(state: State, key: str, row: bytes) -> None:
    kind, _, rest = key.partition("/")
    match kind:
        case "c":
            state.counters = Counters(**rows.decode_json(key, row))
        case "d":
            state.announced[int(rest)] = rows.decode_json(key, row)
        case "g":
            source, _, name = rest.partition("/")
            state.gates.setdefault(source, {})[name] = rows.unprotect(key, row)
        case "k":
            book = Book.from_row(rows.decode_json(key, row))
            if book.number != int(rest):
                raise ValueError(f"it is the row of stream {book.number}")
            state.add(book)
