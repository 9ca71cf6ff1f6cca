"""The page itself: one file without a build step, and the policy that lets it run nothing but what is in it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Final, Self

_FILE: Final = "index.html"
_INLINE: Final = re.compile(rb"<(?P<tag>script|style)>(?P<text>.*?)</(?P=tag)>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Page:
    """The file, and its Content-Security-Policy."""

    content: bytes
    policy: str

    @classmethod
    def load(cls) -> Self:
        """Read it from where this package is installed."""
        content = resources.files(__package__).joinpath(_FILE).read_bytes()
        return cls(content, policy(content))


def policy(content: bytes) -> str:
    """Nothing but this very script and these very styles, and requests to where the page came from.

    Trusted types: what comes from devices cannot become markup even by a mistake in the script.
    """
    hashes: dict[bytes, list[str]] = {b"script": [], b"style": []}
    for match in _INLINE.finditer(content):
        digest = base64.b64encode(hashlib.sha256(match["text"]).digest()).decode("ascii")
        hashes[match["tag"]].append(f"'sha256-{digest}'")
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(hashes[b'script'])}",
            f"style-src {' '.join(hashes[b'style'])}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "trusted-types 'none'",
            "require-trusted-types-for 'script'",
        )
    )
