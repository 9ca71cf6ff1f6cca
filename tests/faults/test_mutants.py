"""Builds that break a promise fail a named test: a row of `MUTANTS` is one defect and the test that finds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from harness import mutants
from harness.mutants import Change

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """A defect, and the test that must fail because of it."""

    name: str
    changes: tuple[Change, ...]
    test: str
    shown: str
    """What the test must say, so that it fails for this defect and for nothing else."""
    is_long: bool = False
    """Of the long tests: another one is like it."""


CRASH = "tests/faults/test_crash_points.py"
DURABILITY = "tests/faults/test_durability.py::test_nobody_is_told_before_the_commit_is_on_the_disk"
FIRST_MESSAGE = (
    f"{CRASH}::TestTheFirstMessage::test_a_crash_leaves_what_the_table_says_and_a_restart_makes_it_good"
)
EXPLORATION = "tests/durable_streams/producer/test_exploration.py"
KILL_POINTS = (
    "tests/durable_streams/server/test_kill_points.py"
    "::test_every_batch_is_stored_once_wherever_the_kill_comes[values]"
)

WRITER = "ds_gateway/journal/writer.py"
COMMIT = """\
            if rows_to_write:
                self._commit(rows_to_write, plan.parts)
"""
TELL_SOURCES = "        telling.tell_sources(taken, self.state.counters.commit)\n"

DOWNLINK = "tests/faults/test_downlink.py::TestACrashInBetween"

ROWS = "durable_streams/server/_rows.py"
SET_PRODUCER = """\
        if change.producer is not None:
            mark = change.producer
            execute(_SET_PRODUCER, (stream.id, mark.producer_id, mark.epoch, mark.seq))
"""
SET_CHANGED = """\
        if change.data is not None or change.close:
            self.changed.add(stream.id)

    def delete"""

MUTANTS = (
    Mutant(
        "commits are not synced",
        (Change("ds_gateway/journal/disk.py", "sqlite_synchronous=2,", "sqlite_synchronous=0,"),),
        DURABILITY,
        "assert not watcher.told_too_early",
        is_long=True,
    ),
    Mutant(
        "commits are synced at checkpoints only",
        (Change("ds_gateway/journal/disk.py", "sqlite_synchronous=2,", "sqlite_synchronous=1,"),),
        DURABILITY,
        "assert not watcher.told_too_early",
    ),
    Mutant(
        "batches are handed out before their seal is committed",
        (
            Change(
                WRITER,
                COMMIT,
                """\
            for demand, batch in batches:
                if demand.batch.set_running_or_notify_cancel() and isinstance(batch, SealedBatch):
                    demand.batch.set_result(batch)
"""
                + COMMIT,
            ),
            Change(
                "ds_gateway/journal/telling.py",
                "    if not demand.batch.set_running_or_notify_cancel():\n",
                "    if demand.batch.done() or not demand.batch.set_running_or_notify_cancel():\n",
            ),
            Change(
                WRITER, "\nif TYPE_CHECKING:\n", "\nfrom durable_streams import SealedBatch\n\nif TYPE_CHECKING:\n"
            ),
        ),
        f"{FIRST_MESSAGE}[before B]",
        "in_stream: 1 != 0",
        is_long=True,
    ),
    Mutant(
        "sources are told before the commit",
        (
            Change(WRITER, TELL_SOURCES, ""),
            Change(WRITER, COMMIT, f"    {TELL_SOURCES}{COMMIT}"),
        ),
        f"{FIRST_MESSAGE}[before A]",
        "lost: 1",
    ),
    Mutant(
        "copies are not recognised",
        (Change("ds_gateway/mqtt/dedupe.py", "        return repeated\n", "        return False\n"),),
        f"{FIRST_MESSAGE}[after A]",
        "duplicated: 1",
        is_long=True,
    ),
    Mutant(
        "the anchor moves when the stream's end is seen, before the batch is looked for",
        (
            Change(
                "durable_streams/_pull_send.py",
                "    return enter(replace(seen, stage=Stage.READ))\n",
                "    seen = replace(seen, stored=replace(seen.stored, anchor=tail))\n"
                "    return enter(replace(seen, stage=Stage.READ))\n",
            ),
        ),
        f"{EXPLORATION}::test_a_server_that_tears_data_and_state_apart_stores_nothing_twice",
        "stored twice",
        is_long=True,
    ),
    Mutant(
        "an unanswered batch is sent again without a look at the stream",
        (
            Change(
                "durable_streams/_pull_send.py",
                "stage=Stage.HEAD if state.policy.read_back else Stage.SEND",
                "stage=Stage.SEND",
            ),
        ),
        f"{EXPLORATION}::test_a_server_that_tears_data_and_state_apart_stores_nothing_twice",
        "stored twice",
        is_long=True,
    ),
    Mutant(
        "the server commits a producer's state after the data and apart from it",
        (
            Change(ROWS, SET_PRODUCER, ""),
            Change(
                ROWS,
                SET_CHANGED,
                SET_PRODUCER.replace(
                    "            mark = change.producer\n",
                    "            execute('COMMIT')\n"
                    "            execute('BEGIN IMMEDIATE')\n"
                    "            mark = change.producer\n",
                )
                + SET_CHANGED,
            ),
        ),
        KILL_POINTS,
        "stored_twice=1",
    ),
    Mutant(
        "the server commits a producer's state before the data and apart from it",
        (
            Change(
                ROWS,
                "        after = stream.after(change)\n",
                "        after = stream.after(change)\n"
                + SET_PRODUCER
                + "            execute('COMMIT')\n            execute('BEGIN IMMEDIATE')\n",
            ),
        ),
        KILL_POINTS,
        "lost=1",
        is_long=True,
    ),
    Mutant(
        "a receipt is committed before the rows that belong to it",
        (
            Change(
                "ds_gateway/downlink/outbox.py",
                "        item = Item(payload, RowChanges(self._tickets, write.rows))\n",
                "        earlier, self._later = getattr(self, '_later', {}), write.rows\n"
                "        item = Item(payload, RowChanges(self._tickets, earlier))\n",
            ),
        ),
        f"{DOWNLINK}::test_what_has_its_receipt_is_not_done_again",
        "True, True]",
        is_long=True,
    ),
    Mutant(
        "a command is given before the server has its acceptance",
        (
            Change(
                "ds_gateway/downlink/executor.py",
                "if not self._desk.is_confirmed(position) else",
                "if False else",
            ),
        ),
        f"{DOWNLINK}::test_nothing_is_done_before_the_server_has_its_acceptance",
        "it was done before its acceptance was confirmed",
        is_long=True,
    ),
    Mutant(
        "that a command is about to be sent is not written down",
        (
            Change(
                "ds_gateway/downlink/executor.py",
                "Write(self._desk.book.give(ready.number))",
                "Write({})",
            ),
        ),
        f"{DOWNLINK}::test_what_its_device_has_and_nobody_knows_of[at_most_once]",
        "'c0': 'acknowledged'",
    ),
)


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(each, id=each.name, marks=[pytest.mark.soak] if each.is_long else []) for each in MUTANTS],
)
def test_a_build_with_this_defect_fails_its_test(mutant: Mutant, tmp_path: Path) -> None:
    source = mutants.copy_of_source(tmp_path)
    for change in mutant.changes:
        mutants.apply(source, change)
    outcome = mutants.run_tests([mutant.test], source, tmp_path)
    assert outcome.failed, f"the defect was not found\n{outcome.output}"
    assert mutant.shown in outcome.output, f"another defect was found\n{outcome.output}"


# What `make test` runs anyhow, once more in a copy: it shows that the copy itself fails nothing.
@pytest.mark.soak
def test_a_build_without_a_defect_passes_them_all(tmp_path: Path) -> None:
    source = mutants.copy_of_source(tmp_path)
    outcome = mutants.run_tests(sorted({mutant.test for mutant in MUTANTS}), source, tmp_path)
    assert outcome.passed, outcome.output
