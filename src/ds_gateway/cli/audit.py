"""``ds-gateway audit``: reads the streams back and proves every position once. Exit status 0, 1 or 2."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ds_gateway.audit import audit_journal
from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.printing import count, print_json
from ds_gateway.cli.progress import Progress
from ds_gateway.cli.resolve import read_token
from ds_gateway.config.loader import load_server
from ds_gateway.journal.reading import RESTART, read_journal
from ds_gateway.journal.salvage import DAMAGED_PREFIX, set_aside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ds_gateway.audit import Finding, StreamAudit
    from ds_gateway.config.models import Settings
    from ds_gateway.journal.reading import JournalView, StreamView

_PIPED_COLUMNS: Final = 400
_MAX_SPANS_TOLD: Final = 1000
_STYLES: Final = {"failed": "red", "doubt": "yellow", "info": ""}
_COUNTS: Final = (
    "accepted",
    "appended",
    "in_journal",
    "ledgered",
    "expired",
    "exported",
    "in_doubt",
    "missing",
    "twice",
    "foreign",
    "out_of_order",
)
_ALWAYS_SHOWN: Final = frozenset({"accepted", "appended", "in_journal", "ledgered", "missing", "twice"})


def audit(
    streams: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STREAM]...", help="Names of streams; without one, all of the journal's."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the bearer token to read with; default: server.token.", dir_okay=False),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002 - an option, not an argument
) -> None:
    """Read the streams back and prove that every accepted record is there once. Changes nothing.

    Works beside a running gateway, and without one.
    """
    token = None if token_file is None else read_token(token_file)
    settings = load_server(config, os.environ, with_token=token is None)
    view = read_journal(Path(settings.data_dir))
    chosen = _chosen(view, streams or [])
    accepted = {stream.book.title: stream.book.next_position - 1 for stream in chosen}
    with Progress("reading", unit="records") as progress:

        def tell(name: str, records: int) -> None:
            # What others wrote, and the gateway since then, is read, too.
            progress.show(records, max(accepted[name], records), name)

        audits = asyncio.run(audit_journal(settings, view, chosen, token=token, progress=tell))
    damaged = [] if streams else [f"{row}; {RESTART}" for row in view.damaged]
    # Each stream can have lost something with it, whichever were asked for.
    damaged += _asides(Path(settings.data_dir), view.identity.gateway)
    is_proven = not damaged and all(each.is_proven for each in audits)
    if json:
        print_json({"proven": is_proven, **document(settings, view, audits, damaged)})
    else:
        _print(settings, view, audits, damaged, is_proven=is_proven)
    if not is_proven:
        raise typer.Exit(1)


def _chosen(view: JournalView, names: Sequence[str]) -> list[StreamView]:
    if not names:
        return list(view.streams.values())
    unknown = [name for name in names if name not in view.streams]
    if unknown:
        known = ", ".join(view.streams) or "none yet"
        raise typer.BadParameter(f"there is no stream {unknown[0]!r} in the journal; there are: {known}")
    return [view.streams[name] for name in dict.fromkeys(names)]


def _asides(directory: Path, gateway: str) -> list[str]:
    try:
        return [_aside(directory, gateway, name) for name in set_aside(directory)]
    except OSError as error:
        told = (
            f"it is in doubt whether a damaged journal was set aside in {directory}, and records with it: that "
            f"folder cannot be listed ({error.strerror}); run this as the user of the gateway or as root"
        )
        return [told]


def _aside(directory: Path, gateway: str, name: str) -> str:
    when = name.removeprefix(DAMAGED_PREFIX)[: len("20261122T174658Z")]
    try:
        moment = datetime.strptime(when, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        on = f" on {moment:%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        on = ""
    return (
        f"a damaged journal was set aside at {directory / name}{on}: what was accepted before and not salvaged is "
        f"lost, see the loss records in gateway/{gateway}; delete the folder when you are done with it"
    )


def document(
    settings: Settings, view: JournalView, audits: Sequence[StreamAudit], damaged: Sequence[str]
) -> dict[str, Any]:
    """The audit as one JSON object."""
    return {
        "gateway": view.identity.gateway,
        "install": view.identity.short_install,
        "data_dir": settings.data_dir,
        "time": datetime.fromtimestamp(view.taken_at, UTC).isoformat(),
        "totals": {key: sum(getattr(each, key) for each in audits) for key in _COUNTS},
        "journal_damaged": list(damaged),
        "losses": {
            cause: {"entries": entries, "count": lost} for cause, (entries, lost) in sorted(view.losses.items())
        },
        "streams": [
            {
                "name": each.name,
                "url": each.url,
                "proven": each.is_proven,
                "read": each.was_read,
                **{key: getattr(each, key) for key in _COUNTS},
                "accepted_since": each.since,
                "records": each.records,
                "ledger": each.ledger,
                "findings": [_finding(finding) for finding in each.findings],
            }
            for each in audits
        ],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    spans = list(finding.spans)
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "count": finding.count,
        "positions": spans[:_MAX_SPANS_TOLD],
        "more_ranges": max(len(spans) - _MAX_SPANS_TOLD, 0),
        "text": finding.text,
    }


def _print(
    settings: Settings,
    view: JournalView,
    audits: Sequence[StreamAudit],
    damaged: Sequence[str],
    *,
    is_proven: bool,
) -> None:
    console = Console(width=None if sys.stdout.isatty() else _PIPED_COLUMNS, highlight=False)
    console.print(Text(_safe(f"gateway {view.identity.gateway}, journal in {settings.data_dir}")))
    if audits:
        console.print(_table(audits))
    for row in damaged:
        console.print(Text(f"journal: failed: {_safe(row)}", style="red"))
    for each in audits:
        for finding in each.findings:
            line = f"{each.name}: {finding.severity}: {finding.text}"
            console.print(Text(_safe(line), style=_STYLES[finding.severity]))
    console.print(Text(last_line(audits, is_proven=is_proven), style="green" if is_proven else "red"))


def _table(audits: Sequence[StreamAudit]) -> Table:
    shown = [key for key in _COUNTS if key in _ALWAYS_SHOWN or any(getattr(each, key) for each in audits)]
    table = Table(title="streams", title_justify="left", title_style="bold", expand=False)
    table.add_column("name", overflow="fold")
    for key in shown:
        table.add_column(key.replace("_", " "), justify="right")
    table.add_column("proven")
    for each in audits:
        counts = [str(getattr(each, key)) if each.was_read or key == "accepted" else "-" for key in shown]
        verdict = Text("yes", style="green") if each.is_proven else Text("NO", style="red")
        table.add_row(Text(_safe(each.name)), *counts, verdict)
    return table


def last_line(audits: Sequence[StreamAudit], *, is_proven: bool) -> str:
    """The sum over all streams that were read, and the verdict."""
    read = [each for each in audits if each.was_read]
    parts = (
        ("appended", sum(each.appended for each in read)),
        ("in the journal", sum(each.in_journal for each in read)),
        ("ledgered", sum(each.ledgered for each in read)),
        ("expired", sum(each.expired for each in read)),
        ("exported", sum(each.exported for each in read)),
        ("MISSING", sum(each.missing for each in read)),
    )
    always = {"appended", "in the journal", "ledgered"}
    shown = [f"{name} {number}" for name, number in parts if number or name in always]
    line = f"accepted {sum(each.accepted for each in read)} = {' + '.join(shown)}"
    doubt = sum(each.in_doubt for each in read)
    extras = [
        *([f"{doubt} in doubt"] if doubt else []),
        *(
            f"{total} {key.replace('_', ' ')}"
            for key in ("twice", "foreign", "out_of_order")
            if (total := sum(getattr(each, key) for each in read))
        ),
        *([f"{count(len(audits) - len(read), 'stream')} not read"] if len(read) < len(audits) else []),
    ]
    here = " that is here" if any(each.exported for each in read) else ""
    verdict = f"every position{here} is proven once" if is_proven else "NOT PROVEN"
    return "; ".join([line, *extras, verdict])


def _safe(text: str) -> str:
    """What servers and devices said is in it: no commands to the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
