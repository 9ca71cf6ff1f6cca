"""From a payload to fields: the bytes of one JSON object, validated, ready to be put into a record.

A decoder is a function of the payload alone. It raises `UndecodableError` with a reason for an operator and
nothing else, whatever the bytes are. No bytes at all are its answer to what is no reading, as a header line, and
to what ``only`` does not find.

Limits, so that one payload can neither exhaust memory nor make a record that nobody downstream can parse:
payloads of `MAX_PAYLOAD_BYTES`, results of `MAX_DATA_BYTES`, JSON nested `MAX_DEPTH` levels deep, and numbers
within the range of a double (a JSON reader makes infinity or null of others).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from ds_gateway.decoding.cbor_payload import parse_cbor
from ds_gateway.decoding.errors import SettingsMistakeError, UndecodableError
from ds_gateway.decoding.fitting import check_settings
from ds_gateway.decoding.json_payload import (
    MAX_DEPTH,
    decode_json,
    json_selector,
    parse_json,
    parse_json_roughly,
    read_json_number,
)
from ds_gateway.decoding.limits import MAX_DATA_BYTES, MAX_PAYLOAD_BYTES, bounded, check_data, check_payload
from ds_gateway.decoding.reporting import Report
from ds_gateway.decoding.row_payload import csv_parser, finder, regex_parser
from ds_gateway.decoding.selection import Dropping, Selection
from ds_gateway.decoding.struct_payload import struct_parser
from ds_gateway.decoding.text_payload import number_parser, parse_raw, read_text_number, text_parser
from ds_gateway.decoding.times import PayloadTime
from ds_gateway.decoding.values import Base64Text, read_number, render_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from ds_gateway.config.decoding import DecodeSettings, FieldSettings, TimeSettings
    from ds_gateway.decoding.limits import Decoder, Parser

__all__ = [
    "MAX_DATA_BYTES",
    "MAX_DEPTH",
    "MAX_PAYLOAD_BYTES",
    "Report",
    "SettingsMistakeError",
    "TimedDecoder",
    "UndecodableError",
    "build_decoder",
    "build_timed_decoder",
    "check_settings",
    "finder",
]

TimedDecoder: TypeAlias = Callable[[bytes], tuple[bytes, int | None, str]]
"""Payload in; bytes of a JSON object, the payload's time (UTC nanoseconds since 1970), and why it has none out."""

_Shape: TypeAlias = "Callable[[Mapping[str, Any]], bytes]"


def build_decoder(
    decode: DecodeSettings, fields: Mapping[str, FieldSettings] | None, drop: Sequence[str] = ()
) -> Decoder:
    """The decoder that the settings describe: payload in, bytes of a JSON object out.

    Without ``fields`` everything passes but what is dropped; with them only what they list, renamed and scaled.
    """
    if decode.only is None:
        return _build_decoder(decode, fields, drop)
    decode_wanted, is_wanted = _build_decoder(decode, fields, drop), finder(decode.only)

    def decode_payload(payload: bytes) -> bytes:
        return decode_wanted(payload) if is_wanted(payload) else b""

    return decode_payload


def _build_decoder(
    decode: DecodeSettings, fields: Mapping[str, FieldSettings] | None, drop: Sequence[str]
) -> Decoder:
    if decode.kind == "json" and fields is None and not drop:
        return bounded(decode_json)
    if decode.kind == "json" and fields is not None:
        return bounded(json_selector(Selection(fields, read_json_number)))
    parse, read = _parser(decode)
    shape = _shape(decode, fields, drop, read)

    def decode_payload(payload: bytes) -> bytes:
        values = parse(payload)
        return b"" if values is None else shape(values)

    return bounded(decode_payload)


def build_timed_decoder(
    decode: DecodeSettings,
    fields: Mapping[str, FieldSettings] | None,
    drop: Sequence[str],
    time: TimeSettings,
) -> TimedDecoder:
    """As `build_decoder`, with the payload's time beside its fields.

    A time that cannot be read does not make the payload undecodable: its fields are good.
    """
    parse, read = _parser(decode)
    shape = _shape(decode, fields, drop, read)
    passes = decode.kind == "json" and fields is None and not drop
    if passes:
        parse = parse_json_roughly
    payload_time = PayloadTime(time)
    is_wanted = None if decode.only is None else finder(decode.only)

    def decode_payload(payload: bytes) -> tuple[bytes, int | None, str]:
        if is_wanted is not None and not is_wanted(payload):
            return b"", None, ""
        check_payload(payload)
        values = parse(payload)
        if values is None:
            return b"", None, ""
        data = check_data(decode_json(payload) if passes else shape(values))
        try:
            return data, payload_time.of(values), ""
        except UndecodableError as error:
            return data, None, str(error)

    return decode_payload


def _parser(decode: DecodeSettings) -> tuple[Parser, Callable[[object], Decimal | None]]:
    """What makes values of a payload, and which number such a value is."""
    if decode.csv is not None:
        return csv_parser(decode.csv), read_text_number
    if decode.regex is not None:
        return regex_parser(decode.regex), read_text_number
    if decode.struct is not None:
        return struct_parser(decode.struct), read_number
    if decode.cbor is not None:
        return parse_cbor, read_number
    if decode.number is not None:
        return number_parser(decode.number), read_text_number
    if decode.text is not None:
        return text_parser(decode.text), read_text_number
    return (parse_json, read_json_number) if decode.raw is None else (parse_raw, read_text_number)


def _shape(
    decode: DecodeSettings,
    fields: Mapping[str, FieldSettings] | None,
    drop: Sequence[str],
    read: Callable[[object], Decimal | None],
) -> _Shape:
    """What makes the record's data of the values."""
    if fields is not None:
        shape: _Shape = Selection(fields, read).render
        may_be_bytes = decode.text is not None or decode.raw is not None
        return _tagged(shape) if may_be_bytes and "encoding" not in fields else shape
    return Dropping(drop).render if drop else render_object


def _tagged(shape: _Shape) -> _Shape:
    """Base64 without its tag would be taken for the text itself, so the tag passes unlisted."""

    def render(values: Mapping[str, Any]) -> bytes:
        data = shape(values)
        return data[:-1] + b',"encoding":"base64"}' if isinstance(values["value"], Base64Text) else data

    return render
