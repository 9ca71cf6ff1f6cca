"""The file side of ``ds-gateway journal export`` and ``import``: who is asked does the rest (`transfer`)."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ds_gateway import __version__, assembly, control
from ds_gateway.cli.configuration import load_configuration
from ds_gateway.cli.open_journal import opened_journal
from ds_gateway.cli.output import writing
from ds_gateway.cli.progress import Progress
from ds_gateway.config.loader import find_control_sockets
from ds_gateway.errors import JournalError
from ds_gateway.exports import (
    Ending,
    ExportFileError,
    header_line,
    header_of,
    header_values,
    read_lines,
)
from ds_gateway.records import rfc3339
from ds_gateway.retarget import way_to
from ds_gateway.uplink import http_client
from ds_gateway.uplink.settling import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ds_gateway.config.models import Settings
    from ds_gateway.journal import Journal

    Ask = Callable[[Mapping[str, Any]], dict[str, Any]]

_ANSWER_SECONDS: Final = 120.0
SETTLE_SECONDS: Final = 10.0
"""How long the server is asked before an export what became of what was sent."""
_PART_BYTES: Final = 256 * 1024
_MAX_LINE_BYTES: Final = 64 * 1024 * 1024


@contextmanager
def opened(config: Path | None, *, settles: bool = False) -> Iterator[Ask]:
    """The running gateway; without one its journal itself, which nobody else may have open then.

    ``settles``: the server is asked first, for a while, what became of what was sent; a running gateway does that
    all the time.
    """
    _, sockets = find_control_sockets(config, os.environ)
    for path in sockets:
        try:
            control.call(path, "journal", _ANSWER_SECONDS, action="identity")
        except control.NobodyThereError:
            continue
        yield partial(_call, path)
        return
    settings = load_configuration(config).settings
    with opened_journal(settings) as (journal, receipts):
        if settles:
            asyncio.run(_settle(settings, journal))
        yield assembly.transfer(settings, journal, receipts).do


async def _settle(settings: Settings, journal: Journal) -> None:
    in_flight = {each.number for each in journal.snapshot().streams if each.in_flight}
    stores = {
        store.name: store
        for number, _, url in journal.streams()
        if number in in_flight and url == settings.server.url
        for store in [journal.store(number, birth={})]
    }
    if not stores:
        return
    with Progress("asking the server what became of what was sent"):
        async with way_to(settings.server, settings.data_dir, settings.journal, http_client) as client:
            await settle(settings, client, stores, SETTLE_SECONDS)


def _call(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    return control.call(path, "journal", _ANSWER_SECONDS, **request)


def export(ask: Ask, output: Path, streams: Sequence[str]) -> dict[str, Any]:
    """Write what was not sent into a file; once that is whole and on its disk, it is forgotten here."""
    with writing(output) as file, Progress("exporting", unit="records") as progress:
        begun = ask({"action": "export-begin", "streams": list(streams)})
        if begun["header"] is None:
            raise NothingToExportError(begun["stays"])
        header = header_of(begun["header"])
        ending = Ending()

        def write(line: bytes) -> None:
            ending.add(line)
            file.write(line)

        write(header_line(header, time=rfc3339(time.time_ns()), version=__version__))
        after: list[int] | None = [0, 0, 0]
        while after is not None:
            page = ask({"action": "export-page", "export": header.export, "after": after})
            after = page["next"]
            for line in page["text"].encode().splitlines(keepends=True):
                write(line)
            progress.show(ending.records, header.records)
        ask({"action": "export-ending", "export": header.export})
        file.write(ending.line(header.export))
        file.flush()
        os.fsync(file.fileno())
        _check(output, file)
    ask({"action": "export-end", "export": header.export})
    return {
        "export": header.export,
        "file": str(output),
        "records": ending.records,
        "streams": len(header.streams),
        "resumed": begun["resumed"],
        "stays": begun["stays"],
    }


class NothingToExportError(JournalError):
    """There is nothing that could be exported; what stays says why."""

    def __init__(self, stays: Sequence[Mapping[str, Any]]) -> None:
        told = "".join(f"; {each['stream']}: {each['records']} records: {each['why']}" for each in stays)
        super().__init__(f"nothing is exported: no record waits that was not sent yet{told}")


def _check(output: Path, file: BinaryIO) -> None:
    """Read it back from the disk: only what can be read is forgotten here. Raises `ExportFileError`."""
    try:
        with open(f"/proc/self/fd/{file.fileno()}", "rb") as opened_file:  # noqa: PTH123 - its name is not there yet
            os.posix_fadvise(opened_file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            _, records = read_lines(_lines(opened_file))
            for _ in records:
                pass
    except ExportFileError as error:
        raise ExportFileError(
            f"{output} does not read back as it was written, and was deleted: {error}. Nothing of it is forgotten "
            "here, and nothing of it is sent meanwhile: run the command again, on another disk, or take the "
            "export back with --cancel --files-are-deleted"
        ) from None


def _lines(file: Any) -> Iterator[bytes]:
    while line := file.readline(_MAX_LINE_BYTES):
        yield line


def import_(ask: Ask, file: Path, *, other_server: bool) -> dict[str, Any]:
    """Check a file as a whole, and hand it over."""
    try:
        with file.open("rb") as opened_file, Progress("checking", unit="records") as progress:
            header, records = read_lines(_lines(opened_file))
            counts = [0] * len(header.streams)
            for index, _ in records:
                counts[index] += 1
                if sum(counts) % 1000 == 0:
                    progress.show(sum(counts), header.records)
        told = header_values(header)
        begun = ask(
            {
                "action": "import-begin",
                "header": told,
                "size_bytes": file.stat().st_size,
                "other_server": other_server,
            }
        )
        with file.open("rb") as opened_file, Progress("importing", unit="records") as progress:
            _, records = read_lines(_lines(opened_file))
            done = 0
            for index, part in _parts(records):
                ask({"action": "import-part", "header": told, "stream": index, "records": part})
                done += len(part)
                progress.show(done, sum(counts))
        ask({"action": "import-end", "header": told, "counts": counts})
    except ExportFileError as error:
        raise ExportFileError(f"{file} cannot be imported: {error}") from None
    except OSError as error:
        raise ExportFileError(f"{file} cannot be read: {error.strerror}") from None
    return {
        "export": header.export,
        "gateway": header.gateway,
        "records": sum(counts),
        "streams": len(header.streams),
        "resumed": begun["resumed"],
    }


def _parts(records: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, list[str]]]:
    """Some records of one stream at a time."""
    part: list[str] = []
    size, last = 0, 0
    for index, record in records:
        if part and (index != last or size + len(record) > _PART_BYTES):
            yield last, part
            part, size = [], 0
        part.append(record.decode())
        size += len(record)
        last = index
    if part:
        yield last, part
