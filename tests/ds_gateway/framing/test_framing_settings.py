"""What the settings of a framing refuse, and in which words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from ds_gateway.config.framing import FramingSettings
from ds_gateway.config.loader import load
from ds_gateway.errors import ConfigError
from ds_gateway.framing import build_framer

if TYPE_CHECKING:
    from pathlib import Path

_FILE = """\
gateway: {{id: line-7}}
server: {{url: "http://127.0.0.1:4437"}}
serial: {{s: {{port: /dev/x, framing: {}}}}}
"""

_REFUSED = [
    (
        "slop",
        (
            "framing: must be line, fixed, length, delimited, slip, cobs, idle, sync, nmea or dsmr, or a mapping, "
            "as {line: {}}, not 'slop'"
        ),
    ),
    ("{slip: {}, cobs: {}}", "framing: has slip and cobs: give one of them"),
    ("fixed", "framing.fixed.bytes: is required: Bytes of a frame, its check included."),
    (
        "{slip: {}, check: crc}",
        "framing.check: must be nmea, xor or sum, or a mapping, as {crc: \"CRC-16/MODBUS\"}, not 'crc'",
    ),
    ("{slip: {}, check: {order: big}}", "framing.check: has none of nmea, xor, sum, crc: give one"),
    ("{slip: {}, check: {xor: {}, crc: CRC-32}}", "framing.check: has xor and crc: give one of them"),
    (
        "{slip: {}, check: {crc: CRC-16/MODBUSS}}",
        (
            "framing.check.crc: must be a name of the CRC catalogue, not "
            "'CRC-16/MODBUSS'; did you mean CRC-16/MODBUS or CRC-16/UMTS or CRC-16/PROFIBUS?"
        ),
    ),
    ("{nmea: {}, check: xor}", "framing: nmea has a check of its own: remove check"),
    ("{slip: {}, check: nmea}", "framing: check: nmea is for framing: line; framing: nmea has it already"),
    ("{delimited: {start: '03'}}", 'framing.delimited: start and stop are the same: remove start with start: ""'),
    (
        "{delimited: {start: '03 02'}}",
        "framing.delimited: start and stop must not begin with one another: each has to be told from the other",
    ),
    (
        "{delimited: {start: '020304'}}",
        'framing.delimited.start: must be one or two bytes in hex digits, as "02" or "10 02", not \'020304\'',
    ),
    (
        "{delimited: {stop: 'ETX'}}",
        'framing.delimited.stop: must be bytes in hex digits, as "02" or "42 4d", not \'ETX\'',
    ),
    ("{delimited: {xor: '20'}}", "framing.delimited: xor is for escaped bytes: give escape, too"),
    ("{delimited: {escape: '03'}}", "framing.delimited: escape must be another byte than start and stop"),
    (
        "{delimited: {start: '10 02', escape: '10', xor: '20'}}",
        "framing.delimited: with xor, start and stop are one byte each",
    ),
    (
        "{delimited: {after: 2}, check: xor}",
        "framing: delimited.after is the check behind the stop: 1, or 0 if it is in front",
    ),
    (
        "{sync: {word: aa}}",
        "framing.sync: give one of length (where a frame says how long it is) and bytes (all are so long)",
    ),
    (
        "{sync: {word: 'aa 55', bytes: 2}}",
        "framing.sync: bytes is more than the 2 of the word, and at most max_bytes (1024)",
    ),
    (
        "{sync: {word: 'aa 55', length: {offset: 1}}}",
        "framing.sync: length.offset counts from the beginning of the word: 2 is the first byte behind it",
    ),
    (
        "{fixed: {bytes: 5000}, check: xor}",
        (
            "framing: with a check, frames of fixed have at most 4096 bytes, because "
            "each place may have to be tried: bytes is 5000"
        ),
    ),
    (
        "{fixed: {bytes: 2}, check: {crc: CRC-16/MODBUS}}",
        "framing: the check needs frames of 3 bytes or more, and fixed allows 2: give more",
    ),
    (
        "{length: {}, check: {xor: {}, place: start}}",
        "framing: with a check at the start, length cannot be cut off: give length.cut: false",
    ),
    (
        "{idle: {}}",
        (
            "framing.idle.gap_seconds: is required: Silence that ends a frame, in seconds; 20ms or more for USB "
            "adapters."
        ),
    ),
    (
        "{line: {delimiter: '\\n'}}",
        'framing.line.delimiter: has a backslash in it, not a line end: write "\\n" in double quotes',
    ),
    ("{slipp: {}}", "framing.slipp: unknown key; did you mean slip?"),
    ("{length: {max_bytes: 1}}", "framing.length: max_bytes is 1, and the number ends behind byte 1: give more"),
]


@pytest.mark.parametrize(("text", "told"), _REFUSED, ids=[text for text, _ in _REFUSED])
def test_a_mistake_is_told_in_these_words(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(_FILE.format(text))
    with pytest.raises(ConfigError) as caught:
        load(file, {"STATE_DIRECTORY": str(tmp_path)})
    assert [f"{problem.key}: {problem.message}" for problem in caught.value.problems] == [f"serial.s.{told}"]


@pytest.mark.parametrize(
    ("word", "mapping"), [("nmea", {"nmea": {}}), ("slip", {"slip": {}}), ("line", {}), ("line", {"line": {}})]
)
def test_a_word_is_short_for_the_kind_with_its_defaults(word: str, mapping: dict[str, Any]) -> None:
    assert FramingSettings.model_validate(word) == FramingSettings.model_validate(mapping)
    assert FramingSettings() == FramingSettings.model_validate("line")


def test_a_check_alone_is_for_lines() -> None:
    framer = build_framer(FramingSettings.model_validate({"check": "nmea"}))
    assert framer.feed(b"$A*41\r\n$A*42\r\n") == [b"$A"]
    assert framer.bad_checks == 1


@pytest.mark.parametrize("value", [3, ["line"], None])
def test_what_is_no_mapping_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        FramingSettings.model_validate(value)
