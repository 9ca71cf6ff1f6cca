"""From a payload to fields: the bytes of one JSON object, validated, ready to be put into a record.

A decoder is a function of the payload alone. It raises `UndecodableError` with a reason for an operator and
nothing else, whatever the bytes are.

Limits, so that one payload can neither exhaust memory nor make a record that nobody downstream can parse:
payloads of `MAX_PAYLOAD_BYTES`, results of `MAX_DATA_BYTES`, JSON nested `MAX_DEPTH` levels deep, and numbers
within the range of a double (a JSON reader makes infinity or null of others).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds_gateway.decoding.errors import UndecodableError
from ds_gateway.decoding.json_payload import MAX_DEPTH, decode_json, json_selector
from ds_gateway.decoding.limits import MAX_DATA_BYTES, MAX_PAYLOAD_BYTES, bounded
from ds_gateway.decoding.text_payload import decode_text, text_selector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ds_gateway.config.decoding import Decode, FieldSettings
    from ds_gateway.decoding.limits import Decoder

__all__ = [
    "MAX_DATA_BYTES",
    "MAX_DEPTH",
    "MAX_PAYLOAD_BYTES",
    "UndecodableError",
    "build_decoder",
]


def build_decoder(decode: Decode, fields: Mapping[str, FieldSettings] | None) -> Decoder:
    """The decoder that the settings describe: payload in, bytes of a JSON object out.

    Without ``fields`` everything passes; with them only what they list, renamed and scaled.
    """
    if decode == "json":
        return bounded(decode_json if fields is None else json_selector(fields))
    return bounded(decode_text if fields is None else text_selector(fields))
