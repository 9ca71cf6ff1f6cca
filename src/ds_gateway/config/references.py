"""``${credential:N}``, ``${file:PATH}`` and ``${env:N}`` in the configuration's texts.

The only code that looks a reference up. Nothing falls back to anything: a reference that is not there is a
mistake that says what was looked for and where.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ds_gateway.plain_files import open_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_FILE_BYTES: Final = 64 * 1024
_LEAST_TELLING_CHARACTERS: Final = 4
_LEAST_CERTAIN_CHARACTERS: Final = 8
"""Nobody writes so many by chance."""

_PART = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")


def hide(text: str, secret: str, instead: str) -> str:
    """The text without the secret. A short one may be a part of any word: it is hidden where it stands alone."""
    if len(secret) < _LEAST_TELLING_CHARACTERS:
        return text
    if len(secret) >= _LEAST_CERTAIN_CHARACTERS:
        return text.replace(secret, instead)
    # Behind the escape of a line's end, as in \nsecret, it stands alone, too.
    before = r"(?:(?<![^\W_])|(?<=\\[bfnrt]))" if secret[0].isalnum() else ""
    behind = r"(?![^\W_])" if secret[-1].isalnum() else ""
    return re.sub(f"{before}{re.escape(secret)}{behind}", lambda _: instead, text)


class ReferenceProblemError(ValueError):
    """A reference that cannot be followed; the text is fit for an operator."""


@dataclass(frozen=True, slots=True)
class Expanded:
    """A text with its references followed. ``read`` follows them again; None when one is not there now."""

    value: str
    read: Callable[[], str | None]


class References:
    """Follows references, and remembers what they gave so that no message ever shows it.

    ``folder`` is the configuration file's: ``${file:...}`` is relative to it.
    """

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._environ = environ
        self._folder = folder
        self._given: dict[str, str] = {}

    def expand(self, text: str, folder: Path | None = None) -> Expanded | None:
        """The text with every reference replaced and ``$${`` made ``${``; None if there is neither.

        ``folder``: that of the file that the text stands in, where it is another one. Raises
        `ReferenceProblemError`.
        """
        if "${" not in text:
            return None
        folder = folder or self._folder
        value = self._replace(text, folder)

        def read() -> str | None:
            try:
                return self._replace(text, folder)
            except ReferenceProblemError:
                return None

        return Expanded(value, read)

    def redact(self, message: str) -> str:
        """The message, with what references gave replaced by the references."""
        for value in sorted(self._given, key=len, reverse=True):
            message = hide(message, value, self._given[value])
        return message

    def _replace(self, text: str, folder: Path) -> str:
        def part(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            if match[1] is None:
                raise ReferenceProblemError("${ without }; write $${ for the text ${")
            value = self._follow(match[1], folder)
            self._given[value] = match[0]
            return value

        return _PART.sub(part, text)

    def _follow(self, reference: str, folder: Path) -> str:
        kind, separator, name = reference.partition(":")
        if separator and not (name and name.isprintable()):
            raise ReferenceProblemError("a reference needs a name, as in ${credential:stream_token}")
        match kind if separator else "":
            case "credential":
                return self._credential(name)
            case "file":
                return _content(folder / name, f"the file {folder / name} of ${{{reference}}}")
            case "env":
                return self._variable(name)
            case _:
                raise ReferenceProblemError(
                    f"${{{reference if reference.isprintable() else '?'}}} is no reference: there are "
                    "${credential:NAME}, ${file:PATH} and ${env:NAME}; write $${ for the text ${"
                )

    def _credential(self, name: str) -> str:
        if "/" in name or name in {".", ".."}:
            raise ReferenceProblemError(f"the credential's name {name!r} must be a file name without folders")
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise ReferenceProblemError(
                f"the credential {name} is looked for in $CREDENTIALS_DIRECTORY, which is not set: start the "
                f"gateway by systemd with LoadCredential={name}:FILE, or set CREDENTIALS_DIRECTORY to the folder "
                "with the credentials"
            )
        return _content(Path(folder) / name, f"the credential {name}, file {Path(folder) / name},")

    def _variable(self, name: str) -> str:
        value = self._environ.get(name)
        if value is None:
            raise ReferenceProblemError(
                f"the environment variable {name} is not set: set it where the gateway is started (systemd: "
                "EnvironmentFile=), or keep a secret in a file, as ${credential:NAME}"
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ReferenceProblemError(f"the environment variable {name} is not UTF-8") from None
        return value


def _content(path: Path, what: str) -> str:
    """The text of a small file without its trailing newline."""
    try:
        with open_plain(path) as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ReferenceProblemError(f"{what} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ReferenceProblemError(f"{what} has more than {MAX_FILE_BYTES} bytes")
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ReferenceProblemError(f"{what} is not UTF-8 text") from None
