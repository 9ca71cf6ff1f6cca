"""A YAML text as a tree of nodes that remember where they were written.

Built from PyYAML's events: no object is ever constructed, explicit tags are refused (an event still knows
them, a composed node does not), aliases are followed within a bound, duplicate keys are mistakes.
"""

from __future__ import annotations

import pathlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import yaml

from ds_gateway.config import scalars
from ds_gateway.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Key = str | int
Path = tuple[Key, ...]

MAX_NODES: Final = 100_000
"""More nodes than that, aliases followed, are an attack ("billion laughs") or a mistake."""

MAX_DEPTH: Final = 32
MAX_MISTAKES: Final = 200
"""After so many in one text the rest is not looked at: each costs time, and nobody reads on."""

# The C parser where PyYAML was built with it; the other one is slower and finds the same.
_LOADER: Final = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: a line of a file, or an environment variable."""

    file: str
    line: int | None = None
    variable: str | None = None

    @property
    def folder(self) -> pathlib.Path | None:
        """The folder of the file, which relative paths in it count from; None for a variable."""
        return None if self.variable is not None else pathlib.Path(self.file).absolute().parent


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place. ``written`` is a scalar's text as it stands in the file."""

    value: scalars.Scalar | Mapping[str, Node] | Sequence[Node]
    place: Place
    written: str = field(default="", repr=False)

    @property
    def entries(self) -> Mapping[str, Node]:
        """The entries of a mapping; nothing for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> Sequence[Node]:
        """The items of a list; nothing for anything else."""
        return self.value if isinstance(self.value, list) else ()

    def child(self, key: Key) -> Node | None:
        """The entry or item of this key, or None."""
        if isinstance(key, str):
            return self.entries.get(key)
        return self.items[key] if 0 <= key < len(self.items) else None

    def find(self, path: Path) -> Node | None:
        """The node at this path, or None."""
        node: Node | None = self
        for key in path:
            node = None if node is None else node.child(key)
        return node

    def nearest(self, path: Path) -> Node:
        """The deepest node on the way to ``path``: where a missing key should have been."""
        node = self
        for key in path:
            child = node.child(key)
            if child is None:
                break
            node = child
        return node


def dotted(path: Path) -> str:
    """``mqtt.hall-broker.devices[0].topic``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{printable(key)}" if text else printable(key)
    return text


def printable(text: str) -> str:
    """The text, escaped as in a Python literal if a terminal could take something in it for a command."""
    return text if text.isprintable() else repr(text)[1:-1]


def parse(text: str, place: Place) -> Node:
    """Read one YAML document; an empty text is an empty mapping.

    Lines count from ``place``; for a text from a variable all nodes have that place.
    Raises `ConfigError` with every mistake up to the first that leaves the parser without footing.
    """
    builder = _Builder(text, place)
    try:
        root = builder.document()
    except yaml.MarkedYAMLError as error:
        mark = _mark(error)
        builder.complain(None if mark is None else mark.line + 1, (), _syntax(error, text, mark))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        builder.complain(line, (), f"the character {_code(error.character)} is not allowed in YAML")
    except _TooMuchError as error:
        builder.complain(error.line, (), str(error))
    else:
        if not builder.problems:
            return root
    raise ConfigError(builder.problems)


_MAX_LOOKED_AT: Final = 500
"""A longer line is none that somebody has written."""
_NO_COLON: Final = "could not find expected ':'"
_NO_VALUE: Final = "cannot start any token"
_GLUED_COLON = re.compile(r"\s*(?:- )?(?P<key>[A-Za-z_][\w.-]*):(?P<value>[^\s:/].*)")
_HALF_FLOW = re.compile(r"""(?:- )?(?:[\w.-]+: +)?(?P<value>[\[{][^#"']*?[]}]\s*[^\s,}\]#].*?)\s*(?:#.*)?""")


def _mark(error: yaml.MarkedYAMLError) -> yaml.Mark | None:
    """Where the mistake is: a key without its colon is noticed on the next line only."""
    if error.context_mark is not None and _NO_COLON in (error.problem or ""):
        return error.context_mark
    return error.problem_mark or error.context_mark


def _syntax(error: yaml.MarkedYAMLError, text: str, mark: yaml.Mark | None) -> str:
    lines = text.splitlines()
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "YAML allows no tabs in front of a line: indent with spaces"
    problem = (error.problem or "cannot be read").strip()
    if _NO_COLON in problem and len(line) < _MAX_LOOKED_AT and (glued := _GLUED_COLON.fullmatch(line)):
        return f"not YAML: a blank is missing behind the colon of {glued['key']}"
    if _NO_VALUE in problem and mark is not None and mark.column < len(line):
        return f"not YAML: a value cannot begin with {line[mark.column]}: put it in quotes"
    if len(line) < _MAX_LOOKED_AT and (half := _HALF_FLOW.fullmatch(line.strip())):
        return f"not YAML: what begins with {half['value'][0]} goes on behind it: put the whole value in quotes"
    context = f" ({error.context.strip()})" if error.context else ""
    return (
        f"not YAML: {problem}{context}; compare the indentation with the lines above, and quote a value that "
        "begins with { or [ or has ': ' in it"
    )


def _code(character: object) -> str:
    match character:
        case int():
            return f"U+{character:04X}"
        case str() if len(character) == 1:
            return f"U+{ord(character):04X}"
        case _:
            return repr(character)


class _TooMuchError(Exception):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class _Anchored:
    """A finished node with an anchor: how many values it holds, and how many levels."""

    node: Node
    size: int
    height: int


class _Builder:
    """Events to nodes. Holds the open text's problems, anchors and the count of nodes."""

    def __init__(self, text: str, place: Place) -> None:
        self.problems: list[Problem] = []
        self._place = place
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        self._anchors: dict[str, _Anchored] = {}
        self._count = 0
        self._deepest = 0

    def complain(self, line: int | None, path: Path, message: str) -> None:
        """Add a problem on this line."""
        message = printable(message)
        if self._place.variable is not None:
            self.problems.append(Problem(self._place.file, None, self._place.variable, message))
        else:
            self.problems.append(Problem(self._place.file, line, dotted(path), message))

    def document(self) -> Node:
        """The one document of the text."""
        root = Node({}, self._at(1))
        seen = False
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    raise _TooMuchError(_line(event), "a second document (---): a file holds one")
                seen = True
                root = self._node(next(self._events), (), self._at(1))
        return root

    def _at(self, line: int) -> Place:
        return self._place if self._place.variable is not None else Place(self._place.file, line)

    def _node(self, event: yaml.Event, path: Path, place: Place) -> Node:
        if len(self.problems) >= MAX_MISTAKES:
            raise _TooMuchError(_line(event), f"more than {MAX_MISTAKES} mistakes: correct those before this one")
        before, deepest, self._deepest = self._count, self._deepest, len(path)
        self._grow(1, event)
        match event:
            case yaml.AliasEvent():
                node = self._alias(event, path, place)
            case yaml.ScalarEvent():
                node = self._scalar(event, path, place)
            case yaml.SequenceStartEvent():
                node = Node(list(self._sequence(path)), place)
            case _:
                node = Node(self._mapping(path), place)
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            self._refuse_tag(event, path)
            if event.anchor is not None:
                self._anchors[event.anchor] = _Anchored(node, self._count - before, self._deepest - len(path))
        self._deepest = max(self._deepest, deepest)
        return node

    def _refuse_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, path: Path) -> None:
        if event.tag is not None:
            self.complain(_line(event), path, f"tags are not allowed: remove {printable(event.tag)}")

    def _check_depth(self, depth: int, event: yaml.Event) -> None:
        if depth > MAX_DEPTH:
            raise _TooMuchError(_line(event), f"nested more than {MAX_DEPTH} levels deep")

    def _grow(self, nodes: int, event: yaml.Event) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            raise _TooMuchError(_line(event), f"more than {MAX_NODES} values, aliases followed")

    def _alias(self, event: yaml.AliasEvent, path: Path, place: Place) -> Node:
        if event.anchor not in self._anchors:
            self.complain(_line(event), path, f"the alias *{event.anchor} has no anchor &{event.anchor} above it")
            return Node(None, place)
        anchored = self._anchors[event.anchor]
        self._grow(anchored.size, event)
        self._check_depth(len(path) + anchored.height, event)
        self._deepest = len(path) + anchored.height
        return anchored.node

    def _scalar(self, event: yaml.ScalarEvent, path: Path, place: Place) -> Node:
        text = self._text(event, path)
        if not _is_plain(event):
            return Node(text, place, text)
        try:
            return Node(scalars.resolve(text), place, text)
        except ValueError as error:
            self.complain(_line(event), path, str(error))
            return Node(None, place, text)

    def _text(self, event: yaml.ScalarEvent, path: Path) -> str:
        text: str = event.value
        try:
            text.encode()
        except UnicodeEncodeError:
            self.complain(_line(event), path, "half of a surrogate pair is not a character")
        return text

    def _sequence(self, path: Path) -> Iterator[Node]:
        for index, event in enumerate(self._events):
            if isinstance(event, yaml.SequenceEndEvent):
                return
            self._check_depth(len(path) + 1, event)
            yield self._node(event, (*path, index), self._at(_line(event)))

    def _mapping(self, path: Path) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            line = _line(event)
            self._check_depth(len(path) + 1, event)
            key = self._key(event, path)
            value = self._node(next(self._events), path if key is None else (*path, key), self._at(line))
            if key is None:
                continue
            if key in entries:
                first = entries[key].place.line
                where = "" if first is None else f"; the first is on line {first}"
                self.complain(line, (*path, key), f"this key is here twice{where}")
                continue
            entries[key] = value
        return entries

    def _key(self, event: yaml.Event, path: Path) -> str | None:
        """A key's text; None, told, if it is no key. A key is text whatever it looks like."""
        if not isinstance(event, yaml.ScalarEvent):
            self.complain(_line(event), path, "a key must be a plain word")
            self._node(event, (*path, "?"), self._at(_line(event)))
            return None
        self._refuse_tag(event, path)
        if event.value == "<<" and _is_plain(event):
            self.complain(_line(event), path, "merge keys (<<) are not part of YAML 1.2: write the keys out")
            return None
        return self._text(event, path)


def _is_plain(event: yaml.ScalarEvent) -> bool:
    return not event.style  # None from the Python parser, empty from the C one


def _line(event: yaml.Event) -> int:
    return 1 if event.start_mark is None else int(event.start_mark.line) + 1
