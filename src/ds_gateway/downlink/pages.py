"""A page of a JSON stream cut into its elements, without understanding them. Pure.

An element that no parser can read (too deep, no UTF-8) must cost nobody but its sender. So a page is cut by
brackets and quotes alone, in linear time, and each element is parsed by itself afterwards.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ds_gateway.errors import DownlinkError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{},"]', re.DOTALL)
_BLANK = b" \t\r\n"


def elements(page: bytes) -> list[bytes]:
    """Return the elements of a page, which is one JSON array, or several one behind the other (events).

    Raises `DownlinkError` for what is no such page: then something else than a stream server answered.
    """
    found: list[bytes] = []
    depth = 0
    start = end = 0
    for token in _TOKEN.finditer(page):
        mark = page[token.start() : token.start() + 1]
        if mark == b'"':
            if token.end() - token.start() == 1:
                raise _no_page(page, token.start())  # a text that does not end
            continue
        if mark in b"[{":
            if depth == 0:
                if mark == b"{" or page[end : token.start()].strip(_BLANK):
                    raise _no_page(page, token.start())
                start = token.end()
            depth += 1
        elif mark in b"]}":
            depth -= 1
            if depth < 0:
                raise _no_page(page, token.start())
            if depth == 0:
                end = token.end()
                found += _last(page[start : token.start()], found_before=page[start - 1 : start] == b",")
        elif depth == 1:
            found.append(page[start : token.start()].strip(_BLANK))
            start = token.end()
    if depth or page[end:].strip(_BLANK):
        raise _no_page(page, end)
    return found


def _last(rest: bytes, *, found_before: bool) -> Iterator[bytes]:
    """What stands before the end of an array: an element, unless the array is empty."""
    stripped = rest.strip(_BLANK)
    if stripped or found_before:
        yield stripped


def _no_page(page: bytes, place: int) -> DownlinkError:
    around = page[max(0, place - 20) : place + 20]
    return DownlinkError(
        f"the command stream's answer is no JSON array at byte {place} ({around!r}): "
        "look what stands between the gateway and the stream server"
    )
