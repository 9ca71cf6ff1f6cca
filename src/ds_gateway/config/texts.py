"""Texts that several settings have: stream patterns, line ends."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator


def _stream_pattern(value: str) -> str:
    if any(part in {"", ".", ".."} for part in value.split("/")):
        raise ValueError("must have no empty part, no '.' and no '..' between slashes")
    if re.search(r"[\s?#%\\\x00-\x1f\x7f]", value):
        raise ValueError("must have no spaces and none of ? # % \\")
    return value


StreamPattern = Annotated[str, AfterValidator(_stream_pattern)]


def line_ends(value: str) -> str:
    """Refuse (ValueError) a line end that YAML did not read as one."""
    if re.search(r"\\[rnt0x]", value):
        # YAML reads escapes in double quotes only; taken literally, no line would ever end.
        raise ValueError(f'has a backslash in it, not a line end: write "{value}" in double quotes')
    return value
