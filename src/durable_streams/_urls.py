"""The URL of a request: a stream's URL with the caller's and the protocol's query parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, unquote_plus, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

PROTOCOL_PARAMS: Final = frozenset({"offset", "live", "cursor"})
"""The protocol's own, which mean something else, or nothing, where the protocol did not put them."""


def with_params(url: str, protocol: Sequence[tuple[str, str]], caller: Sequence[tuple[str, str]] = ()) -> str:
    """Add query parameters to a URL, ordered by name (PROTOCOL section 10.1).

    Repeated parameters are all kept, in their order, and those of the URL as they are written there. Parameters
    with the protocol's names are kept only from the protocol. A URL that needs no change is returned as it is: its
    own query may be signed.
    """
    parts = urlsplit(url)
    taken = {*PROTOCOL_PARAMS, *(name for name, _ in protocol)}
    written = [(unquote_plus(piece.partition("=")[0]), piece) for piece in parts.query.split("&") if piece]
    kept = [(name, piece) for name, piece in written if name not in taken]
    added = [*(pair for pair in caller if pair[0] not in taken), *protocol]
    if not added and len(kept) == len(written):
        return url
    named = [*kept, *((name, f"{quote(name, safe='')}={quote(value, safe='')}") for name, value in added)]
    named.sort(key=lambda each: each[0])
    return urlunsplit(parts._replace(query="&".join(piece for _, piece in named), fragment=""))


def split_params(url: str) -> tuple[str, list[tuple[str, str]]]:
    """Take the query off a URL, for an HTTP client that would replace it. Raises ValueError if it is not UTF-8."""
    parts = urlsplit(url)
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError("a client with params of its own cannot send a query that is not UTF-8") from error
    return urlunsplit(parts._replace(query="", fragment="")), pairs
