"""Ports, devices on them and what they are asked: mistakes, literally, and what settings become."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway.config.serial_port import SerialSettings
from harness.configuration import load_text, mistakes_in
from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """\
gateway: {id: line-7}
data_dir: /var/lib/example
server: {url: "http://127.0.0.1:4437"}
"""

_MODBUS = "modbus: {unit: 3, registers: [{name: a, address: 1}]}"
_SCALED = "modbus: {unit: 3, registers: [{name: a, address: 1, scale: 0.1}]}"

MISTAKES = [
    (
        "usb: {vid: 1, pid: zz}",
        ".usb.pid: must be up to four hex digits, as lsusb shows them: 0403, not 'zz'",
    ),
    (
        "baudrate: 9600",
        ": has no port: give port: /dev/serial/by-id/..., or usb: {vid: 0403, pid: 6001}",
    ),
    ("port: /dev/x, usb: {vid: 0403, pid: 6001}", ": has port and usb: give one of them"),
    (
        'port: "socket://h:1", baudrate: 9600',
        ": baudrate has no use with socket://h:1, which sets up its line itself: remove it",
    ),
    (
        'port: "rfc2217://h:1", rs485: {}',
        ": rs485 has no use with rfc2217://h:1, which sets up its line itself: remove it",
    ),
    (
        'port: "tcp://h:1"',
        ".port: must be the path of a device, socket://HOST:PORT or rfc2217://HOST:PORT, not 'tcp://h:1'",
    ),
    ('port: "socket://h"', ".port: must be socket://HOST:PORT, with a number for the port, not 'socket://h'"),
    (
        'port: "socket://h:99999"',
        ".port: must be socket://HOST:PORT, with a number for the port, not 'socket://h:99999'",
    ),
    (
        'port: "rfc2217://h:1?logging=debug"',
        ".port: must be rfc2217://HOST:PORT without ?logging=debug, not 'rfc2217://h:1?***'",
    ),
    (
        "port: /dev/x, poll: {}",
        '.poll: asks nothing: give write, hex, modbus or requests, as write: "MEAS?\\n"',
    ),
    ("port: /dev/x, poll: [{write: a}]", ".poll: must be a mapping, not a list"),
    ("port: /dev/x, poll: {write: a, hex: 00}", ".poll: has write and hex: a request is one of them"),
    (
        "port: /dev/x, poll: {write: 'MEAS?\\n'}",
        '.poll.write: has a backslash in it, not a line end: write "MEAS?\\n" in double quotes',
    ),
    (
        "port: /dev/x, poll: {write: °C}",
        ".poll.write: must be ASCII, not '°C'; give other bytes as hex: \"02 54 03\"",
    ),
    (
        'port: /dev/x, poll: {hex: "02 0"}',
        ".poll.hex: must be hex digits, two for each byte, as \"02 54 03\", not '02 0'",
    ),
    (
        "port: /dev/x, poll: {requests: [{write: a, name: b/c}]}",
        ".poll.requests[0].name: must be of letters, digits, _, - and ., not 'b/c'",
    ),
    (
        "port: /dev/x, poll: {requests: [{write: a, name: b}, {write: c, name: b}]}",
        ".poll: two requests have the name 'b': give each its own",
    ),
    (
        "port: /dev/x, poll: {reply: a, requests: [{write: a}]}",
        ".poll: reply belongs to each of the requests: move it there",
    ),
    (
        "port: /dev/x, poll: {modbus: {unit: 3, registers: [{name: a, adress: 1}]}}",
        ".poll.modbus.registers[0].adress: unknown key; did you mean address?",
    ),
    (
        "port: /dev/x, poll: {modbus: {unit: 300, registers: [{name: a, address: 1}]}}",
        ".poll.modbus.unit: must be at most 247, not 300",
    ),
    (
        "port: /dev/x, poll: {modbus: {unit: 3, registers: [{name: a, address: 1}, {name: a, address: 2}]}}",
        ".poll.modbus: two registers have the name 'a': give each its own",
    ),
    (
        "port: /dev/x, poll: {modbus: {unit: 3, registers: [{name: a, address: 1, function: coil, scale: 2}]}}",
        ".poll.modbus.registers[0]: a coil is true or false: remove scale and offset",
    ),
    (
        "port: /dev/x, poll: {modbus: {unit: 3, registers: [{name: a, address: 1, function: coil, type: u16}]}}",
        ".poll.modbus.registers[0]: a coil is one bit: remove type: u16, or take function: holding",
    ),
    (
        "port: /dev/x, poll: {modbus: {unit: 3, registers: [{name: a, address: 1, type: bool}]}}",
        (
            ".poll.modbus.registers[0]: holding registers have 16 bits: remove type: bool, or take function: coil "
            "or discrete"
        ),
    ),
    (
        "port: /dev/x, poll: {modbus: {unit: 3, registers: [{name: a, address: 65535, type: f32}]}}",
        ".poll.modbus.registers[0]: address 65535 is the last there are, and f32 needs 2",
    ),
    (
        f"port: /dev/x, decode: json, poll: {{{_MODBUS}}}",
        ": decode has no use with modbus, whose answers say what they are: remove it",
    ),
    (
        f"port: /dev/x, poll: {{reply: a, {_MODBUS}}}",
        ".poll: reply has no use with modbus, whose answers say what they are: remove it",
    ),
    (
        f"port: /dev/x, fields: {{a: {{}}}}, poll: {{{_SCALED}}}",
        ": the register a has scale, offset or unit, and there are fields: give them in one place",
    ),
    (
        f"port: /dev/x, poll: {{fields: {{a: {{}}}}, {_SCALED}}}",
        ".poll: the register a has scale, offset or unit, and there are fields: give them in one place",
    ),
    ("port: /dev/x, devices: []", ".devices: must have at least 1 entry"),
    (
        "port: /dev/x, devices: [{name: a}]",
        ".devices[0]: is never asked and takes no commands: give it poll, or commands",
    ),
    (
        "port: /dev/x, devices: [{name: a, poll: {write: a, unasked: keep}}]",
        ".devices[0]: unasked: keep has no use here: nobody could tell whose readings they are",
    ),
    (
        "port: /dev/x, name: b, devices: [{name: a, poll: {write: a}}]",
        ": name belongs to each of the devices: move it there",
    ),
    (
        "port: /dev/x, devices: [{name: a, poll: {write: a}}, {name: a, poll: {write: b}}]",
        ": two devices have the name 'a': give each its own",
    ),
    (
        'port: /dev/x, devices: [{name: "a\\x01", poll: {write: a}}]',
        ".devices[0].name: device name 'a\\x01': control characters are refused",
    ),
    (
        "port: /dev/x, devices: [{name: .., stream: 't/{name}', poll: {write: a}}]",
        ".devices[0].stream: stream name 't/..': the part '..' is refused",
    ),
]


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_a_mistake_is_told_with_key_value_and_way_out(text: str, expected: str, tmp_path: Path) -> None:
    assert mistakes_in(tmp_path, f"{HEAD}serial: {{bus: {{{text}}}}}\n") == [f"4: serial.bus{expected}"]


def test_the_examples_of_the_page_are_valid(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "serial-ports.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 2
    for text in examples:
        assert load_text(tmp_path, HEAD + text).settings.serial


class TestTwoSources:
    @pytest.mark.parametrize(
        ("port", "key", "shown"),
        [
            ("port: /dev/x", "port", "/dev/x"),
            ('port: "socket://h:1"', "port", "socket://h:1"),
            ("usb: {vid: 0403, pid: 6001}", "usb", "usb 0403:6001"),
        ],
    )
    def test_cannot_have_one_port(self, port: str, key: str, shown: str, tmp_path: Path) -> None:
        text = f"{HEAD}serial:\n  a: {{{port}}}\n  b: {{{port}}}\n"
        assert mistakes_in(tmp_path, text) == [f"6: serial.b.{key}: serial.a reads this port already: {shown!r}"]

    def test_nor_devices_of_one_name_that_take_commands(self, tmp_path: Path) -> None:
        device = "{name: pump, commands: {write: T}}"
        ports = (f"  {name}: {{port: /dev/{name}, devices: [{device}]}}\n" for name in "ab")
        text = f"{HEAD}serial:\n{''.join(ports)}"
        (told,) = mistakes_in(tmp_path, text)
        assert told.startswith(
            "6: serial.b.devices[0].commands: a device can have the name 'pump' here and 'pump' in "
        )
        assert "serial.a.devices[0]" in told


class TestUsbNumbers:
    @pytest.mark.parametrize("pid", ["6001", '"6001"', "0x6001"])
    def test_are_hex_however_they_are_written(self, pid: str, tmp_path: Path) -> None:
        text = f"{HEAD}serial: {{bus: {{usb: {{vid: 0403, pid: {pid}}}}}}}\n"
        usb = load_text(tmp_path, text).settings.serial["bus"].usb
        assert usb is not None
        assert (usb.vid, usb.pid) == ("0403", "6001")


class TestRequests:
    def test_what_they_leave_out_they_have_from_the_poll_or_else_from_here(self) -> None:
        poll = {"interval_seconds": 5, "retries": 0, "requests": [{"write": "a"}, {"write": "b", "retries": 3}]}
        settings = SerialSettings.model_validate({"port": "/dev/x", "poll": poll})
        found = [asked.request for asked in settings.asked("bus")]
        assert [(each.interval_seconds, each.timeout_seconds, each.retries) for each in found] == [
            (5, 1.0, 0),
            (5, 1.0, 3),
        ]

    def test_they_belong_to_the_device_that_is_asked(self) -> None:
        devices: list[dict[str, Any]] = [
            {"name": "meter", "poll": {"requests": [{"write": "a"}, {"write": "b", "name": "x"}]}},
            {"name": "pump", "stream": "pumps/{name}", "poll": {"write": "c"}},
        ]
        settings = SerialSettings.model_validate({"port": "/dev/x", "stream": "s/{name}", "devices": devices})
        assert [asked.name for asked in settings.asked("bus")] == ["meter", "meter/x", "pump"]
        assert [asked.device.stream for asked in settings.asked("bus")] == ["s/{name}", "s/{name}", "pumps/{name}"]
