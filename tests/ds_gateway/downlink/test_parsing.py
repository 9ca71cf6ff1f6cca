"""An element is a command, or it is said why not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_gateway.commands import Command
from ds_gateway.downlink.parsing import MAX_ELEMENT_BYTES, Refusal, parse

INSTANTS_OF_NOBODY: list[object] = [
    "",
    "2026-03-01T12:00:00",
    "1950-01-01T00:00:00Z",
    -1,
    True,
    1e10,
    "noon",
    [1],
    {},
]
MARCH_NS = 1_772_366_400 * 10**9  # 2026-03-01T12:00:00Z


def command(**more: Any) -> Command | Refusal:
    return parse(json.dumps({"device": "d", "payload": 1} | more).encode(), 7)


def refusal(**more: Any) -> Refusal:
    refused = command(**more)
    assert isinstance(refused, Refusal), refused
    return refused


class TestWhatACommandSays:
    def test_the_least(self) -> None:
        assert command() == Command(7, "#7", "d", 1)

    def test_everything(self) -> None:
        assert command(
            id="a b",
            payload={"x": [None]},
            issued_at="2026-03-01T13:00:00.25+01:00",
            expires_at=1_772_366_400.5,
            expires_after="1.5m",
            delivery="at_most_once",
        ) == Command(
            7,
            "a b",
            "d",
            {"x": [None]},
            "at_most_once",
            MARCH_NS + 250_000_000,
            MARCH_NS + 500_000_000,
            90.0,
        )

    @pytest.mark.parametrize(
        ("given", "seconds"), [("60s", 60.0), (60, 60.0), (0.5, 0.5), ("2", 2.0), ("250ms", 0.25)]
    )
    def test_durations(self, given: object, seconds: float) -> None:
        parsed = command(expires_after=given)
        assert isinstance(parsed, Command)
        assert parsed.expires_after_seconds == seconds

    @pytest.mark.parametrize("key", ["id", "issued_at", "expires_at", "expires_after", "delivery"])
    def test_null_is_as_absent(self, key: str) -> None:
        assert command(**{key: None}) == command()


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        "element",
        [
            *(b"", b"x", b"[]", b"null", b"1", b'"x"', b"NaN", b'{"device":"\xff","payload":1}', b"[" * 60_000),
            b'{"device":"d","payload":%b}' % (b"[" * 2000 + b"]" * 2000),
        ],
    )
    def test_what_is_no_object(self, element: bytes) -> None:
        refused = parse(element, 7)
        assert isinstance(refused, Refusal)
        assert (refused.number, refused.code, refused.device, refused.id) == (7, "malformed", "@gateway", "#7")

    def test_one_byte_too_many(self) -> None:
        room = MAX_ELEMENT_BYTES - len('{"device": "d", "payload": ""}')
        assert isinstance(command(payload="x" * room), Command)
        assert refusal(payload="x" * (room + 1)).code == "too_large"

    def test_an_unknown_key_is_named(self) -> None:
        assert "expires_ta" in refusal(expires_ta=1).reason

    @pytest.mark.parametrize("key", ["device", "payload"])
    def test_a_missing_key_is_named(self, key: str) -> None:
        element = {"device": "d", "payload": 1}
        del element[key]
        refused = parse(json.dumps(element).encode(), 7)
        assert isinstance(refused, Refusal)
        assert refused.reason == f"{key} is missing"

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *[("id", value) for value in ("", 7, "x" * 129, "a\nb", "#7", ["x"])],
            *[("device", value) for value in ("", 7, None, "x" * 1025)],
            *[("delivery", value) for value in ("once", 1, "")],
            *[("expires_after", value) for value in (0, -1, "", "soon", True, 1e300, [1])],
            *[(key, value) for key in ("issued_at", "expires_at") for value in INSTANTS_OF_NOBODY],
        ],
    )
    def test_a_wrong_value(self, key: str, value: object) -> None:
        refused = refusal(**{key: value})
        assert refused.code == "malformed"
        assert key in refused.reason
        assert refused.device == ("@gateway" if key == "device" else "d")

    def test_its_receipt_carries_the_id_if_that_is_readable(self) -> None:
        assert refusal(id="mine", typo=1).id == "mine"

    @given(st.binary(max_size=200) | st.text(alphabet='{}[]",:devicpayload19\\', max_size=60).map(str.encode))
    def test_nothing_stops_it(self, element: bytes) -> None:
        assert isinstance(parse(element, 1), Command | Refusal)
