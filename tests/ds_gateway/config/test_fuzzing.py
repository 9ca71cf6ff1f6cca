"""Files as a hurried hand, a bad editor or a failing disk leaves them: the loader answers, and tells no secret."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds_gateway.cli.configuration import check_mappings
from ds_gateway.config import loader
from ds_gateway.errors import ConfigError
from harness.configuration import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = [
    file.read_text(encoding="utf-8") for file in sorted((Path(__file__).parents[3] / "config").glob("*.yaml"))
]
SECRET = "correct-horse-battery"

SCALARS = st.sampled_from(
    [
        *(
            "",
            "~",
            "true",
            "yes",
            "0",
            "-1",
            "1e400",
            "0x7f",
            "9" * 50,
            ".nan",
            "1:30",
            "2024-01-01",
            "3GiB",
            "5min",
        ),
        *("'", '"', '"\\x00"', "'\\r\\n'", "[", "]", "{", "}", "{}", "[]", "[a, b]", "{a: 1}", "{?: 1}", "- - -"),
        *(
            "&a [*a]",
            "*a",
            "*nobody",
            "&a",
            "!!python/object:os.system x",
            "!!binary aGk=",
            "<<: *a",
            "|",
            ">-",
            "#",
        ),
        *("${env:SECRET}", "${env:", "${file:/etc/shadow}", "$${", "${credential:../x}", "${credential:password}"),
        *("a/#/b", "+", "a//b", "../..", "{hall}", "{hall...}", "{", "x" * 5000, "\u202e", "\ud7ff", "\x7f", "é"),
        *("../../../../dev/zero", "/dev/null", "~/x", "*.yaml", "**", "[a-", "/proc/self/mem"),
    ]
)
KEYS = st.sampled_from(
    [
        *(
            "gateway",
            "id",
            "data_dir",
            "server",
            "url",
            "token",
            "headers",
            "tls",
            "ca",
            "mqtt",
            "serial",
            "devices",
        ),
        *(
            "topic",
            "name",
            "stream",
            "decode",
            "fields",
            "framing",
            "line",
            "delimiter",
            "poll",
            "commands",
            "include",
        ),
        *("password", "journal", "max_bytes", "", "0", "<<", "a.b", "a b", "é", "x" * 300),
    ]
)


@dataclass(slots=True)
class Text:
    """A file's lines, as they are changed step by step."""

    lines: list[bytes] = field(default_factory=list)

    def at(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, max(len(self.lines) - 1, 0)))


def delete(text: Text, data: st.DataObject) -> None:
    del text.lines[text.at(data) :][:1]
    if text.lines:
        del text.lines[text.at(data)]


def duplicate(text: Text, data: st.DataObject) -> None:
    first, last = sorted((text.at(data), text.at(data)))
    at = text.at(data)
    text.lines[at:at] = text.lines[first : last + 1]


def swap(text: Text, data: st.DataObject) -> None:
    if text.lines:
        one, other = text.at(data), text.at(data)
        text.lines[one], text.lines[other] = text.lines[other], text.lines[one]


def indent(text: Text, data: st.DataObject) -> None:
    if text.lines:
        at = text.at(data)
        front = data.draw(st.sampled_from([b"", b" ", b"\t", b"    ", b"- ", b"? ", b": ", b"\xc2\xa0"]))
        text.lines[at] = front + (text.lines[at].lstrip() if data.draw(st.booleans()) else text.lines[at])


def set_value(text: Text, data: st.DataObject) -> None:
    if text.lines:
        at = text.at(data)
        key, colon, _ = text.lines[at].partition(b": ")
        text.lines[at] = (key + colon if colon else b"") + data.draw(SCALARS).encode()


def add_key(text: Text, data: st.DataObject) -> None:
    at = text.at(data)
    front = b" " * data.draw(st.integers(0, 8))
    text.lines.insert(at, front + data.draw(KEYS).encode() + b": " + data.draw(SCALARS).encode())


def uncomment(text: Text, data: st.DataObject) -> None:
    if text.lines:
        at = text.at(data)
        text.lines[at] = text.lines[at].replace(b"# ", b"", 1)


def damage(text: Text, data: st.DataObject) -> None:
    if text.lines:
        at = text.at(data)
        line = text.lines[at]
        where = data.draw(st.integers(0, len(line)))
        text.lines[at] = line[:where] + data.draw(st.binary(min_size=1, max_size=4)) + line[where:]


def nest(text: Text, data: st.DataObject) -> None:
    depth = data.draw(st.sampled_from([2, 40, 3000]))
    opening = data.draw(st.sampled_from(["[", "{a: ", "- "]))
    closing = {"[": "]", "{a: ": "}", "- ": ""}[opening]
    text.lines.insert(text.at(data), f"deep: {opening * depth}1{closing * depth}".encode())


def cut(text: Text, data: st.DataObject) -> None:
    if text.lines:
        at = text.at(data)
        del text.lines[at + 1 :]
        text.lines[at] = text.lines[at][: data.draw(st.integers(0, len(text.lines[at])))]


MUTATIONS: list[Callable[[Text, st.DataObject], None]] = [
    *(delete, duplicate, swap, indent, set_value, add_key, uncomment, damage, nest, cut)
]


def problems_of(file: Path, environ: dict[str, str]) -> list[str]:
    """What is told; nothing for a valid file. Any other exception fails the test."""
    try:
        loader.load(file, environ, more_checks=(check_mappings,), machine=MACHINE)
    except ConfigError as error:
        told = [str(problem) for problem in error.problems]
        assert told, "an error without a problem"
    else:
        told = []
    return told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("stream_token", "mqtt_password", "password"):
        (folder / name).write_text(SECRET)
    return folder


@settings(
    max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None
)
@given(data=st.data())
def test_whatever_becomes_of_an_example(folder: Path, data: st.DataObject) -> None:
    text = Text(data.draw(st.sampled_from(EXAMPLES)).encode().splitlines())
    for mutate in data.draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=6)):
        mutate(text, data)
    file = folder / "gateway.yaml"
    file.write_bytes(b"\n".join(text.lines))
    environ = {"CREDENTIALS_DIRECTORY": str(folder), "HOME": "/h", "SITE": "hall", "SECRET": SECRET}
    for told in problems_of(file, environ):
        assert SECRET not in told
        assert told.isprintable()
        assert re.match(rf"{re.escape(str(file))}(:\d+)?: \S", told), told


@pytest.mark.timeout(40)
@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)),
        "[" * 100_000,
        "a: " + "{b: " * 50_000,
        "- " * 50_000,
        "a:\n" * 100_000,
        "x" * 4_000_000,
        "a: " + "[1] " * 300_000,
        "k: '" + "\\" * 1_000_000,
        "? " * 50_000,
        "&a " * 100_000,
        "a: !!" + "x" * 1_000_000,
        "".join(f"key{n}: 1\n" for n in range(20_000)),
        "include: [" + "'*'," * 10_000 + "]",
    ],
    ids=range(13),
)
def test_what_is_made_to_take_for_ever_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    assert problems_of(file, {"HOME": "/h"})
