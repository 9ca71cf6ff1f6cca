"""Every secret that a configuration names, each on its own: what is wrong elsewhere in it hides none of them.

For whoever takes them out of a text that goes to others. Looked at are the file as it is now, its overrides, and
the last valid one that is kept; of a file that cannot be read as YAML its lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.config import includes, last_valid, overrides, schema
from ds_gateway.config.document import dotted
from ds_gateway.config.includes import Disk
from ds_gateway.config.models import Settings
from ds_gateway.config.places import DEFAULT_FILE, Machine
from ds_gateway.config.references import ReferenceProblemError, References
from ds_gateway.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ds_gateway.config.document import Node
    from ds_gateway.config.document import Path as Keys

SOUNDS_SECRET: Final = re.compile(r"pass|secret|token|credential|authori|api.?key|private", re.IGNORECASE)
"""Keys whose values are taken for secrets, whatever they belong to."""
_REFERENCE: Final = re.compile(r"\$\$\{|\$\{[^{}]*\}")
_USER_OF_A_URL: Final = re.compile(r"://(.*)@")
_LINE: Final = re.compile(r"""([\w.-]+)["']?\s*:\s+("(?:[^"\\]|\\.)*"|'[^']*'|[^,}\n]+)""")
_LEAST_PART_CHARACTERS: Final = 8
"""Of a secret that is put together, a part that is shorter may be any word."""
_CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"


@dataclass(slots=True)
class Found:
    """The secrets, and which could not be had: a key and a reference, or a file, with the reason."""

    values: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)


def find(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    credentials: Sequence[Path] = (),
    machine: Machine | None = None,
) -> Found:
    """All of them. ``credentials``: folders for those that are not in ``$CREDENTIALS_DIRECTORY``. Never raises."""
    file = path or DEFAULT_FILE
    search = _Search(file, environ, credentials)
    disk = Disk()
    try:
        root = includes.tree(file, disk)
    except ConfigError as error:
        for each in error.problems:  # without its text, which may repeat what stands there
            search.misses(
                f"{each.file}{'' if each.line is None else f':{each.line}'}", "cannot be read as a whole"
            )
        for name, text in disk.texts.items():
            search.lines(text, Path(name).absolute().parent)
    else:
        search.tree(overrides.apply(root, environ)[0])
    kept, _ = last_valid.find(file, environ, machine or Machine.this())
    if kept is not None:
        try:
            root = includes.tree(file, kept.files)
        except ConfigError:
            search.misses(str(kept.at), "cannot be read as a whole")
        else:
            search.tree(overrides.apply(root, environ)[0])
    return search.found


class _Search:
    """Collects them."""

    def __init__(self, file: Path, environ: Mapping[str, str], credentials: Sequence[Path]) -> None:
        self.found = Found()
        self._folder = file.absolute().parent
        folders = [environ.get(_CREDENTIALS, ""), *map(str, credentials)]
        self._environs = [{**environ, _CREDENTIALS: each} for each in dict.fromkeys(folders) if each] or [
            dict(environ)
        ]

    def misses(self, what: str, why: str) -> None:
        """Tell it once."""
        told = f"{what}: {why}"
        if told not in self.found.missing:
            self.found.missing.append(told)

    def tree(self, root: Node) -> None:
        """Those of a tree, overrides and all."""
        for keys, node, annotation in _texts(root, Settings, ()):
            named = next((key for key in reversed(keys) if isinstance(key, str)), "")
            # A key that there is says itself what it is; one that there is not, by its sound.
            is_secret = schema.is_secret(annotation) or (annotation is None and SOUNDS_SECRET.search(named))
            text = node.value if isinstance(node.value, str) else node.written
            self._text(text, dotted(keys), node.place.folder or self._folder, is_secret=bool(is_secret))

    def lines(self, text: str, folder: Path) -> None:
        """Those of a text that is no YAML: what stands behind keys that sound so, and every reference."""
        for line in text.splitlines():
            for match in _LINE.finditer(line):
                written = match[2].strip()
                is_secret = bool(SOUNDS_SECRET.search(match[1]))
                plain = written[1:-1] if written[:1] in {'"', "'"} else written.partition(" #")[0].strip()
                for each in {plain, *plain.split(maxsplit=1)[:1]}:
                    self._text(each.rstrip(":"), match[1], folder, is_secret=is_secret)
            self._text(line, "a line", folder, is_secret=False)

    def _text(self, text: str, key: str, folder: Path, *, is_secret: bool) -> None:
        """One text: itself, what it refers to, and who is named in a URL."""
        whole, is_complete = "", True
        end = 0
        for match in _REFERENCE.finditer(text):
            before, end = text[end : match.start()], match.end()
            value = "${" if match[0] == "$${" else self._follow(match[0], key, folder, is_secret=is_secret)
            is_complete = is_complete and value is not None
            whole += before + (value or "")
            if is_secret and len(before) >= _LEAST_PART_CHARACTERS:
                self.found.values.add(before)
        rest = text[end:]
        whole += rest
        if is_secret and (is_complete or len(rest) >= _LEAST_PART_CHARACTERS):
            self.found.values.update({whole if is_complete else rest} - {""})
        if user := _USER_OF_A_URL.search(whole):
            self.found.values.update({user[1], user[1].partition(":")[2]} - {""})

    def _follow(self, reference: str, key: str, folder: Path, *, is_secret: bool) -> str | None:
        """What a reference gives in each place where it may be; of several the first. None: it gives nothing."""
        values: list[str] = []
        reason = ""
        for environ in self._environs:
            try:
                expanded = References(environ, folder).expand(reference, folder)
            except ReferenceProblemError as error:
                reason = reason or str(error)
            else:
                values += [] if expanded is None else [expanded.value]
        # A variable may be a name that the rest of the text is of no use without; what is in a file is a secret.
        if is_secret or not reference.startswith("${env:"):
            self.found.values.update(set(values) - {""})
            if not values:
                self.misses(f"{key}: {reference}", reason)
        return values[0] if values else None


def _texts(node: Node, annotation: Any, keys: Keys) -> Iterator[tuple[Keys, Node, Any]]:
    """Every scalar, with its keys and its type."""
    if isinstance(node.value, dict):
        for key, entry in node.entries.items():
            # Of what is secret with all its entries, an entry is, whatever it is.
            inner = annotation if schema.is_secret(annotation) else schema.step(annotation, key)
            yield from _texts(entry, inner, (*keys, key))
    elif isinstance(node.value, list):
        for index, item in enumerate(node.items):
            inner = annotation if schema.is_secret(annotation) else schema.step(annotation, index)
            yield from _texts(item, inner, (*keys, index))
    elif node.value is not None:
        yield keys, node, annotation
