"""What callers hand over, checked before anything is sent.

A mistake is a ``ValueError`` or ``TypeError`` that shows the value and the way out. What only the server can judge
(an offset, a credential) is left to the server.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

PROTOCOL_HEADERS: Final = ("stream-", "producer-")
"""How the names of the protocol's headers begin."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_A_HEADER: Final = re.compile(r"[^\t\x20-\x7e]")
_NOT_IN_A_URL: Final = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")
_FRAMING_HEADERS: Final = frozenset({"content-length", "transfer-encoding"})
_RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)


def stream_url(url: str, *, relative: bool = False) -> str:
    """Return the URL of a stream. ``relative``: a path is fine, because the HTTP client has a base URL."""
    if not isinstance(url, str):
        raise TypeError(f"the URL of a stream is a str, not {type(url).__name__}: use str(url)")
    if not url:
        raise ValueError("the URL of the stream is empty")
    if _NOT_IN_A_URL.search(url):
        raise ValueError(f"the URL {url!r} has something in it that is no character of a URL: percent-encode it")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from error
    if relative and not parts.scheme and not parts.netloc:
        return url
    if parts.scheme.lower() not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"a stream has a URL like 'https://host/path', not {url!r}")
    return url


def content_type(value: str | None) -> str | None:
    """Return a content type for a header."""
    if value is None:
        return None
    if "/" not in header_value("content_type", value):
        raise ValueError(f"content_type is a media type like 'application/json', not {value!r}")
    return value


def sequence(value: str | None) -> str | None:
    """Return a ``Stream-Seq``: the server compares them byte by byte (PROTOCOL section 5.2)."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"seq is a str that grows byte by byte, like '0042', not {value!r}")
    if not value or value != value.strip():
        raise ValueError(f"seq is not empty and has no space around it, unlike {value!r}")
    return header_value("seq", value)


def ttl(seconds: int, expires_at: object) -> str:
    """Return a ``Stream-TTL`` (PROTOCOL section 5.1)."""
    if expires_at is not None:
        raise ValueError("give ttl_seconds or expires_at, not both (PROTOCOL section 5.1)")
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 0:
        raise ValueError(f"ttl_seconds is a whole number of seconds, at least 0, not {seconds!r}")
    return str(seconds)


def expiry(moment: str | datetime) -> str:
    """Return a ``Stream-Expires-At`` (RFC 3339)."""
    if isinstance(moment, str):
        if not _RFC3339.fullmatch(moment):
            raise ValueError(f"expires_at is RFC 3339 like '2030-01-31T12:00:00Z', or a datetime, not {moment!r}")
        return moment
    if not isinstance(moment, datetime):
        raise TypeError(f"expires_at is a datetime with a time zone, or RFC 3339 text, not {moment!r}")
    if moment.tzinfo is None:
        raise ValueError(f"expires_at needs a time zone: {moment!r}")
    return moment.astimezone(UTC).isoformat()


def timeout(seconds: object) -> None:
    """Check a timeout in seconds. Anything that is no number is left to `_http`, which knows the library's own."""
    if isinstance(seconds, bool) or (
        isinstance(seconds, int | float) and not (seconds > 0 and math.isfinite(seconds))
    ):
        raise ValueError(f"timeout is a number of seconds above 0, or None for the client's, not {seconds!r}")


def callback(name: str, value: object) -> None:
    """Refuse what cannot be called, before it would have to be."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} is a function or None, not {value!r}")


def header_value(name: str, value: object) -> str:
    """Return a value that can go into a header."""
    if not isinstance(value, str):
        raise TypeError(f"the value of {name!r} is a str, not {value!r}")
    if found := _NOT_IN_A_HEADER.search(value):
        # Without the value, which may be a credential.
        raise ValueError(
            f"the value of {name!r} has {found.group()!r} in it, which a header cannot carry: strip or encode it"
        )
    return value


def header_name(name: object) -> None:
    """Check the name of a header of the caller's."""
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a header")
    if name.lower().startswith(PROTOCOL_HEADERS):
        raise ValueError(f"the header {name!r} is the protocol's: an argument or a method does what it is for")
    if name.lower() in _FRAMING_HEADERS:
        raise ValueError(f"the header {name!r} says how a body is sent, which only the HTTP library can know")


def headers(given: object) -> None:
    """Check the caller's headers; values that are asked for at each request are checked then."""
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise TypeError(f"headers is a mapping of names to values, not {type(given).__name__}")
    for name, value in given.items():
        header_name(name)
        if not callable(value):
            header_value(name, value)


def param_values(name: str, value: Any) -> Sequence[str]:
    """Return the values of a query parameter, of which there may be several."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise TypeError(f"the parameter {name!r} is a str or a sequence of them, not {value!r}")
    return value


def params(given: object) -> None:
    """Check the caller's query parameters; values that are asked for at each request are checked then."""
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise TypeError(f"params is a mapping of names to values, not {type(given).__name__}")
    for name, value in given.items():
        if not isinstance(name, str):
            raise TypeError(f"the name of a parameter is a str, not {name!r}")
        if not callable(value):
            param_values(name, value)
