"""Why a payload is no reading."""

from __future__ import annotations

from ds_gateway.errors import GatewayError


class UndecodableError(GatewayError):
    """The payload cannot become fields. The text is the reason that the quarantine shows."""
