"""Why a payload is no reading, and what is wrong with settings."""

from __future__ import annotations

from ds_gateway.errors import GatewayError


class UndecodableError(GatewayError):
    """The payload cannot become fields. The text is the reason that the quarantine shows."""


class SettingsMistakeError(ValueError):
    """Settings that do not fit each other. ``key`` is the setting it is in, as ``fields.weight.from``."""

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key
