"""Where a command's requests go, and with which headers. Secrets come from files, never from the command line."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from durable_streams import DurableStream, _checks
from durable_streams.cli.ending import WrongUseError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class Connection:
    """A stream's URL, and what every request to it carries."""

    url: str
    headers: dict[str, str | Callable[[], str]] = field(repr=False)
    timeout_seconds: float


def connection(url: str, token_file: Path | None, headers: Sequence[str], timeout_seconds: float) -> Connection:
    """Return the connection that the options describe; raise `WrongUseError` for what they cannot mean."""
    try:
        _checks.stream_url(url)
    except ValueError:
        raise WrongUseError(
            f"{shown(url)} is no URL of a stream: give one such as http://127.0.0.1:4437/v1/stream/name"
        ) from None
    given: dict[str, str | Callable[[], str]] = dict(_lines(headers))
    if token_file is not None:
        if any(name.lower() == "authorization" for name in given):
            raise WrongUseError("--token-file and an Authorization header exclude each other: give one of them")
        given["Authorization"] = _BearerToken(token_file)
    return Connection(url, given, timeout_seconds)


def handle_on(to: Connection, *, content_type: str | None = None) -> DurableStream:
    """Return a handle on the stream at the other end."""
    return DurableStream(to.url, content_type=content_type, headers=to.headers, timeout=to.timeout_seconds)


def read_token(path: Path) -> str:
    """Return the one token that a file holds."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUseError(f"cannot read the token from {path}: {error}") from error
    if not token or any(not character.isprintable() or character.isspace() for character in token):
        raise WrongUseError(f"{path} must hold one token without spaces")
    return token


class _BearerToken:
    """The header's value, read again for each request: tokens are renewed while a tail runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = read_token(path)

    def __call__(self) -> str:
        # While it is being written the last one may still do, and the server says if it does not.
        with contextlib.suppress(WrongUseError):
            self._last = read_token(self._path)
        return f"Bearer {self._last}"


def _lines(headers: Iterable[str]) -> Iterable[tuple[str, str]]:
    for each in headers:
        if each.startswith("@"):
            path = Path(each[1:])
            try:
                text = path.read_text(encoding="latin-1")
            except OSError as error:
                raise WrongUseError(f"cannot read headers from {path}: {error.strerror}") from error
            # The value is never shown: it is in a file because it is secret.
            yield from (_header(line, f"a line of {path}") for line in text.splitlines() if line.strip())
        else:
            yield _header(each, f"--header {each.partition(':')[0]!r}")


def _header(line: str, where: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    value = value.strip()
    if not colon or not _NAME.fullmatch(name) or not all(" " <= each <= "~" for each in value):
        raise WrongUseError(f"{where} is no header: write 'Name: value' in ASCII, or @FILE with one a line")
    return name, value
