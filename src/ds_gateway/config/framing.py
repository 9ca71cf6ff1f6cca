"""How a byte stream is cut into frames."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from ds_gateway.config.base import Model
from ds_gateway.config.quantities import Bytes
from ds_gateway.config.texts import line_ends


class LineSettings(Model):
    """Frames that end with a delimiter."""

    delimiter: Annotated[str, Field(min_length=1, max_length=16)] = Field("\n", description="End of a frame.")
    max_bytes: Bytes = Field(4096, ge=1, le=1024 * 1024, description="Longest frame; a longer one is discarded.")

    @field_validator("delimiter")
    @classmethod
    def _delimiter(cls, value: str) -> str:
        return line_ends(value)


class FramingSettings(Model):
    """How a byte stream is cut into frames."""

    line: LineSettings = Field(default_factory=LineSettings, description="Lines.")
