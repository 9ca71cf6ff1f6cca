"""How what ``ds-gateway check --live`` found is shown, to people and to machines."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ds_gateway.cli.steps import lines, safe, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ds_gateway.trying import Step


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was tried."""

    kind: Literal["broker", "port", "server"]
    name: str
    at: str
    is_ok: bool
    message: str
    sample: Sequence[Step] = ()
    streams: Sequence[str] = ()
    """Streams that the sample would go to."""


def show_live(results: Iterator[Checked], redact: Callable[[str], str]) -> bool:
    """Print them for people; whether something failed."""
    failed = False
    for each in results:
        failed = failed or not each.is_ok
        word = "ok" if each.is_ok else "failed"
        sys.stdout.write(f"{word}: {each.kind} {each.name} ({redact(each.at)}): {redact(safe(each.message))}\n")
        for step in each.sample:
            sys.stdout.write("".join(f"  {line}\n" for line in lines(step)))
        sys.stdout.flush()
    return failed


def told_live(each: Checked, redact: Callable[[str], str]) -> dict[str, Any]:
    """One of them for machines."""
    return {
        "kind": each.kind,
        "name": each.name,
        "at": redact(each.at),
        "ok": each.is_ok,
        "message": redact(each.message),
        "sample": [told(step) for step in each.sample],
    }
