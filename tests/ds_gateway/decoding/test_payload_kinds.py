"""CSV, regular expressions, structs, CBOR, numbers and raw bytes."""

from __future__ import annotations

import base64
import json
import math
import struct
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import cbor2
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_gateway.config.decoding import KINDS, DecodeSettings, FieldSettings
from ds_gateway.decoding import MAX_PAYLOAD_BYTES, UndecodableError, build_decoder
from ds_gateway.decoding.cbor_payload import MAX_CBOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    Decoder = Callable[[bytes], bytes]

EXAMPLES: dict[str, Any] = {
    "json": "json",
    "csv": {"csv": {"columns": ["a", "b"]}},
    "csv without names": "csv",
    "csv without quoting": {"csv": {"quoting": False, "delimiter": ";", "decimal": ",", "encoding": "latin-1"}},
    "regex": {"regex": r"(?P<a>\d+)(?P<b>[a-z]+)?"},
    "regex in latin-1": {"regex": {"pattern": r"(?P<a>(x|xx)+)(?P<b>.*)$", "encoding": "latin-1"}},
    "struct": {"struct": {"members": {"a": "u8", "b": "f32"}, "longer": True}},
    "text in a struct": {"struct": {"members": {"a": {"type": "text", "length": 2}}, "longer": True}},
    "cbor": "cbor",
    "number": "number",
    "text": "text",
    "raw": "raw",
}


def decoder(decode: Any, *drop: str, **fields: dict[str, Any]) -> Decoder:
    listed = {name: FieldSettings.model_validate(values) for name, values in fields.items()} or None
    return build_decoder(DecodeSettings.model_validate(decode), listed, drop)


def reason(decode: Any, payload: bytes, **fields: dict[str, Any]) -> str:
    with pytest.raises(UndecodableError) as caught:
        decoder(decode, **fields)(payload)
    return str(caught.value)


def outcome(decode: Decoder, payload: bytes) -> str:
    """The reason, or which type of value the fields are."""
    try:
        data = decode(payload)
    except UndecodableError as error:
        return str(error)
    return type(orjson.loads(data)).__name__ if data else "no reading"


class TestAnyPayload:
    """Payloads come from whoever may publish: each gives an object or a reason, and nothing else."""

    def test_there_is_an_example_of_every_kind(self) -> None:
        assert {DecodeSettings.model_validate(example).kind for example in EXAMPLES.values()} == set(KINDS)

    @pytest.mark.parametrize("decode", EXAMPLES.values(), ids=EXAMPLES)
    @settings(deadline=None, max_examples=40)
    @given(payload=st.binary(max_size=30) | st.text(max_size=20).map(str.encode))
    def test_any_bytes_give_an_object_or_a_reason(self, decode: Any, payload: bytes) -> None:
        listed: dict[str, dict[str, Any]] = {"value": {"scale": 2}, "a": {"clamp": [0, 1]}, "b": {"map": {"1": 2}}}
        for fields in ({}, listed):
            assert outcome(decoder(decode, **fields), payload) not in {"", "list", "int", "str"}

    @pytest.mark.parametrize("decode", EXAMPLES.values(), ids=EXAMPLES)
    @pytest.mark.parametrize(
        "unit",
        [b"[", b'{"a":', b"1", b'"', b"x", b"a,", b"\n", b"\x9f", b"\xc1", b"\xa1\x01", b"\xff", b"-", b"\x00"],
    )
    def test_the_largest_payload_of_anything_is_bounded(self, decode: Any, unit: bytes) -> None:
        for size in (MAX_PAYLOAD_BYTES // len(unit), MAX_CBOR_BYTES // len(unit)):
            assert len(outcome(decoder(decode), unit * size)) < 500
        assert "are taken" in reason(decode, b"1" * (MAX_PAYLOAD_BYTES + 1))


class TestCsv:
    def test_columns_have_names(self) -> None:
        decode = {"csv": {"columns": ["time", "weight", "state"]}}
        assert decoder(decode)(b'12:30, +0012.30 ,"a, ""b"""\r\n') == (
            b'{"time":"12:30","weight":12.30,"state":"a, \\"b\\""}'
        )

    def test_columns_without_names_have_numbers(self) -> None:
        assert decoder("csv")(b"a,2") == b'{"1":"a","2":2}'
        assert decoder("csv", t={"from": 2, "scale": 0.1})(b"a,214") == b'{"t":21.4}'

    def test_an_empty_value_is_null(self) -> None:
        assert decoder("csv")(b"1,,") == b'{"1":1,"2":null,"3":null}'

    def test_columns_of_text_stay_text(self) -> None:
        assert decoder({"csv": {"columns": ["id", "n"], "text": ["id"]}})(b"007,007") == b'{"id":"007","n":7}'

    def test_delimiter_decimal_comma_and_quotes_can_be_others(self) -> None:
        decode = {"csv": {"delimiter": ";", "decimal": ",", "quoting": False}}
        assert decoder(decode)(b'21,50;"x;1.5') == b'{"1":21.50,"2":"\\"x","3":"1.5"}'

    def test_a_header_is_no_reading(self) -> None:
        assert decoder({"csv": {"columns": ["a", "b"]}})(b"a,b\n") == b""

    def test_lines_before_the_row_are_passed_over(self) -> None:
        assert decoder({"csv": {"columns": ["a", "b"], "skip_lines": 2}})(b"# x\na;b\n1,2\n") == b'{"a":1,"b":2}'

    def test_latin_1_is_read_where_the_settings_say_so(self) -> None:
        assert decoder({"csv": {"encoding": "latin-1"}})(b"\xb0C") == '{"1":"°C"}'.encode()
        assert "set encoding: latin-1" in reason("csv", b"\xb0C")

    @pytest.mark.parametrize(
        ("payload", "words"),
        [
            (b"1", "the row has 1 values, and there are 2 columns"),
            (b"1,2,3", "the row has 3 values"),
            (b"1,2\n3,4", "more than one row"),
            (b"\n\n", "no row"),
            (b'"1,2', "not a row of separated values"),
            (b"1,NaN", "NaN is not a finite number"),
            (b"1,-inf", "-inf is not a finite number"),
            (b"1,1e999", "outside the range of a double"),
        ],
    )
    def test_what_is_no_row_is_refused(self, payload: bytes, words: str) -> None:
        assert words in reason({"csv": {"columns": ["a", "b"]}}, payload)


RMC: dict[str, Any] = {"csv": {"columns": ["sentence", "status"]}, "only": r"^\$..RMC,"}


class TestOnly:
    def test_what_it_does_not_find_is_no_reading_and_no_mistake(self) -> None:
        assert decoder(RMC)(b"$GPGSV,1,1,00") == b""
        assert decoder({"json": {}, "only": '"power"'})(b'{"uptime": 7}') == b""

    def test_what_it_finds_is_read_as_without_it(self) -> None:
        assert decoder(RMC)(b"$GPRMC,A") == b'{"sentence":"$GPRMC","status":"A"}'
        assert reason(RMC, b"$GNRMC,1,2") == "the row has 3 values, and there are 2 columns"

    def test_bytes_that_are_no_text_are_looked_at_all_the_same(self) -> None:
        assert decoder({"raw": {}, "only": "^A"})(b"A\xff") == b'{"value":"Qf8=","encoding":"base64"}'
        assert decoder({"raw": {}, "only": "^A"})(b"\xff\x00A") == b""

    def test_a_payload_that_is_too_long_is_refused_and_not_passed_over(self) -> None:
        assert "at most 1048576 are taken" in reason(RMC, b"x" * (MAX_PAYLOAD_BYTES + 1))


class TestRegex:
    def test_a_group_is_a_field_wherever_it_is_found(self) -> None:
        decode = {"regex": r"(?P<weight>[\d.]+)\s*(?P<unit>kg|g)(?P<note>!)?"}
        assert decoder(decode)(b"S S 12.345 kg\r") == b'{"weight":12.345,"unit":"kg"}'

    def test_digits_zeros_and_text_are_kept_as_the_settings_say(self) -> None:
        decode = {"regex": {"pattern": r"(?P<id>\d+) (?P<t>[\d,]+) ?°C", "text": ["id"], "decimal": ","}}
        assert decoder(decode)("007 21,50 °C".encode()) == b'{"id":"007","t":21.50}'

    @pytest.mark.parametrize(
        ("payload", "words"),
        [(b"ERR", 'matches nothing in "ERR"'), (b"", "matches nothing"), (b"\xff", "not UTF-8")],
    )
    def test_what_does_not_match_is_refused(self, payload: bytes, words: str) -> None:
        assert words in reason({"regex": r"(?P<a>\d)"}, payload)

    def test_a_match_without_a_group_is_refused(self) -> None:
        assert "none of its groups" in reason({"regex": r"x|(?P<a>\d)"}, b"x")

    def test_a_pattern_that_would_backtrack_for_ever_takes_linear_time(self) -> None:
        # A backtracking engine takes 2**1000000 steps for this, so that the test would never end.
        assert "matches nothing" in reason({"regex": r"^(?P<a>(a+)+)$"}, b"a" * 1_000_000 + b"!")


class TestStruct:
    def test_members_follow_one_another(self) -> None:
        decode = {"struct": {"members": {"a": "u8", "b": "i16", "c": "u24", "d": "i32", "e": "u64"}}}
        payload = struct.pack(">BhBHiQ", 1, -2, 3, 4, -5, 2**64 - 1)
        assert decoder(decode)(payload) == b'{"a":1,"b":-2,"c":196612,"d":-5,"e":18446744073709551615}'

    def test_places_and_orders_can_be_given(self) -> None:
        members = {"a": {"type": "u16", "offset": 2}, "b": {"type": "u16", "offset": 0, "order": "big"}}
        assert decoder({"struct": {"order": "little", "members": members}})(b"\1\2\3\4") == b'{"a":1027,"b":258}'

    @pytest.mark.parametrize(
        ("order", "payload"),
        [
            ("big", "01020304"),
            ("little", "04030201"),
            ("big_swapped", "03040102"),
            ("little_swapped", "02010403"),
        ],
    )
    def test_words_can_be_swapped_as_in_modbus(self, order: str, payload: str) -> None:
        decode = {"struct": {"order": order, "members": {"a": "u32"}}}
        assert decoder(decode)(bytes.fromhex(payload)) == b'{"a":16909060}'

    def test_bits_of_one_number_share_its_bytes(self) -> None:
        members = {
            "low": {"type": "u16", "bits": [0, 3]},
            "flag": {"type": "u16", "bit": 4},
            "high": {"type": "u16", "bits": [8, 15]},
            "next": "u8",
        }
        assert decoder({"struct": {"members": members}})(b"\xab\x1c\x07") == (
            b'{"low":12,"flag":true,"high":171,"next":7}'
        )

    def test_a_float_has_the_digits_of_its_width(self) -> None:
        decode = {"struct": {"order": "little", "members": {"h": "f16", "f": "f32", "d": "f64"}}}
        assert decoder(decode)(struct.pack("<efd", 21.4, 21.4, 21.4)) == b'{"h":21.4,"f":21.4,"d":21.4}'

    def test_text_ends_at_its_padding_and_hex_is_whole(self) -> None:
        members = {"id": {"type": "text", "length": 4}, "crc": {"type": "hex", "length": 2}}
        assert decoder({"struct": {"members": members}})(b"ab \0\x00\xff") == b'{"id":"ab","crc":"00ff"}'
        assert "not UTF-8" in reason({"struct": {"members": members}}, b"\xff\xff\xff\xff\0\0")

    @pytest.mark.parametrize(
        ("more", "payload", "words"),
        [
            ({}, b"\0", "the payload has 1 bytes, and 2 are expected"),
            ({}, b"\0\0\0", "has 3 bytes, and 2 are expected"),
            ({"longer": True}, b"\0", "at least 2 are expected"),
            ({"length": 4}, b"\0\0", "4 are expected"),
        ],
    )
    def test_the_length_is_checked(self, more: dict[str, Any], payload: bytes, words: str) -> None:
        assert words in reason({"struct": {"members": {"a": "u16"}, **more}}, payload)

    def test_a_rest_can_be_passed_over(self) -> None:
        assert decoder({"struct": {"members": {"a": "u8"}, "longer": True}})(b"\1\2\3") == b'{"a":1}'

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize(("type_", "letter"), [("f16", "e"), ("f32", "f"), ("f64", "d")])
    def test_nan_and_infinity_are_refused(self, value: float, type_: str, letter: str) -> None:
        words = reason({"struct": {"members": {"a": type_}}}, struct.pack(f">{letter}", value))
        assert "not a finite number" in words

    @settings(deadline=None)
    @given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
    def test_the_digits_of_a_float_name_it_and_no_other(self, value: float) -> None:
        data = json.loads(decoder({"struct": {"members": {"a": "f32"}}})(struct.pack(">f", value)))
        assert struct.unpack(">f", struct.pack(">f", data["a"]))[0] == value

    @settings(deadline=None)
    @given(value=st.integers(0, 2**32 - 1), low=st.integers(0, 31), width=st.integers(1, 32))
    def test_bits_are_those_of_the_number(self, value: int, low: int, width: int) -> None:
        high = min(31, low + width - 1)
        members = {"a": {"type": "u32", "bits": [low, high]}, "b": {"type": "u32", "bit": low}}
        data = json.loads(decoder({"struct": {"members": members}})(value.to_bytes(4, "big")))
        assert data == {"a": value // 2**low % 2 ** (high - low + 1), "b": value // 2**low % 2 == 1}


class TestCbor:
    def test_a_map_is_taken_as_json(self) -> None:
        value = {"t": 21.5, "ok": True, "none": None, "list": [1, "x", {"y": -2}]}
        assert json.loads(decoder("cbor")(cbor2.dumps(value))) == value

    def test_anything_else_is_a_value(self) -> None:
        assert decoder("cbor")(cbor2.dumps(7)) == b'{"value":7}'

    @pytest.mark.parametrize(
        ("payload", "data"),
        [
            ("a1 01 02", {"1": 2}),
            ("f7", {"value": None}),
            ("42 00ff", {"value": base64.b64encode(b"\x00\xff").decode()}),
            ("fa 41ab3333", {"value": 21.4}),
            ("f9 3e00", {"value": 1.5}),
            ("c1 1a514b67b0", {"value": 1363896240}),
            ("c0 74 323031332d30332d32315432303a30343a30305a", {"value": "2013-03-21T20:04:00Z"}),
            ("c2 49 010000000000000000", {"value": 18446744073709551616}),
            ("c3 49 010000000000000000", {"value": -18446744073709551617}),
            ("c4 82 21 19 6ab3", {"value": 273.15}),
            ("c4 82 20 c2 4d 01000000000000000000000000", {"value": 7922816251426433759354395033.6}),
            ("d9 d9f7 01", {"value": 1}),
            ("d8 23 61 28", {"value": "("}),
            ("d9 0fa0 a1 61 61 01", {"a": 1}),
            ("9f 01 02 ff", {"value": [1, 2]}),
            ("bf 61 61 01 ff", {"a": 1}),
        ],
    )
    def test_what_json_does_not_have_has_a_form(self, payload: str, data: dict[str, Any]) -> None:
        assert json.loads(decoder("cbor")(bytes.fromhex(payload))) == data

    def test_long_numbers_keep_their_digits(self) -> None:
        assert decoder("cbor")(bytes.fromhex("c4 82 20 c2 4d 01000000000000000000000001")) == (
            b'{"value":7922816251426433759354395033.7}'
        )
        assert decoder("cbor", value={"scale": 10})(cbor2.dumps(2**70)) == b'{"value":%d}' % (2**70 * 10)

    @pytest.mark.parametrize(
        ("payload", "words"),
        [
            ("", "not CBOR"),
            ("a1 01", "not CBOR"),
            ("01 02", "1 bytes are behind the value"),
            ("f9 7e00", "not finite"),
            ("f9 7c00", "not finite"),
            ("f8 63", "no form as JSON"),
            ("a1 f5 01", "only text and whole numbers"),
            ("a1 81 01 02", "only text and whole numbers"),
            ("a2 01 02 01 03", "not CBOR"),
            ("a2 01 02 61 31 03", "as text and as a number"),
            ("d8 1c 81 d8 1d 00", "references"),
            ("d9 0100 81 01", "references"),
            ("c5 82 01 02", "bigfloat"),
            ("c4 82 1b 7fffffffffffffff 01", "beyond any use"),
            ("a1 c2 41 01 01", "beyond any use"),
            ("62 c328", "not CBOR"),
            ("9b 0fffffffffffffff 01", "not CBOR"),
            ("5b 0fffffffffffffff 01", "not CBOR"),
        ],
    )
    def test_what_cannot_be_taken_is_refused(self, payload: str, words: str) -> None:
        assert words in reason("cbor", bytes.fromhex(payload))

    @pytest.mark.parametrize("unit", [b"\x81", b"\xc1", b"\xd9\xd9\xf7", b"\xa1\x61a", b"\x9f"])
    def test_depth_is_limited_through_tags_too(self, unit: bytes) -> None:
        assert decoder("cbor")(unit * 50 + b"\x01" + (b"\xff" * 50 if unit == b"\x9f" else b""))
        assert "depth" in reason("cbor", unit * 100 + b"\x01")

    def test_a_bignum_is_limited_before_anything_is_made_of_it(self) -> None:
        assert "beyond any use" in reason("cbor", b"\xc2\x59\xf0\x00" + b"\xff" * 0xF000)

    @settings(deadline=None)
    @given(
        value=st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**80), 2**80)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=8,
        )
    )
    def test_what_json_has_too_means_the_same(self, value: Any) -> None:
        data = json.loads(decoder("cbor")(cbor2.dumps(value)))
        expected = value if isinstance(value, dict) else {"value": value}
        assert _as_single(data) == _as_single(expected)


def _as_single(value: Any) -> Any:
    """Each float as the nearest one of 32 bits, where it is one: its digits are those of 32 bits."""
    match value:
        case float():
            try:
                return struct.unpack(">f", struct.pack(">f", value))[0]
            except OverflowError:
                return value
        case list():
            return [_as_single(each) for each in value]
        case dict():
            return {key: _as_single(each) for key, each in value.items()}
        case _:
            return value


class TestNumberAndRaw:
    @pytest.mark.parametrize(("payload", "value"), [(b" +0012.30\r\n", "12.30"), (b"-4", "-4"), (b"1e3", "1E+3")])
    def test_a_number_keeps_its_digits(self, payload: bytes, value: str) -> None:
        assert decoder("number")(payload) == b'{"value":%b}' % value.encode()

    @pytest.mark.parametrize(
        "payload", [b"", b"NaN", b"inf", b"1 2", b"0x10", b"1_000", "\u0661".encode(), b"\xff"]
    )
    def test_anything_else_is_refused(self, payload: bytes) -> None:
        assert "not a" in reason("number", payload)

    def test_the_point_may_be_a_comma(self) -> None:
        assert decoder({"number": {"decimal": ","}})(b"21,5") == b'{"value":21.5}'
        assert "not a number" in reason({"number": {"decimal": ","}}, b"1.234,5")

    def test_raw_bytes_are_base64_and_say_so(self) -> None:
        assert decoder("raw")(b"on") == b'{"value":"b24=","encoding":"base64"}'
        assert decoder("raw", frame={"from": "value"})(b"on") == b'{"frame":"b24=","encoding":"base64"}'
        assert "not a number" in reason("raw", b"\xd7\x6d\xf8", value={"scale": 2})


class TestTransforms:
    def test_a_pointer_leads_through_lists_and_names_with_slashes(self) -> None:
        decode = decoder("json", a={"from": "/x/1/y"}, b={"from": "/p~1q/~0r"}, c={"from": "/0"})
        assert decode(b'{"x":[0,{"y":1.50}],"p/q":{"~r":2},"0":3}') == b'{"a":1.50,"b":2,"c":3}'
        assert "none of the listed" in reason("json", b'{"x":[1]}', a={"from": "/x/01"}, b={"from": "/x/9"})

    @pytest.mark.parametrize(("sent", "value"), [("-1", "0"), ("50", "50"), ("100.5", "100")])
    def test_a_value_beyond_its_bounds_is_set_to_them(self, sent: str, value: str) -> None:
        decode = decoder("json", t={"clamp": {"min": 0, "max": 100}})
        assert decode(b'{"t":%b}' % sent.encode()) == b'{"t":%b}' % value.encode()

    def test_bounds_are_those_of_the_scaled_value(self) -> None:
        assert decoder("json", t={"scale": 0.1, "clamp": [None, 20]})(b'{"t":214}') == b'{"t":20}'

    @pytest.mark.parametrize(
        ("sent", "value"),
        [("21.456", "21.46"), ("2.5", "2.5"), ("0.125", "0.12"), ("21", "21"), ("7.000", "7.00")],
    )
    def test_places_are_rounded_and_not_made_up(self, sent: str, value: str) -> None:
        assert decoder("json", t={"round": 2})(b'{"t":%b}' % sent.encode()) == b'{"t":%b}' % value.encode()

    def test_values_are_mapped_by_what_they_say(self) -> None:
        decode = decoder("json", d={"map": {"0": "closed", "1": "open", "true": 1, "on": True, "1.50": None}})
        for sent, value in [
            ("0", '"closed"'),
            ("1.0", '"open"'),
            ('"1"', '"open"'),
            ("true", "1"),
            ('"on"', "true"),
            ("1.5", "null"),
            ("7", "7"),
            ("null", "null"),
            ("[1]", "[1]"),
        ]:
            assert decode(b'{"d":%b}' % sent.encode()) == b'{"d":%b}' % value.encode(), sent

    def test_a_value_that_is_not_in_the_map_becomes_else(self) -> None:
        decode = decoder("json", d={"map": {"0": "closed"}, "else": "unknown"})
        assert decode(b'{"d":7}') == b'{"d":"unknown"}'
        assert decode(b'{"d":null}') == b'{"d":null}'

    def test_numbers_of_a_map_and_constants_may_be_long(self) -> None:
        decode = decoder("json", a={"map": {"0": 10**30}}, b={"constant": 10**30}, c={"constant": False})
        assert decode(b'{"a":0}') == b'{"a":1%b,"b":1%b,"c":false}' % (b"0" * 30, b"0" * 30)

    def test_a_constant_alone_makes_no_reading_of_a_strange_payload(self) -> None:
        assert decoder("json", site={"constant": "h1"}, t={})(b'{"t":1}') == b'{"site":"h1","t":1}'
        assert "none of the listed fields (t)" in reason("json", b'{"x":1}', site={"constant": "h1"}, t={})

    def test_constants_only_take_any_payload(self) -> None:
        assert decoder("text", seen={"constant": True})(b"x") == b'{"seen":true}'

    def test_fields_are_dropped_at_any_depth(self) -> None:
        decode = decoder("json", "uptime", "wifi.rssi", "/a~1b", "absent", "l.x")
        payload = b'{"uptime":1,"wifi":{"rssi":2,"ssid":"x"},"a/b":3,"t":21.50,"l":[{"x":1}]}'
        assert decode(payload) == b'{"wifi":{"ssid":"x"},"t":21.50,"l":[{"x":1}]}'

    def test_what_has_only_dropped_fields_is_no_reading(self) -> None:
        assert decoder("json", "a")(b'{"a":1}') == b""
        assert decoder("json", "a")(b"{}") == b"{}"

    @settings(deadline=None)
    @given(raw=st.decimals(-1000, 1000, places=4), places=st.integers(0, 6))
    def test_rounding_is_that_of_decimal_arithmetic(self, raw: Decimal, places: int) -> None:
        data = decoder("json", t={"round": places})(b'{"t":%b}' % f"{raw:f}".encode())
        assert json.loads(data, parse_float=Decimal, parse_int=Decimal)["t"] == round(raw, places)
