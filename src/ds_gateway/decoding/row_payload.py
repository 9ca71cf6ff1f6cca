"""Payloads that are a row of texts: separated values, and what a regular expression finds."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.config.payloads import compiled
from ds_gateway.decoding.errors import UndecodableError
from ds_gateway.decoding.limits import MAX_PAYLOAD_BYTES
from ds_gateway.decoding.values import numeric, shown, utf8_or_latin1

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.config.payloads import CsvSettings, RegexSettings
    from ds_gateway.decoding.limits import Parser

MAX_COLUMNS: Final = 1000


def csv_parser(settings: CsvSettings) -> Parser:
    """A row, by the names of the columns or by their numbers; a row of the names themselves is no reading.

    Values are taken without the space around them; an empty one is null.
    """
    names = settings.columns
    as_text = frozenset(settings.text)
    quoting: Any = csv.QUOTE_MINIMAL if settings.quoting else csv.QUOTE_NONE

    def parse(payload: bytes) -> dict[str, Any] | None:
        text = utf8_or_latin1(payload, settings.encoding)
        row = _only_row(text)
        if names is None:
            if len(row) > MAX_COLUMNS:
                raise UndecodableError(f"the row has {len(row)} values; at most {MAX_COLUMNS} are taken")
            return {str(number): _cell(str(number), cell) for number, cell in enumerate(row, 1)}
        if row == names:
            return None
        if len(row) != len(names):
            raise UndecodableError(f"the row has {len(row)} values, and there are {len(names)} columns")
        return {name: _cell(name, cell) for name, cell in zip(names, row, strict=True)}

    def _only_row(text: str) -> list[str]:
        stream = io.StringIO(text, newline="")
        for _ in range(settings.skip_lines):
            stream.readline()
        found: list[str] | None = None
        try:
            for row in csv.reader(
                stream, delimiter=settings.delimiter, quoting=quoting, strict=True, skipinitialspace=True
            ):
                if not any(row):
                    continue
                if found is not None:
                    raise UndecodableError("the payload has more than one row; each is to be one reading")
                found = [cell.strip() for cell in row]
        except csv.Error as error:
            raise UndecodableError(f"not a row of separated values: {error}") from error
        if found is None:
            raise UndecodableError("the payload has no row of values")
        return found

    def _cell(name: str, cell: str) -> Any:
        if not cell:
            return None
        return cell if name in as_text else numeric(cell, settings.decimal)

    return parse


def finder(pattern: str) -> Callable[[bytes], bool]:
    """Whether a pattern is found in a payload. One that is too long to be looked at is left to the decoder."""
    search = compiled(pattern).search

    def find(payload: bytes) -> bool:
        return len(payload) > MAX_PAYLOAD_BYTES or search(payload.decode("utf-8", "replace")) is not None

    return find


def regex_parser(settings: RegexSettings) -> Parser:
    """The named groups of the first match; those that took no part in it are not there."""
    pattern = compiled(settings.pattern)
    groups = sorted(pattern.groupindex.items(), key=lambda item: item[1])
    as_text = frozenset(settings.text)

    def parse(payload: bytes) -> dict[str, Any]:
        text = utf8_or_latin1(payload, settings.encoding)
        match = pattern.search(text)
        if match is None:
            raise UndecodableError(f"the pattern matches nothing in {shown(text)}")
        found = {name: group for name, number in groups if (group := match.group(number)) is not None}
        if not found:
            raise UndecodableError("the pattern matches, and none of its groups takes part in the match")
        return {
            name: group if name in as_text else numeric(group, settings.decimal) for name, group in found.items()
        }

    return parse
