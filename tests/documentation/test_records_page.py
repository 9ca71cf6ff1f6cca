"""docs/records.md: it names every kind of record and cause of a loss, and its examples have documented members."""

from __future__ import annotations

import json
import re
from typing import get_args

from ds_gateway.records import LossCause
from harness.pages import blocks
from harness.peers import REPOSITORY

PAGE = REPOSITORY / "docs/records.md"
TEXT = PAGE.read_text(encoding="utf-8")


def table(header: str) -> set[str]:
    """The names in the first column of the table with this header."""
    found = re.search(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert found is not None
    return {name for line in found[1].splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])}


def test_every_cause_of_a_loss_is_told() -> None:
    assert table("cause") == set(get_args(LossCause))


def test_the_examples_have_documented_members_only() -> None:
    members, kinds = table("member"), table("kind")
    found = [json.loads(block.text) for block in blocks(PAGE) if block.language == "json"]
    records = [record for record in found if "specversion" not in record]
    assert len(records) >= 4
    assert {key for record in records for key in record} <= members
    assert {record["kind"] for record in records if "kind" in record} <= kinds
    for record in records:
        assert ("data" in record) != ("kind" in record)
