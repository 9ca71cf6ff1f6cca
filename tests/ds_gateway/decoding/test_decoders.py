from __future__ import annotations

import base64
import json
from decimal import Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_gateway import decoding
from ds_gateway.config.decoding import DecodeSettings, FieldSettings, Kind
from ds_gateway.decoding import MAX_DATA_BYTES, MAX_DEPTH, MAX_PAYLOAD_BYTES, UndecodableError

if TYPE_CHECKING:
    from collections.abc import Callable

_FINITE = st.floats(allow_nan=False, allow_infinity=False)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | _FINITE | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def build_decoder(decode: Kind, fields: dict[str, FieldSettings] | None) -> Callable[[bytes], bytes]:
    return decoding.build_decoder(DecodeSettings.of(decode), fields)


def _fields(**settings: dict[str, Any]) -> dict[str, FieldSettings]:
    return {name: FieldSettings.model_validate(values) for name, values in settings.items()}


def _reason(decode: Kind, payload: bytes, **settings: dict[str, Any]) -> str:
    decoder = build_decoder(decode, _fields(**settings) if settings else None)
    with pytest.raises(UndecodableError) as caught:
        decoder(payload)
    return str(caught.value)


class TestJsonWithoutFields:
    def test_an_object_passes_as_the_bytes_that_were_sent(self) -> None:
        payload = b'{"b": 1.50, "a": 1e5,\n "id": 123456789012345678901234567890}'
        assert build_decoder("json", None)(b" \r\n" + payload + b"\n") == payload

    @pytest.mark.parametrize("payload", [b"21.50", b'"on"', b"true", b"null", b"[1, 2]"])
    def test_anything_else_is_a_value(self, payload: bytes) -> None:
        assert build_decoder("json", None)(payload) == b'{"value":' + payload + b"}"

    @pytest.mark.parametrize(
        "payload",
        [
            b"NaN",
            b'{"a": Infinity}',
            b"1e400",
            b'{"a": 1} {"b": 2}',
            b"1],[2",
            b'{"a": 1,}',
            b'"\xff"',
            b'"\\ud800"',
            b"\xef\xbb\xbf{}",
            b'{"a": 1}\x00',
            b"01",
        ],
    )
    def test_what_is_not_strictly_json_is_refused(self, payload: bytes) -> None:
        assert _reason("json", payload).startswith("not JSON: ")

    def test_binary_values_are_refused_with_the_place_and_the_way_out(self) -> None:
        assert _reason("json", b' {"a": "\xff"}') == (
            "not JSON: not UTF-8: the byte 0xff at 8; if the device sends binary values, "
            "set decode: cbor, struct or raw"
        )

    @pytest.mark.parametrize("payload", [b"", b" \r\n"])
    def test_an_empty_payload_is_refused(self, payload: bytes) -> None:
        assert "empty" in _reason("json", payload)

    @pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
    def test_nesting_is_limited_to_what_every_reader_can_parse(self, opening: bytes, closing: bytes) -> None:
        deepest = opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH
        assert build_decoder("json", None)(deepest).find(deepest) >= 0
        assert "levels deep" in _reason("json", opening + deepest + closing)

    def test_many_brackets_beside_each_other_are_not_deep(self) -> None:
        payload = b'{"a":[' + b",".join([b"[]"] * 5000) + b"]}"
        assert build_decoder("json", None)(payload) == payload

    @settings(deadline=None)
    @given(value=_JSON)
    def test_every_json_value_becomes_an_object_that_says_the_same(self, value: Any) -> None:
        data = orjson.loads(build_decoder("json", None)(orjson.dumps(value)))
        assert data == (value if isinstance(value, dict) else {"value": value})

    @settings(deadline=None)
    @given(payload=st.binary(max_size=40))
    def test_any_bytes_give_an_object_or_a_reason(self, payload: bytes) -> None:
        for decoder in (build_decoder("json", None), build_decoder("json", _fields(value={"scale": 2}))):
            try:
                result: object = orjson.loads(decoder(payload))
            except UndecodableError as error:
                result = str(error)

            assert isinstance(result, dict | str)


class TestJsonFields:
    def test_only_listed_fields_pass_under_their_new_names(self) -> None:
        decoder = build_decoder("json", _fields(temperature={"from": "temp"}, on={}))
        assert decoder(b'{"temp": 21.50, "on": true, "secret": 1}') == b'{"temperature":21.50,"on":true}'

    def test_214_times_a_tenth_is_21_4(self) -> None:
        assert build_decoder("json", _fields(t={"scale": 0.1}))(b'{"t": 214}') == b'{"t":21.4}'

    def test_scale_comes_before_offset(self) -> None:
        assert build_decoder("json", _fields(t={"scale": 0.1, "offset": -40}))(b'{"t": 214}') == b'{"t":-18.6}'

    def test_an_offset_alone_and_whole_factors_stay_exact(self) -> None:
        decoder = build_decoder("json", _fields(a={"offset": 0.1}, b={"scale": 3}))
        assert decoder(b'{"a": 0.2, "b": 12345678901234567890123}') == b'{"a":0.3,"b":37037036703703703670369}'

    def test_more_digits_than_a_double_has_are_kept(self) -> None:
        decoder = build_decoder("json", _fields(t={"scale": 10}, u={}))
        payload = b'{"t": 0.12345678901234567890123, "u": 1.00000000000000000001}'
        assert decoder(payload) == b'{"t":1.23456789012345678901230,"u":1.00000000000000000001}'

    def test_nested_values_keep_their_digits(self) -> None:
        decoder = build_decoder("json", _fields(gps={}))
        assert decoder(b'{"gps": {"lat": 52.500000, "sats": [1, 2.50]}}') == (
            b'{"gps":{"lat":52.500000,"sats":[1,2.50]}}'
        )

    def test_a_dotted_name_leads_into_objects(self) -> None:
        decoder = build_decoder("json", _fields(power={"from": "ENERGY.Power", "scale": 0.001}))
        assert decoder(b'{"ENERGY": {"Power": 1500}}') == b'{"power":1.500}'

    def test_a_plain_name_with_dots_wins_over_the_path(self) -> None:
        decoder = build_decoder("json", _fields(x={"from": "a.b"}))
        assert decoder(b'{"a": {"b": 1}, "a.b": 2}') == b'{"x":2}'

    def test_a_dotted_name_does_not_lead_through_lists_and_scalars(self) -> None:
        assert "none of the listed fields" in _reason("json", b'{"a": [1], "b": 5}', x={"from": "a.0"})

    def test_a_scalar_payload_is_the_field_value(self) -> None:
        assert build_decoder("json", _fields(t={"from": "value", "scale": 0.1}))(b"214") == b'{"t":21.4}'

    def test_a_missing_field_is_absent(self) -> None:
        assert build_decoder("json", _fields(a={}, b={}))(b'{"b": 1}') == b'{"b":1}'

    def test_a_payload_with_none_of_the_fields_is_refused_with_what_was_there(self) -> None:
        reason = _reason("json", b'{"temp": 1, "hum": 2}', temperature={}, humidity={"from": "rh"})
        assert reason == "none of the listed fields (temperature, rh) is in the payload, which has temp, hum"

    def test_the_reason_for_a_payload_with_many_long_names_is_short(self) -> None:
        payload = orjson.dumps({f"{number}{'x' * 1000}": 1 for number in range(100)})
        assert len(_reason("json", payload, a={})) < 1000

    @pytest.mark.parametrize("raw", [b'"21.4"', b"true", b"[1]", b'{"a": 1}'])
    def test_only_numbers_can_be_scaled(self, raw: bytes) -> None:
        reason = _reason("json", b'{"t": ' + raw + b"}", t={"scale": 0.1})
        assert reason.startswith("field t: ")
        assert reason.endswith("is not a number, so it cannot be scaled")

    def test_no_reading_passes_unscaled(self) -> None:
        assert (
            build_decoder("json", _fields(t={"scale": 0.1}, u={}))(b'{"t": null, "u": 1}') == b'{"t":null,"u":1}'
        )

    @pytest.mark.parametrize("payload", [b'{"t": 1e308}', b'{"t": -1e308}'])
    def test_a_result_that_no_double_can_hold_is_refused(self, payload: bytes) -> None:
        assert "range of a double" in _reason("json", payload, t={"scale": 10})

    def test_a_result_that_cannot_be_exact_is_refused(self) -> None:
        payload = b'{"t": 0.' + b"1" * 5000 + b"}"
        assert "more digits" in _reason("json", payload, t={"scale": 0.1})

    def test_an_absurd_exponent_is_refused(self) -> None:
        assert "exponent" in _reason("json", b'{"t": 1e-99999999999999999999}', t={"scale": 0.1})

    @pytest.mark.parametrize(
        ("payload", "data"),
        [
            (b'{"x": {"t": 2.50}, "t": 1.50}', b'{"t":1.50}'),
            (b'{"t": 2.50, "t": 1.50}', b'{"t":1.50}'),
            (b'{"x": {"t": 2.50}, "\\u0074": 1.50}', b'{"t":1.50}'),
            (b'{"x": "\\"t\\": 2.50", "t": 1.50}', b'{"t":1.50}'),
            (b'{"x": ["t", 2.50], "t":\t1.50}', b'{"t":1.50}'),
            (b'{"t": 1.50e1}', b'{"t":15.0}'),
            (b'{"t": 123456789012345678901234567890}', b'{"t":123456789012345678901234567890}'),
            (b'{"t": -0.0}', b'{"t":-0.0}'),
        ],
    )
    def test_the_digits_are_those_of_the_field_whatever_else_has_its_name(
        self, payload: bytes, data: bytes
    ) -> None:
        assert build_decoder("json", _fields(t={}))(payload) == data
        assert build_decoder("json", _fields(t={"scale": 1}))(payload) == data

    @settings(deadline=None)
    @given(
        raw=st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30)
        | st.integers(-(10**25), 10**25),
        scale=st.floats(-1e9, 1e9) | st.integers(-1000, 1000),
        offset=st.none() | st.floats(-1e9, 1e9) | st.integers(-1000, 1000),
    )
    def test_the_arithmetic_is_that_of_fractions(
        self, raw: Decimal | int, scale: float, offset: float | None
    ) -> None:
        decoder = build_decoder("json", _fields(t={"scale": scale, "offset": offset}))
        # As the configuration writes a number: 0.1 means one tenth.
        expected = Fraction(str(raw)) * Fraction(repr(scale)) + Fraction(repr(0 if offset is None else offset))
        data = decoder(b'{"t": %b}' % str(raw).encode())
        assert Fraction(json.loads(data, parse_float=str, parse_int=str)["t"]) == expected


class TestText:
    def test_text_is_a_value_without_the_space_around_it(self) -> None:
        assert build_decoder("text", None)(b"  12.5 kg\xc2\xb2 \r") == '{"value":"12.5 kg²"}'.encode()

    def test_a_number_stays_text_without_scale(self) -> None:
        assert build_decoder("text", None)(b"0012.30") == b'{"value":"0012.30"}'
        assert build_decoder("text", _fields(w={"from": "value"}))(b"0012.30") == b'{"w":"0012.30"}'

    def test_other_bytes_are_kept_whole_as_base64(self) -> None:
        payload = b" \xff\x00\xfe\n"
        data = orjson.loads(build_decoder("text", None)(payload))
        assert base64.b64decode(data["value"]) == payload
        assert data["encoding"] == "base64"

    @pytest.mark.parametrize(
        ("payload", "data"),
        [
            (b" +0012.30 \r", b'{"weight":1.230}'),
            (b"-5", b'{"weight":-0.5}'),
            (b".5", b'{"weight":0.05}'),
            (b"5.", b'{"weight":0.5}'),
            (b"1e3", b'{"weight":1E+2}'),
        ],
    )
    def test_a_plain_number_can_be_scaled(self, payload: bytes, data: bytes) -> None:
        assert build_decoder("text", _fields(weight={"from": "value", "scale": 0.1}))(payload) == data

    @pytest.mark.parametrize(
        "payload", [b"12.5 kg", b"", b"NaN", b"Infinity", b"1_000", "\u0663".encode(), b"1e999999999999999999999"]
    )
    def test_other_text_cannot(self, payload: bytes) -> None:
        assert "is not a number" in _reason("text", payload, weight={"from": "value", "scale": 0.1})

    def test_base64_is_tagged_under_any_name(self) -> None:
        decoder = build_decoder("text", _fields(raw={"from": "value"}))
        assert decoder(b"\xff") == b'{"raw":"/w==","encoding":"base64"}'

    def test_the_tag_is_there_once_if_it_is_listed(self) -> None:
        decoder = build_decoder("text", _fields(raw={"from": "value"}, encoding={}))
        assert decoder(b"\xff") == b'{"raw":"/w==","encoding":"base64"}'

    def test_base64_that_looks_like_a_number_is_none(self) -> None:
        payload = base64.b64decode("1234")
        assert "is not a number" in _reason("text", payload, weight={"from": "value", "scale": 1})

    @settings(deadline=None)
    @given(payload=st.binary(max_size=60))
    def test_any_bytes_become_an_object(self, payload: bytes) -> None:
        data = orjson.loads(build_decoder("text", None)(payload))
        if "encoding" in data:
            assert base64.b64decode(data["value"]) == payload
        else:
            assert data["value"] == payload.decode().strip()


class TestLimits:
    @pytest.mark.parametrize("decode", ["json", "text"])
    def test_a_payload_over_the_limit_is_refused(self, decode: Kind) -> None:
        payload = b"1" * (MAX_PAYLOAD_BYTES + 1)
        assert _reason(decode, payload) == (
            f"the payload has {MAX_PAYLOAD_BYTES + 1} bytes; at most {MAX_PAYLOAD_BYTES} are taken"
        )

    def test_fields_that_grow_over_the_limit_are_refused(self) -> None:
        # Each control character becomes six characters of JSON.
        assert "fit in a record" in _reason("text", b"x" + b"\x01" * (MAX_DATA_BYTES // 6) + b"x")

    @settings(deadline=None)
    @given(digits=st.integers(0, 10**40), places=st.integers(0, 40))
    def test_a_field_without_arithmetic_keeps_the_digits_that_were_sent(self, digits: int, places: int) -> None:
        sent = Decimal(digits).scaleb(-places, Context(prec=100))
        data = build_decoder("json", _fields(t={}))(b'{"t":%b}' % str(sent).encode())
        # Trailing zeros too: 21.50 says more than 21.5.
        assert json.loads(data, parse_float=Decimal, parse_int=Decimal)["t"].as_tuple() == sent.as_tuple()
