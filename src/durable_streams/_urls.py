"""The URL of a request: a stream's URL with the caller's and the protocol's query parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Sequence


def with_params(url: str, protocol: Sequence[tuple[str, str]], caller: Sequence[tuple[str, str]] = ()) -> str:
    """Add query parameters to a URL, ordered by name (PROTOCOL section 10.1).

    Repeated parameters are all kept, in their order. The protocol's own replace the same names of the URL and
    of the caller. A URL that gets none is returned as it is: its own query may be signed.
    """
    if not protocol and not caller:
        return url
    parts = urlsplit(url)
    taken = {name for name, _ in protocol}
    others = [*parse_qsl(parts.query, keep_blank_values=True), *caller]
    pairs = [pair for pair in others if pair[0] not in taken]
    pairs.extend(protocol)
    pairs.sort(key=lambda pair: pair[0])
    return urlunsplit(parts._replace(query=urlencode(pairs, quote_via=quote), fragment=""))
