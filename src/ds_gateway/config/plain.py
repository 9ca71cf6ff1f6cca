"""From the tree to the plain values that the models take.

On the way unknown and unsupported keys are told and left out, empty keys count as not given, and references
are followed; what is secret becomes a `Credential` that can be read again.
"""

from __future__ import annotations

import difflib
import fnmatch
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.config import schema
from ds_gateway.config.credential import Credential
from ds_gateway.config.includes import INCLUDE
from ds_gateway.config.references import ReferenceProblemError, References
from ds_gateway.config.serial_port import UsbNumber
from ds_gateway.config.unsupported import unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

    from ds_gateway.config.document import Node, Path
    from ds_gateway.config.findings import Findings


_MAX_PLACES: Final = 5
"""Places of a key that are told at once."""


class Plain:
    """One pass over the tree."""

    def __init__(self, references: References, findings: Findings) -> None:
        self._references = references
        self._findings = findings

    def value(self, node: Node, annotation: Any, path: Path) -> Any:
        """The plain value of a node that is to be of this type."""
        model = schema.as_model(annotation)
        if isinstance(node.value, dict):
            if model is not None:
                return self._model(node, model, path)
            entries = node.entries.items()
            return {key: self.value(entry, schema.step(annotation, key), (*path, key)) for key, entry in entries}
        if isinstance(node.value, list):
            inner = schema.step(annotation, 0)
            return [self.value(item, inner, (*path, index)) for index, item in enumerate(node.items)]
        if isinstance(node.value, str):
            return self._text(node.value, node, annotation, path)
        # 6001 is four hex digits here, and no decimal number.
        return node.written if annotation is UsbNumber and isinstance(node.value, int) else node.value

    def _model(self, node: Node, model: type[BaseModel], path: Path) -> dict[str, Any]:
        known = schema.fields(model)
        values: dict[str, Any] = {}
        for key, entry in node.entries.items():
            here = (*path, key)
            message = unsupported(model, key, entry)
            if message is not None:
                self._findings.add(here, message, place=entry.place)
            elif key not in known:
                self._unknown(path, key, [*known, *([] if path else [INCLUDE])], node)
            elif entry.value is not None:
                values[key] = self.value(entry, schema.step(model, key), here)
        return values

    def _unknown(self, path: Path, key: str, known: Iterable[str], node: Node) -> None:
        free = [name for name in known if name not in node.entries]
        taken = [name for name in known if name in node.entries]
        nearest = difflib.get_close_matches(key.lower().replace("-", "_"), free, n=1, cutoff=0.6)
        places = _outermost(schema.places_of(key))
        if nearest:
            hint = f"did you mean {nearest[0]}?"
            self._findings.hush((*path, nearest[0]))
        if places:
            *others, last = places if len(places) <= _MAX_PLACES else _few(places)
            places_hint = f"it belongs to {', '.join(others)}{' or ' if others else ''}{last}"
            hint = f"{places_hint}; or {hint}" if nearest else places_hint
        elif not nearest and (
            same := difflib.get_close_matches(key.lower().replace("-", "_"), taken, n=1, cutoff=0.8)
        ):
            hint = f"did you mean {same[0]}, which is here already{_on(node.entries[same[0]])}?"
        elif not nearest:
            hint = f"there are {', '.join(sorted(free))}" if free else "all keys that there are, are here"
        self._findings.add((*path, key), f"unknown key; {hint}", place=node.entries[key].place)

    def _text(self, text: str, node: Node, annotation: Any, path: Path) -> Any:
        try:
            expanded = self._references.expand(text, node.place.folder if "${" in text else None)
        except ReferenceProblemError as error:
            self._findings.add(path, str(error))
            return None
        if expanded is None:
            return text
        if not schema.is_secret(annotation):
            return expanded.value
        if not expanded.value:
            self._findings.add(path, f"{text} is empty")
        return Credential(expanded.value, expanded.read)


def _few(places: list[str]) -> list[str]:
    """Of many places the outermost: a key of every framing belongs to none of them in particular."""
    first = sorted(places, key=lambda place: (place.count("."), place))[: _MAX_PLACES - 1]
    return [*first, f"{len(places) - len(first)} more places (docs/configuration.md)"]


def _on(node: Node) -> str:
    return "" if node.place.line is None else f", on line {node.place.line}"


def _outermost(places: Iterable[str]) -> list[str]:
    """Those of the places that do not lie below another one of them."""
    parents = {place: place.rpartition(".")[0] for place in places}
    above = [f"{parent}." for parent in parents.values() if parent]
    outermost = [place for place, parent in parents.items() if not parent.startswith(tuple(above))]
    return list(dict.fromkeys(_family(place, outermost) for place in outermost))


def _family(place: str, places: Iterable[str]) -> str:
    """``framing.*.max_bytes`` for a place that three or more have beside each other."""
    parent, _, key = place.rpartition(".")
    family = f"{parent.rpartition('.')[0]}.*.{key}"
    alike = [
        other for other in places if fnmatch.fnmatchcase(other, family) and other.count(".") == place.count(".")
    ]
    return family if parent.count(".") and len(alike) >= 3 else place
