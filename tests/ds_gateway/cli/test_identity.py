"""``ds-gateway identity adopt``: a journal goes on under another gateway id, and nothing of it is left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ds_gateway.errors import JournalIdentityError
from ds_gateway.journal import Journal, JournalLimits, rows
from ds_gateway.journal.disk import FOLDER, SUSPECT, Disk
from ds_gateway.journal.names import read_names
from ds_gateway.records import Item
from harness.journal_box import reading
from harness.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from harness.command import Command, Ended

URL = "http://127.0.0.1:1/v1"


def open_journal(directory: Path, gateway: str) -> Journal:
    return Journal.open(directory, gateway=gateway, url=URL, limits=JournalLimits(min_free_bytes=0))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The journal of line-7 with a record that waits; the configuration says line-8."""
    (tmp_path / "gateway.yaml").write_text(f"gateway: {{id: line-8}}\ndata_dir: data\nserver: {{url: '{URL}'}}\n")
    journal = open_journal(tmp_path / "data", "line-7")
    journal.intake("x", max_items=10).offer([Item(reading(1))])
    journal.start()
    wait_until(lambda: journal.accepted("telemetry/a") == 1, what="it is accepted")
    journal.stop()
    return tmp_path / "data"


def run(command: Command, data: Path, *arguments: object) -> Ended:
    return command("identity", *arguments, "--config", data.parent / "gateway.yaml")


def test_without_it_the_gateway_refuses_and_says_so(data: Path) -> None:
    with pytest.raises(JournalIdentityError, match="or let `ds-gateway identity adopt` give it this journal"):
        open_journal(data, "line-8")


def test_it_tells_first(command: Command, data: Path) -> None:
    done = run(command, data, "adopt")
    assert done.code == 1
    assert "the journal belongs to line-7, the configuration says line-8; --yes gives it that id" in done.stdout
    assert json.loads(run(command, data, "show", "--json").stdout)["gateway"] == "line-7"


def test_what_waits_and_what_brokers_know_stay(command: Command, data: Path) -> None:
    before = json.loads(run(command, data, "show", "--json").stdout)
    assert run(command, data, "adopt", "--yes").stdout == "the journal of line-7 belongs to line-8 now\n"
    after = json.loads(run(command, data, "show", "--json").stdout)
    assert (after["gateway"], after["install"]) == ("line-8", before["install"])
    assert after["mqtt_client"] == before["mqtt_client"] == f"line-7-{before['install'][:6]}"
    assert read_names(data).gateway == "line-8"
    journal = open_journal(data, "line-8")
    assert journal.identity.mqtt_client == before["mqtt_client"]
    assert [each.in_journal for each in journal.snapshot().streams] == [1]
    journal.stop()
    assert run(command, data, "adopt", "--yes").stdout == "nothing to do: the journal belongs to line-8\n"


def test_and_back(command: Command, data: Path) -> None:
    before = json.loads(run(command, data, "show", "--json").stdout)
    run(command, data, "adopt", "--yes")
    (data.parent / "gateway.yaml").write_text(
        f"gateway: {{id: line-7}}\ndata_dir: data\nserver: {{url: '{URL}'}}\n"
    )
    run(command, data, "adopt", "--yes")
    assert json.loads(run(command, data, "show", "--json").stdout) == before


def test_not_while_it_is_in_use(command: Command, data: Path) -> None:
    journal = open_journal(data, "line-7")
    done = run(command, data, "adopt", "--yes")
    journal.stop()
    assert done.code == 1
    assert "another gateway (process " in done.stderr


@pytest.mark.parametrize("key", [rows.META, rows.COUNTERS])
def test_a_journal_that_is_damaged_then_is_salvaged_as_its_own(command: Command, data: Path, key: str) -> None:
    client = json.loads(run(command, data, "show", "--json").stdout)["mqtt_client"]
    run(command, data, "adopt", "--yes")
    disk = Disk(data)
    with disk.transaction():
        disk.write(key, b"damaged")
    disk.close()
    (data / SUSPECT).touch()
    journal = open_journal(data, "line-8")
    assert journal.snapshot().set_aside
    assert journal.identity.mqtt_client == client
    assert sum(each.in_journal for each in journal.snapshot().streams if each.name == "telemetry/a") == 1
    journal.stop()
    assert (data / FOLDER).is_dir()
