"""The time that a payload gives."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_gateway.config.decoding import DecodeSettings, FieldSettings, TimeSettings
from ds_gateway.decoding import UndecodableError, build_timed_decoder


def _read(
    payload: bytes, time: Any, decode: Any = "json", **fields: dict[str, Any]
) -> tuple[bytes, int | None, str]:
    listed = {name: FieldSettings.model_validate(values) for name, values in fields.items()} or None
    settings_ = TimeSettings.model_validate(time)
    return build_timed_decoder(DecodeSettings.model_validate(decode), listed, (), settings_)(payload)


def _ns(text: str, more: int = 0) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 10**9 + more


NOON = _ns("2026-03-01T12:00:00Z")


class TestFormats:
    @pytest.mark.parametrize(
        ("format_", "sent", "more_ns"),
        [
            ("unix", b"1772366400", 0),
            ("unix", b"1772366400.000123456", 123_456),
            ("unix", b'"1772366400.5"', 500_000_000),
            ("unix_ms", b"1772366400001", 1_000_000),
            ("unix_us", b"1772366400000001", 1000),
            ("unix_ns", b"1772366400000000001", 1),
            ("rfc3339", b'"2026-03-01T12:00:00Z"', 0),
            ("rfc3339", b'"2026-03-01t13:00:00.000123+01:00"', 123_000),
            ("rfc3339", b'"2026-03-01 12:00:00"', 0),
            ("%d.%m.%Y %H:%M:%S", b'"01.03.2026 12:00:00"', 0),
            ("%Y%m%d%H%M%S%z", b'"20260301140000+0200"', 0),
            ("%Y%m%d%H", b"2026030112", 0),
        ],
    )
    def test_each_is_read(self, format_: str, sent: bytes, more_ns: int) -> None:
        payload = b'{"ts":%b,"t":21.50}' % sent
        data, time_ns, problem = _read(payload, {"from": "ts", "format": format_})
        assert (data, problem) == (payload, "")
        # A float of JSON has 16 digits: enough for a quarter of a microsecond.
        assert time_ns is not None and abs(time_ns - NOON - more_ns) < (250 if format_ == "unix" else 1)  # noqa: PT018

    def test_a_time_without_a_zone_is_in_the_one_of_the_settings(self) -> None:
        time = {"from": "ts", "zone": "Europe/Berlin"}
        assert _read(b'{"ts":"2026-07-01T12:00:00"}', time)[1] == _ns("2026-07-01T10:00:00Z")
        assert _read(b'{"ts":"2026-07-01T12:00:00Z"}', time)[1] == _ns("2026-07-01T12:00:00Z")

    def test_two_fields_are_one_time_and_keep_their_zeros(self) -> None:
        decode = {"csv": {"columns": ["time", "date", "t"]}}
        time = {"from": ["date", "time"], "format": "%d%m%y %H%M%S.%f"}
        assert _read(b"020304.50,010326,7", time, decode) == (
            b'{"time":20304.50,"date":10326,"t":7}',
            _ns("2026-03-01T02:03:04Z", 500_000_000),
            "",
        )

    def test_the_time_is_taken_from_what_was_sent_whatever_fields_pass(self) -> None:
        data, time_ns, _ = _read(b'{"head":{"ts":1772366400},"t":214}', "/head/ts", t={"scale": 0.1})
        assert (data, time_ns) == (b'{"t":21.4}', None)
        time = {"from": "/head/ts", "format": "unix"}
        assert _read(b'{"head":{"ts":1772366400},"t":214}', time, t={"scale": 0.1})[:2] == (b'{"t":21.4}', NOON)


class TestTimesThatAreNone:
    @pytest.mark.parametrize(
        ("format_", "sent", "words"),
        [
            ("unix", b"0", "between the years 2000 and 2100"),
            ("unix", b"1772366400000", "between the years"),
            ("unix", b"-1", "between the years"),
            ("unix", b"1e300", "between the years"),
            ("unix", b'"1e999999999"', "between the years"),
            ("unix", b'"noon"', "no unix time"),
            ("unix", b"null", "no time"),
            ("unix", b"true", "no time"),
            ("unix", b"[1]", "no time"),
            ("rfc3339", b'"1970-01-01T00:00:00Z"', "between the years"),
            ("rfc3339", b'"2026-02-30T00:00:00Z"', "no time as"),
            ("rfc3339", b'"0001-01-01T00:00:00+23:59"', "between the years"),
            ("rfc3339", b'"20260301"', "no time as"),
            ("%Y-%m-%d", b'"x"', "no time as %Y-%m-%d"),
            ("rfc3339", b'"%b"' % (b"1" * 100_000), "no time"),
        ],
    )
    def test_the_fields_are_good_all_the_same(self, format_: str, sent: bytes, words: str) -> None:
        payload = b'{"ts":%b}' % sent
        data, time_ns, problem = _read(payload, {"from": "ts", "format": format_})
        assert (data, time_ns) == (payload, None)
        assert words in problem
        assert len(problem) < 200

    def test_a_payload_may_have_none(self) -> None:
        assert _read(b'{"t":1}', "ts")[1:] == (None, "the payload has no ts, where its time should be")

    def test_what_cannot_be_decoded_is_refused_as_ever(self) -> None:
        with pytest.raises(UndecodableError, match="not JSON"):
            _read(b"{", "ts")

    @settings(deadline=None)
    @given(
        format_=st.sampled_from(["unix", "unix_ns", "rfc3339", "%Y-%m-%dT%H:%M:%S%z"]),
        value=st.text(max_size=30)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.integers(-(2**63), 2**63)
        | st.datetimes().map(lambda moment: moment.replace(tzinfo=UTC).isoformat()),
    )
    def test_any_value_is_a_time_in_range_or_none(self, format_: str, value: Any) -> None:
        payload = orjson.dumps({"ts": value})
        data, time_ns, problem = _read(payload, {"from": "ts", "format": format_})
        assert data == payload
        assert (time_ns is None) == bool(problem)
        assert time_ns is None or _ns("2000-01-01T00:00:00Z") <= time_ns < _ns("2100-01-01T00:00:00Z")


def test_what_is_no_reading_has_no_time_and_no_reason_why_not() -> None:
    assert _read(b"7", "ts", {"json": {}, "only": "ts"}) == (b"", None, "")
    assert _read(b'{"ts": "2026-03-01T12:00:00Z"}', "ts", {"json": {}, "only": "ts"})[1] == NOON
