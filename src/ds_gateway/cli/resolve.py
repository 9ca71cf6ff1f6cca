"""``ds-gateway resolve``: why a stream stands, and what to do about it. Exit status 0, 1 or 2 (wrong use)."""

from __future__ import annotations

import os
import sys
from pathlib import Path  # noqa: TC003 - read by typer
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ds_gateway.cli.options import ConfigOption, JsonOption  # noqa: TC001 - read by typer
from ds_gateway.cli.printing import print_json
from ds_gateway.cli.progress import Progress
from ds_gateway.cli.status import ask
from ds_gateway.config.loader import find_control_sockets
from ds_gateway.resolver import DEFAULT_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS, Action

if TYPE_CHECKING:
    from collections.abc import Mapping

_ANSWER_SECONDS: Final = 60.0
"""Beside the time for the old server: for opening its store, and for the journal."""
_MAX_TOKEN_BYTES: Final = 64 * 1024


def resolve(  # noqa: PLR0917 - typer's options
    stream: Annotated[
        str | None, typer.Argument(help="Name of the stream, as ds-gateway status shows it.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every stream that is halted.")] = False,  # noqa: FBT002 - an option
    retry: Annotated[  # noqa: FBT002
        bool, typer.Option("--retry", help="Look again at everything, as a restart does.")
    ] = False,
    claim: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--claim",
            help="This gateway is the one that goes on: claim the identity back under a higher epoch, create the "
            "stream again if it is gone, read everything back, send what is missing.",
        ),
    ] = False,
    bisect: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--bisect",
            help="Find the record that the server refuses; it goes to the quarantine, all others are sent.",
        ),
    ] = False,
    skip_to: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION|end",
            help="Set everything before this position aside in a file; a loss record takes its place. A position "
            "is the number at the end of a record's id.",
        ),
    ] = None,
    retarget: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--retarget",
            help="Find out at the old server what became of the last batch, then go on at the configured one.",
        ),
    ] = False,
    old_server_gone: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--old-server-gone",
            help="With --retarget: the old server will never be back. The last batch is sent to the new one, and "
            "may be at the old one, too. Not for a server that merely has another address now: it could store "
            "that batch twice.",
        ),
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            help="How long it may take, in seconds; for each old server.", min=1.0, max=MAX_TIMEOUT_SECONDS
        ),
    ] = DEFAULT_TIMEOUT_SECONDS,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the bearer token of the one old server; default: server.token.", dir_okay=False
        ),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Show why a stream is halted and what each choice would do, or do one of them."""
    if stream is None and not every:
        raise typer.BadParameter("name one stream, or give --all")
    if stream is not None and every:
        raise typer.BadParameter("name one stream, or give --all, not both")
    action = _action(
        {
            Action.RETRY: retry,
            Action.CLAIM: claim,
            Action.BISECT: bisect,
            Action.SKIP: skip_to is not None,
            Action.RETARGET: retarget,
        }
    )
    if action.needs_a_name and stream is None:
        raise typer.BadParameter("--claim, --bisect and --skip-to are decisions about one stream: name it")
    if not retarget and (old_server_gone or token_file is not None):
        raise typer.BadParameter("--old-server-gone and --token-file belong to --retarget")
    if old_server_gone and token_file is not None:
        raise typer.BadParameter("--old-server-gone asks no old server: leave --token-file out")
    token = None if token_file is None else read_token(token_file)
    data_dir, sockets = find_control_sockets(config, os.environ)
    request: dict[str, Any] = {
        "stream": stream,
        "old_server_gone": old_server_gone,
        "seconds": timeout,
        "skip_to": _position(skip_to),
    }
    wait = timeout
    with Progress("the gateway is at it"):
        if every and retarget and not old_server_gone:
            shown = ask(data_dir, sockets, "resolve", _ANSWER_SECONDS, **request, action="show", token=None)
            wait = timeout * old_servers(shown)
        wait += _ANSWER_SECONDS
        answer = ask(data_dir, sockets, "resolve", wait, **request, action=action.value, token=token)
    if json:
        print_json(answer)
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines_of(answer, action)))
    if any(not row.get("done", True) for row in answer["streams"]):
        raise typer.Exit(1)


def _action(wanted: Mapping[Action, bool]) -> Action:
    actions = [action for action, is_wanted in wanted.items() if is_wanted]
    if len(actions) > 1:
        raise typer.BadParameter("choose one of --retry, --claim, --bisect, --skip-to and --retarget")
    return actions[0] if actions else Action.SHOW


def _position(text: str | None) -> int | None:
    if text is None or text == "end":
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**63):
        raise typer.BadParameter(
            f"--skip-to {text!r} is no position: the number at the end of a record's id, or `end`"
        )
    return int(text)


def old_servers(answer: Mapping[str, Any]) -> int:
    """How many servers are asked, one after the other, each of which may take the whole time."""
    return max(1, len({row["old_url"] for row in answer["streams"] if row["old_url"] is not None}))


def read_token(path: Path) -> str:
    """The token in a file, which ends with a line end or not."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
    except OSError as error:
        raise typer.BadParameter(f"--token-file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        raise typer.BadParameter(f"--token-file {path} is no token: one line of printable ASCII")
    return text


def lines_of(answer: Mapping[str, Any], action: Action) -> list[str]:
    """The answer for people."""
    if not answer["streams"]:
        return ["no stream is to be moved" if action is Action.RETARGET else "no stream is halted"]
    if action is not Action.SHOW:
        return [_safe(f"{row['name']}: {row['told']}") for row in answer["streams"]]
    lines: list[str] = []
    for row in answer["streams"]:
        lines.append(f"{row['name']}: {row['state']}" + (f": {row['reason']}" if row["reason"] else ""))
        lines += [f"  - {choice}" for choice in row["choices"]]
    return [_safe(line) for line in lines]


def _safe(text: str) -> str:
    """What servers said is in it: no commands to the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
