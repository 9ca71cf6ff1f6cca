from __future__ import annotations

from typing import Any

import pytest

from ds_gateway.config.document import MAX_DEPTH, Node, Place, dotted, parse
from ds_gateway.errors import ConfigError


def plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: plain(entry) for key, entry in node.entries.items()}
    if isinstance(node.value, list):
        return [plain(item) for item in node.items]
    return node.value


def read(text: str) -> Any:
    return plain(parse(text, Place("f")))


def refused(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, Place("f"))
    return [str(problem) for problem in caught.value.problems]


class TestYaml12Scalars:
    @pytest.mark.parametrize(
        "text",
        [
            "on",
            "off",
            "yes",
            "no",
            "Yes",
            "y",
            "0123",
            "-07",
            "1:30",
            "12:30:45",
            "1_000",
            "0b1",
            "2026-03-01",
            "<<",
            "=",
        ],
    )
    def test_what_yaml_1_1_would_change_stays_text(self, text: str) -> None:
        assert read(f"a: [{text}]") == {"a": [text]}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("true", True),
            ("False", False),
            ("null", None),
            ("~", None),
            ("", None),
            ("0", 0),
            ("-17", -17),
            ("+5", 5),
            ("0o17", 15),
            ("0x1F", 31),
            ("1.5", 1.5),
            (".5", 0.5),
            ("1e3", 1000.0),
            ("-2.5E-1", -0.25),
            ("'true'", "true"),
            ('"12"', "12"),
        ],
    )
    def test_core_schema(self, text: str, value: object) -> None:
        result = read(f"a: {text}")["a"]
        assert (type(result), result) == (type(value), value)

    @pytest.mark.parametrize("text", [".nan", ".NaN", ".inf", "-.inf", "+.INF"])
    def test_nan_and_infinity_are_refused(self, text: str) -> None:
        assert refused(f"a: {text}") == ["f:1: a: NaN and infinity are not allowed"]

    def test_numbers_without_end_are_refused(self) -> None:
        assert refused(f"a: {'9' * 5000}") == ["f:1: a: a number has at most 40 digits; quote it if it is text"]
        assert refused("a: 1e999") == ["f:1: a: the number is too large"]

    def test_a_key_is_text_whatever_it_looks_like(self) -> None:
        assert read("1: a\ntrue: b\n~: c\n") == {"1": "a", "true": "b", "~": "c"}


class TestStructure:
    def test_lines_are_those_of_the_keys(self) -> None:
        root = parse("# comment\na:\n  - b:\n      1\n  - c\n", Place("f"))
        assert root.nearest(("a",)).place.line == 2
        assert root.nearest(("a", 0, "b")).place.line == 3
        assert root.nearest(("a", 1)).place.line == 5

    def test_an_empty_text_is_an_empty_mapping(self) -> None:
        assert read("") == {}
        assert read("# nothing\n") == {}

    def test_duplicate_keys(self) -> None:
        assert refused("a: {x: 1}\nb: 2\na: 3\n") == ["f:3: a: this key is here twice; the first is on line 1"]

    def test_all_mistakes_of_a_readable_text_are_told(self) -> None:
        assert refused("a: 1\na: 2\nb: !!str 3\n? [c]\n: 4\nd: {<<: {}}\n") == [
            "f:2: a: this key is here twice; the first is on line 1",
            "f:3: b: tags are not allowed: remove tag:yaml.org,2002:str",
            "f:4: a key must be a plain word",
            "f:6: d: merge keys (<<) are not part of YAML 1.2: write the keys out",
        ]

    @pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!x", "!!map"])
    def test_tags_are_refused(self, tag: str) -> None:
        assert "tags are not allowed" in refused(f"a: {tag} {{b: 1}}")[0]

    def test_a_second_document_is_refused(self) -> None:
        assert refused("a: 1\n---\nb: 2\n") == ["f:2: a second document (---): a file holds one"]

    def test_tabs(self) -> None:
        assert refused("a:\n\tb: 1\n") == ["f:2: YAML allows no tabs in front of a line: indent with spaces"]

    def test_what_is_not_yaml_is_told_with_its_line(self) -> None:
        (told,) = refused("a: 1\nb: c: d\n")
        assert told.startswith("f:2: not YAML: mapping values are not allowed in this context; ")
        assert "indentation" in told
        assert "quote a value" in told

    def test_characters_that_yaml_refuses(self) -> None:
        assert refused("a: 1\nb: \x07\n") == ["f:2: the character U+0007 is not allowed in YAML"]


class TestAliases:
    def test_an_alias_is_what_it_names(self) -> None:
        assert read("a: &x {b: 1}\nc: *x\n") == {"a": {"b": 1}, "c": {"b": 1}}

    def test_an_alias_without_anchor(self) -> None:
        assert refused("a: *x\n") == ["f:1: a: the alias *x has no anchor &x above it"]

    def test_an_alias_inside_its_own_anchor(self) -> None:
        assert refused("a: &x [*x]\n") == ["f:1: a[0]: the alias *x has no anchor &x above it"]

    def test_billion_laughs(self) -> None:
        lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
        assert refused("\n".join(lines)) == ["f:5: more than 100000 values, aliases followed"]

    def test_depth_made_of_aliases(self) -> None:
        lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100))]
        assert refused("\n".join(lines)) == [f"f:{MAX_DEPTH}: nested more than {MAX_DEPTH} levels deep"]

    @pytest.mark.parametrize("brackets", [("[", "]"), ("{a: ", "}")])
    def test_depth(self, brackets: tuple[str, str]) -> None:
        opening, closing = brackets
        text = opening * 5000 + closing * 5000
        assert refused(text) == [f"f:1: nested more than {MAX_DEPTH} levels deep"]


def test_a_path_is_written_as_in_a_program() -> None:
    assert dotted(("mqtt", "hall", "devices", 0, "topic")) == "mqtt.hall.devices[0].topic"
    assert dotted(("mqtt", "\x1b[31m")) == "mqtt.\\x1b[31m"
