"""What can be wrong with decode, fields, drop, time and report, and what an operator reads then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ds_gateway.cli.configuration import load_configuration
from ds_gateway.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "gateway: {id: g}\ndata_dir: d\nserver: {url: 'http://127.0.0.1:1/v1/stream'}\n"
PORT = HEAD + "serial:\n  scale:\n    port: /dev/x\n"
AT = "serial.scale"


def _mistakes(folder: Path, text: str) -> list[str]:
    file = folder / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_configuration(file)
    return [f"{each.line}: {each.key}: {each.message}" for each in caught.value.problems]


MISTAKES = [
    (
        "decode: yaml",
        "7: decode: must be json, csv, regex, struct, cbor, number, text or raw, not 'yaml'",
    ),
    (
        "decode: jsn",
        "7: decode: must be json, csv, regex, struct, cbor, number, text or raw, not 'jsn'; did you mean json?",
    ),
    ("decode: 7", "7: decode: must be a mapping, not 7"),
    ("decode: {json: {}, text: {}}", "7: decode: has json and text: a payload is read one way; keep one of them"),
    (
        "decode: {}",
        (
            "7: decode: says no kind of payload: there are json, csv, regex, struct, cbor, number, text, "
            "raw, as decode: json"
        ),
    ),
    (
        "decode: {only: '(', text: {}}",
        (
            "7: decode.only: '(' cannot be used: missing ): (; the syntax is RE2's (no look-around, no "
            "back-references)"
        ),
    ),
    (
        "decode: {regex: '[0-9]+'}",
        (
            "7: decode.regex.pattern: '[0-9]+' has no named group: what is to be a field is named, as in "
            "(?P<weight>[0-9.]+)"
        ),
    ),
    (
        r"decode: {regex: '(?P<a>x)\1'}",
        (
            r"7: decode.regex.pattern: '(?P<a>x)\\1' cannot be used: invalid escape sequence: \1; "
            r"the syntax is RE2's "
            "(no look-around, no back-references)"
        ),
    ),
    (
        "decode: regex",
        "7: decode.regex.pattern: is required: RE2 pattern with named groups, as (?P<weight>[0-9.]+).",
    ),
    (
        "decode: {csv: {delimiter: ';;'}}",
        (
            "7: decode.csv.delimiter: must be one ASCII character, no quote and no line end, not ';;'; a tab is "
            '"\\t"'
        ),
    ),
    (
        "decode: {csv: {decimal: ','}}",
        '7: decode.csv: decimal and delimiter are both ",": a row could not be read; set another delimiter',
    ),
    (
        "decode: {csv: {columns: [a, b, a]}}",
        "7: decode.csv: two columns are called 'a': give each a name of its own",
    ),
    (
        "decode: {csv: {columns: [a], text: [b]}}",
        "7: decode.csv: text has 'b', which is no column; there are a",
    ),
    (
        "decode: {struct: {members: {a: u12}}}",
        (
            "7: decode.struct.members.a.type: must be u8, i8, u16, i16, u24, i24, u32, i32, u64, "
            "i64, f16, f32, f64, "
            "text or hex, not 'u12'; did you mean u32?"
        ),
    ),
    (
        "decode: {struct: {members: {a: text}}}",
        "7: decode.struct.members.a: type text needs a length, in bytes, as length: 8",
    ),
    (
        "decode: {struct: {members: {a: {type: u8, bit: 8}}}}",
        "7: decode.struct.members.a: u8 has the bits 0 to 7, lowest first: correct them",
    ),
    (
        "decode: {struct: {members: {a: {type: u8, bits: 4}}}}",
        (
            "7: decode.struct.members.a.bits: must be the lowest and the highest bit, as [4, 7], "
            "not 4; bit 0 is the "
            "least significant"
        ),
    ),
    (
        "decode: {struct: {length: 2, members: {a: u32}}}",
        "7: decode.struct: the members end at byte 4, and length is 2: raise it",
    ),
    (
        "fields: {a: {scale: ten}}",
        "7: fields.a.scale: must be a number, not 'ten'",
    ),
    (
        "fields: {value: {clamp: [1]}}",
        "7: fields.value.clamp: must be {min: 0, max: 100}, or [0, 100] for short, not a list",
    ),
    ("fields: {value: {clamp: [5, 1]}}", "7: fields.value.clamp: min is 5 and max 1: exchange them"),
    (
        "fields: {value: {constant: 1, scale: 2}}",
        "7: fields.value: constant is the value whatever the payload says: only unit can stand beside it",
    ),
    (
        "fields: {value: {map: {0: off}, scale: 2}}",
        "7: fields.value: map takes values as the device sent them: scale, offset, clamp and round do not fit",
    ),
    (
        "fields: {value: {else: off}}",
        "7: fields.value: else is what a value becomes that is not in map, and there is no map",
    ),
    (
        "fields: {value: {from: /a~b}}",
        (
            "7: fields.value.from: '/a~b' begins as a JSON pointer, where ~ is written ~0 (and / in "
            "a name ~1): write "
            "it so"
        ),
    ),
    ("fields: {weight: {}}", "7: fields.weight: 'weight' is no field of a text; there are encoding, value"),
    (
        "drop: [value]\n    fields: {value: {}}",
        "7: drop: fields lists all that passes, so there is nothing to drop: remove drop, or fields",
    ),
    (
        "time: {format: unix}",
        "7: time.from: is required: Where it is in the payload, as in fields; several are joined by a blank.",
    ),
    (
        "time: {from: value, format: iso}",
        (
            "7: time.format: must be unix, unix_ms, unix_us, unix_ns, rfc3339 or a pattern as "
            '"%Y-%m-%d %H:%M:%S", '
            "not 'iso'"
        ),
    ),
    (
        "time: {from: value, format: '%H:%M:%S'}",
        (
            "7: time.format: '%H:%M:%S' does not give a day: a pattern has a year, a month and a "
            "day, as %Y-%m-%d; "
            "where date and time are two fields, name both, as from: [date, time]"
        ),
    ),
    (
        "time: {from: value, zone: Mars/Olympus}",
        (
            "7: time.zone: 'Mars/Olympus' is no time zone that this machine knows: write it as Europe/Berlin, or "
            "install tzdata"
        ),
    ),
    (
        "report: {deadband: {value: 1}}",
        "7: report: deadband is about changes: add on_change: true, or remove it",
    ),
    (
        "report: {on_change: true, deadband: {value: -1}}",
        "7: report.deadband.value: must be a number, 0 or more, not -1",
    ),
    (
        "report: {on_change: true, heartbeat_seconds: 5, every_seconds: 10}",
        "7: report: heartbeat_seconds is 5 and every_seconds 10: the heartbeat must be the longer one",
    ),
    (
        "report: {on_change: true, deadband: {valeu: 1}}",
        "7: report.deadband.valeu: 'valeu' is no field; did you mean value?",
    ),
    (
        "report: {}",
        "7: report: must say what to report: on_change: true, every_seconds: 10, or both, not a mapping",
    ),
    (
        "decode: {csv: {columns: [weight]}}\n    fields: {w: {from: wieght}}",
        "8: fields.w.from: 'wieght' is no column; did you mean weight?",
    ),
    (
        "decode: {regex: '(?P<weight>[0-9]+)'}\n    fields: {w: {from: wieght}}",
        "8: fields.w.from: 'wieght' is no group of the pattern; did you mean weight?",
    ),
    (
        "decode: {struct: {members: {a: u8}}}\n    time: b",
        "8: time.from: 'b' is no member of the struct; there are a",
    ),
]


@pytest.mark.parametrize(("setting", "expected"), MISTAKES, ids=[setting for setting, _ in MISTAKES])
def test_a_mistake_is_told_with_line_key_value_and_way_out(setting: str, expected: str, tmp_path: Path) -> None:
    line, key, message = expected.split(": ", 2)
    assert _mistakes(tmp_path, PORT + f"    {setting}\n") == [f"{line}: {AT}.{key}: {message}"]


def test_a_mistake_behind_a_broker_is_told_with_its_device(tmp_path: Path) -> None:
    text = (
        HEAD + "mqtt:\n  hall:\n    url: mqtt://127.0.0.1\n    devices:\n"
        "      - {topic: a, decode: {struct: {members: {t: u8}}}, fields: {h: {}}}\n"
    )
    assert _mistakes(tmp_path, text) == [
        "8: mqtt.hall.devices[0].fields.h: 'h' is no member of the struct; there are t"
    ]
