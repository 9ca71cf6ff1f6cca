"""The messages of a JSON document that is still arriving: in memory is never more than a part of it.

A document in JSON mode is an array of messages (PROTOCOL section 9.1.5). A small one is parsed as a whole. A big
one is cut at a comma between two messages, again and again: what is before the comma is parsed and handed out.

Finding such a comma is cheap where it can be guessed. If ``[`` + all before a comma + ``]`` is a valid array with
something in it, then that comma stood between two messages: inside of a string or of anything nested, the brackets
or the quotes would not match. So a guess is proved by the parser, which has to read these bytes anyway. Where
guesses fail, a scanner follows strings and brackets.

The work is linear. Guesses that fail are not made again; a cut takes at least half of what there is, or else the
next one waits until there is twice as much; the scanner goes on where it stopped.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import orjson

from durable_streams.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SEGMENT_BYTES: Final = 256 * 1024
"""So much of a document is collected before it is cut for the first time."""

_BLANK: Final = re.compile(rb"[ \t\r\n]*")
# The first message up to its first key: most messages of a stream begin like that, few things inside of them do.
_FIRST_KEY: Final = re.compile(rb'\[[ \t\r\n]*+(\{[ \t\r\n]*+"[^"\\]{0,64}"[ \t\r\n]*+:)')
_MAX_COMMAS: Final = 500
_MAX_WRONG_GUESSES: Final = 3

# What ends what the scanner passes over: in a string, among messages, and deeper inside of one.
_STRING_END: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_NEXT_TOP: Final = re.compile(rb'[^"\[\]{},]*+')
_NEXT_DEEP: Final = re.compile(rb'[^"\[\]{}]*+')


class CutShortError(ParseError):
    """A document lacks its end. The connection may have ended early, where nothing else tells an answer's end."""


class JsonDocument:
    """Takes the bytes of one document and gives its messages."""

    def __init__(self, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._segment_bytes = segment_bytes
        self._text = bytearray()  # an array that lacks what was handed out already
        self._wanted = segment_bytes
        self._is_array: bool | None = None
        self._given = 0
        self.complete = False
        """Whether the array was closed: nothing but blanks may follow."""
        self._opening = b""
        self._wrong_guesses = 0
        self._scanner = _Scanner()

    def feed(self, data: bytes) -> Sequence[Any]:
        """Take the next bytes; return messages that are complete. Raises `ParseError`."""
        if self.complete:
            return self._pass_blank(data)
        if not self._text and data.endswith(b"]"):
            # Where a short page has come in one piece, its messages do not wait for the answer's formal end.
            at_once = _parse_guess(data)
            self.complete = bool(at_once)
            if at_once:
                return at_once
        self._text += data
        if len(self._text) < self._wanted:
            return ()
        if self._is_array is None:
            self._begin()
        messages = self._cut() if self._is_array else ()
        self._wanted = max(self._segment_bytes, 2 * len(self._text))
        return messages

    def finish(self) -> Sequence[Any]:
        """Return the messages that are left. Raises `CutShortError` if the document is not complete."""
        text = self._text
        if self.complete:
            return ()
        if not self._given and _BLANK.fullmatch(text):
            return ()
        value = self._parse(text)
        if not isinstance(value, list):
            return (value,)
        if self._given and not value:
            raise self._error("a comma with nothing behind it")
        return value

    def _pass_blank(self, data: bytes) -> Sequence[Any]:
        if _BLANK.fullmatch(data):
            return ()
        raise self._error("more behind the end of the array")

    def _begin(self) -> None:
        blank = _BLANK.match(self._text)
        assert blank is not None, "the pattern matches nothing, too"
        del self._text[: blank.end()]
        if self._text:
            self._is_array = self._text.startswith(b"[")
            first_key = _FIRST_KEY.match(self._text)
            self._opening = b"," + first_key[1] if first_key else b""

    def _cut(self) -> Sequence[Any]:
        for comma in self._guesses():
            messages = _parse_guess(self._text[:comma] + b"]")
            if messages:
                return self._take(messages, comma)
        comma = self._scanner.last_comma(self._text)
        if comma < 0:
            return ()
        messages = self._parse(self._text[:comma] + b"]")
        if not messages:
            raise self._error("a comma with nothing before it")
        return self._take(messages, comma)

    def _guesses(self) -> Iterator[int]:
        """Give commas that may stand between two messages. To ask for another one says that one was wrong."""
        half = len(self._text) // 2
        if self._opening:
            comma = self._text.rfind(self._opening, half)
            if comma >= 0:
                yield comma
                self._opening = b""
        if self._wrong_guesses < _MAX_WRONG_GUESSES:
            for comma in _balanced_commas(self._text, half):
                yield comma
                self._wrong_guesses += 1
                if self._wrong_guesses >= _MAX_WRONG_GUESSES:
                    return

    def _take(self, messages: list[Any], comma: int) -> list[Any]:
        del self._text[1 : comma + 1]
        self._scanner = _Scanner()
        self._given += len(messages)
        return messages

    def _parse(self, text: bytearray) -> Any:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return self._parse_leniently(text, error)

    def _parse_leniently(self, text: bytearray, error: orjson.JSONDecodeError) -> Any:
        """Read what JSON allows and the quick parser does not: half of a surrogate pair, more nesting."""
        try:
            return json.loads(text.decode(), parse_constant=_refuse_constant)
        except UnicodeDecodeError as undecodable:
            raise self._error(str(error), cut_short=undecodable.end >= len(text)) from error
        except (ValueError, RecursionError):
            raise self._error(str(error), cut_short=error.pos >= len(error.doc)) from error

    def _error(self, reason: str, *, cut_short: bool = False) -> ParseError:
        kind = CutShortError if cut_short else ParseError
        return kind(f"not JSON, behind {self._given} messages that are: {reason}")


def _parse_guess(text: bytes | bytearray) -> list[Any]:
    """Return what is in an array; nothing, if it is none."""
    try:
        messages = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []
    return messages if isinstance(messages, list) else []


def _balanced_commas(text: bytearray, lowest: int) -> Iterator[int]:
    """Give the last commas before which brackets and quotes match, as far as counting them can tell."""
    curly, square, quotes = _balance(text, 0, len(text))
    end = len(text)
    for _ in range(_MAX_COMMAS):
        comma = text.rfind(b",", lowest, end)
        if comma < 0:
            return
        behind = _balance(text, comma, end)
        curly, square, quotes = curly - behind[0], square - behind[1], quotes - behind[2]
        if curly == 0 and square == 1 and quotes % 2 == 0:
            yield comma
        end = comma


def _balance(text: bytearray, start: int, end: int) -> tuple[int, int, int]:
    return (
        text.count(b"{", start, end) - text.count(b"}", start, end),
        text.count(b"[", start, end) - text.count(b"]", start, end),
        text.count(b'"', start, end),
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Scanner:
    """Follows strings and brackets through an array, and remembers the last comma between two messages."""

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._in_string = False
        self._comma = -1

    def last_comma(self, text: bytearray) -> int:
        """Where the last comma on the highest level is, or -1. ``text`` is that of the last call, and more."""
        while self._at < len(text):
            if self._in_string:
                self._pass_string(text)
                if self._in_string:
                    break  # it goes on in what is to come
            else:
                self._pass_structure(text)
        return self._comma

    def _pass_string(self, text: bytearray) -> None:
        inside = _STRING_END.match(text, self._at)
        assert inside is not None, "the pattern matches nothing, too"
        self._at = inside.end()
        if self._at < len(text) and text[self._at] == 0x22:
            self._at += 1
            self._in_string = False

    def _pass_structure(self, text: bytearray) -> None:
        between = (_NEXT_TOP if self._depth == 1 else _NEXT_DEEP).match(text, self._at)
        assert between is not None, "the pattern matches nothing, too"
        at = between.end()
        self._at = at + 1
        if at == len(text):
            self._at = at
            return
        match text[at : at + 1]:
            case b'"':
                self._in_string = True
            case b"[" | b"{":
                self._depth += 1
            case b"]" | b"}":
                self._depth -= 1
            case _:
                self._comma = at
