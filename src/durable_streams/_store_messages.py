"""What a message store puts into a stream, and how it recognises its own batch there. Pure.

A stream's JSON is written again by the server: ``1.0`` may come back as ``1``, an escape as its letter, a number
beyond 2**53 rounded. So messages are compared as values, numbers as the doubles that they are in most parsers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from durable_streams._store import Presence
from durable_streams._wire import encode_json, json_batch
from durable_streams.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTROL: Final = "$producer"
"""The one member of a control message: ``{"$producer": {"kind": "claim", "id": ..., "epoch": ...}}``."""
_KINDS: Final = frozenset({"claim", "probe"})
LINEAGE_LETTERS: Final = 12


def is_control_message(message: object) -> bool:
    """Whether a JSON value read from a stream was put there by a `SqliteProducerStore` for its own sake.

    A durable producer begins with one message that carries no data: its claim, ``{"$producer": {"kind": "claim",
    "id": "<producer id>", "epoch": 0}}``. Readers drop it::

        readings = [message for message in response.iter_json() if not is_control_message(message)]

    The store takes no message of this form, so this never drops data.
    """
    if not isinstance(message, dict) or len(message) != 1:
        return False
    content = message.get(CONTROL)
    kind = content.get("kind") if isinstance(content, dict) else None
    return isinstance(kind, str) and kind in _KINDS


def control_body(kind: str, producer_id: str, epoch: int) -> bytes:
    """Return the body of a claim or a probe: one message."""
    return json_batch([orjson.dumps({CONTROL: {"kind": kind, "id": producer_id, "epoch": epoch}})])


class Messages:
    """How messages look in the stream. ``id_member``: the member of each that says which one it is, if any.

    An id is ``<lineage>.<position>``: a random word of the file, and the message's number in it.
    """

    def __init__(self, id_member: str | None) -> None:
        if id_member is not None and (not isinstance(id_member, str) or not id_member):
            raise ValueError(f"id_member is the name of a member, or None, not {id_member!r}")
        if id_member == CONTROL:
            raise ValueError(f"id_member cannot be {CONTROL!r}: it marks what the store itself writes")
        self.id_member = id_member
        self._id_prefix = b"" if id_member is None else b"{" + orjson.dumps(id_member) + b":"

    @property
    def id_bytes(self) -> int:
        """By how much an id makes a message longer, at most."""
        return 0 if self.id_member is None else len(self._id_prefix) + LINEAGE_LETTERS + 22

    def encode(self, data: Any) -> bytes:
        """Return a message without its id. Raises `MessageError` for what cannot be recognised when read back."""
        raw = encode_json(data)
        # Parsed only where it matters: the name could be written with escapes.
        if (b"$producer" in raw or b"\\u" in raw) and is_control_message(orjson.loads(raw)):
            raise MessageError(f"a message that is nothing but {CONTROL!r} is the producer's own; wrap it")
        if self.id_member is not None:
            value = orjson.loads(raw)
            if not isinstance(value, dict):
                raise MessageError(f"only a JSON object can carry an id in {self.id_member!r}, not {raw[:80]!r}")
            if self.id_member in value:
                raise MessageError(f"the message has a member {self.id_member!r}, where its id is to be")
        return raw

    def element(self, lineage: str, position: int, message: bytes) -> bytes:
        """Return the final bytes of an encoded message."""
        if self.id_member is None:
            return message
        identity = f'"{lineage}.{position}"'.encode()
        rest = message[1:].lstrip()
        return self._id_prefix + identity + (b"" if rest.startswith(b"}") else b",") + rest

    def finder(self, body: bytes, lineage: str, sealed_position: int) -> RunFinder | IdFinder:
        """Return a finder for a sealed batch; nothing of ours is sealed behind ``sealed_position``."""
        values = orjson.loads(body)
        if self.id_member is None:
            return RunFinder(values)
        return IdFinder(self.id_member, values, lineage, sealed_position)


class IdFinder:
    """Looks for messages by their ids. Memory is bounded by the batch, not by what is read.

    A message with the right id and another content was sent by a copy of this store.
    """

    def __init__(
        self, member: str, messages: Sequence[dict[str, Any]], lineage: str, sealed_position: int
    ) -> None:
        self._member = member
        self._wanted: dict[str, dict[str, Any]] = {message[member]: message for message in messages}
        self._prefix = f"{lineage}."
        self._sealed_position = sealed_position
        self._found: set[str] = set()
        self._foreign = False

    def feed(self, page: bytes) -> None:
        """Take one response's body, a JSON array. Raises ValueError when it is not one."""
        for message in _array(page):
            identity = message.get(self._member) if isinstance(message, dict) else None
            if not isinstance(identity, str):
                continue
            if identity in self._wanted:
                self._found.add(identity)
                self._foreign = self._foreign or not same_json(message, self._wanted[identity])
            elif identity.startswith(self._prefix):
                digits = identity[len(self._prefix) :]
                # Others may write to the stream, and anything: at most 18 digits are a position.
                if digits.isascii() and digits.isdigit() and len(digits) < 19:
                    self._foreign = self._foreign or int(digits) > self._sealed_position

    def verdict(self) -> Presence:
        """What was found."""
        if self._foreign:
            return Presence.FOREIGN
        if not self._found:
            return Presence.ABSENT
        return Presence.PRESENT if len(self._found) == len(self._wanted) else Presence.PARTIAL


class RunFinder:
    """Looks for messages that stand one behind the other, as one POST puts them (Knuth, Morris, Pratt).

    It cannot tell them from the very same run that somebody else put there.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values
        self._found = False
        self._matched = 0
        self._borders = [0]
        """For each length of a beginning: the longest shorter beginning that is also its end."""
        length = 0
        for value in values[1:]:
            length = self._extend(length, value)
            self._borders.append(length)

    def feed(self, page: bytes) -> None:
        """Take one response's body, a JSON array. Raises ValueError when it is not one."""
        for message in _array(page):
            if self._found:
                return
            self._matched = self._extend(self._matched, message)
            self._found = self._matched == len(self._values)

    def verdict(self) -> Presence:
        """What was found."""
        return Presence.PRESENT if self._found else Presence.ABSENT

    def _extend(self, length: int, value: Any) -> int:
        """How much of the run is matched, when ``length`` of it were and the next message is ``value``."""
        while not same_json(self._values[length], value):
            if length == 0:
                return 0
            length = self._borders[length - 1]
        return length + 1


def same_json(one: Any, other: Any) -> bool:
    """Whether two parsed JSON values are the same, up to how a server may write them."""
    pending = [(one, other)]
    while pending:
        left, right = pending.pop()
        if isinstance(left, bool) or isinstance(right, bool):
            if left is not right:
                return False
        elif isinstance(left, int | float) and isinstance(right, int | float):
            if float(left) != float(right):
                return False
        elif isinstance(left, dict) and isinstance(right, dict):
            if left.keys() != right.keys():
                return False
            pending.extend((left[name], right[name]) for name in left)
        elif isinstance(left, list) and isinstance(right, list):
            if len(left) != len(right):
                return False
            pending.extend(zip(left, right, strict=True))
        elif type(left) is not type(right) or left != right:
            return False
    return True


def _array(page: bytes) -> list[Any]:
    values = orjson.loads(page)
    if not isinstance(values, list):
        raise ValueError("not an array")  # noqa: TRY004 - the value is wrong, whatever its type
    return values
