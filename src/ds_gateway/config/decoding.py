"""How payloads become fields."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ds_gateway.config.base import Model, NonEmpty
from ds_gateway.config.quantities import Number


class FieldSettings(Model):
    """Where one field of a record comes from: ``value = raw * scale + offset``, in decimal."""

    from_: NonEmpty | None = Field(
        None, alias="from", description="Name in the payload; default: the field's own name."
    )
    scale: Number | None = Field(None, description="Factor.")
    offset: Number | None = Field(None, description="Summand, after the factor.")
    unit: str | None = Field(None, description="Unit (UCUM), announced in the stream's device record.")


Decode = Literal["json", "text"]
