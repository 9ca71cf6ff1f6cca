"""Sets the oldest unresolved records of a stream aside, as an operator decided: first into files.

A file holds what one step takes, one record a line, and is on disk before the step is. A crash between the two
leaves a file too many, and no record too few.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from ds_gateway.errors import JournalError
from ds_gateway.journal.access import sync_folder
from ds_gateway.journal.rows import id_of, position_of
from ds_gateway.journal.shedding import drop_front

if TYPE_CHECKING:
    from pathlib import Path

    from ds_gateway.journal.book import Book
    from ds_gateway.journal.plan import Plan

FOLDER: Final = "skipped"
STEP_BYTES: Final = 8 * 1024 * 1024
STEP_SEGMENTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was set aside."""

    count: int = 0
    """Records, without the loss records among them."""
    files: tuple[Path, ...] = ()


def front(plan: Plan, book: Book, before_position: int) -> list[bytes]:
    """The oldest records that are not known to be in the stream, in bounded number. Changes nothing.

    A loss record alone is not worth a step: it would be replaced by one that says the same.
    """
    records: list[bytes] = []
    size = 0
    start, skip = (
        (book.sealed.first_segment, book.sealed.first_skip) if book.sealed else (book.open_segment, book.open_skip)
    )
    for visited, number in enumerate(book.numbers(start, book.next_segment)):
        if size >= STEP_BYTES or visited >= STEP_SEGMENTS:
            break
        for record in plan.segment(book, number)[1].elements()[skip if number == start else 0 :]:
            if position_of(record) >= before_position:
                return [] if _is_one_loss(records) else records
            records.append(record)
            size += len(record)
    return [] if _is_one_loss(records) else records


def _is_one_loss(records: list[bytes]) -> bool:
    return len(records) == 1 and _is_loss(records[0])


def _is_loss(record: bytes) -> bool:
    return b'"kind":"loss"' in record and orjson.loads(record).get("kind") == "loss"


def and_these(skipped: Skipped, records: list[bytes], path: Path) -> Skipped:
    """What was set aside, with one more file."""
    count = sum(not _is_loss(record) for record in records)
    return Skipped(skipped.count + count, (*skipped.files, path))


def skip(plan: Plan, book: Book, through: int) -> None:
    """Let a loss record stand for every unresolved record up to this position."""
    # While a repair is going on nobody knows what of it is in the stream.
    certain = not book.repairing
    detail = "an operator skipped them; they are in data_dir/" + FOLDER
    if book.sealed is not None:
        run = book.sealed
        last = book.open_position - 1
        certain = False
        detail += f"; positions {run.first_position} to {last} had been sent, and may be in the stream"
        book.unseal()
    if book.claimed and not book.repairing:
        # The number of what was sealed is used up, whatever became of it.
        book.begin_epoch(book.epoch + 1)
        plan.forget_announcements(book)
    drop_front(plan, book, cause="skipped", detail=detail, certain=certain, before_position=through + 1)
    plan.touch(book)


def write_file(directory: Path, stream: int, records: list[bytes], before: Skipped) -> Path:
    """Write records into a file of their own, durably. Raises `JournalError`, which says what was done ``before``.

    Ids name it: after a salvage positions begin again. A file with other content is never replaced.
    """
    folder = directory / FOLDER
    name = f"stream-{stream}-{id_of(records[0])}-{id_of(records[-1])}"
    temporary = folder / f"{name}.tmp"
    content = b"".join(record + b"\n" for record in records)
    path = folder / f"{name}.jsonl"
    try:
        folder.mkdir(mode=0o750, exist_ok=True)
        copy = 1
        while path.exists() and path.read_bytes() != content:
            copy += 1
            path = folder / f"{name}-{copy}.jsonl"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        for each in (folder, directory):
            sync_folder(each)
    except OSError as error:
        raise JournalError(f"{path} cannot be written: {error.strerror}; {_done(before)}") from error
    return path


def _done(before: Skipped) -> str:
    if not before.files:
        return "nothing is skipped"
    return (
        f"{before.count} records are skipped and in {len(before.files)} files, the last of them "
        f"{before.files[-1].name}; the others are not: skip again to go on"
    )
