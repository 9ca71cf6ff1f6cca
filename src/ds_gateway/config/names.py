"""Names, headers' values and addresses that several settings have."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from ds_gateway.config.addresses import listening_address
from ds_gateway.config.credential import Credential

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "must be 1 to 64 letters, digits, dots, underscores and hyphens, the first a letter or digit"
        )
    return value


def _header_value(value: Credential) -> Credential:
    # The HTTP library would refuse it much later, with the secret in its message.
    text = value.get()
    if not text or not text.isascii() or _CONTROL_CHARACTERS.search(text):
        raise ValueError("a header's value is not empty, and has only printable ASCII characters")
    if text != text.strip():
        # HTTP strips a header's value: the embedded server would wait for what no reader can send. Not stripped
        # here, because a changed file is read later, and because a broker's password may end with a blank.
        raise ValueError("a header's value has no blanks around it: remove them here, or in its file or variable")
    return value


def address_and_port(value: str) -> str:
    """Refuse (ValueError) what is no address to listen at."""
    listening_address(value)
    return value


Name = Annotated[str, AfterValidator(_name)]
HeaderValue = Annotated[Credential, AfterValidator(_header_value)]
