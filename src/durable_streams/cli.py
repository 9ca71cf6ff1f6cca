"""The command ``durable-streams``. Exit codes: 0 fine, 1 failed, 2 configuration."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from durable_streams.server import Limits, ServerThread, SqliteStore, StoreError, StreamApp, is_loopback

DEFAULT_PORT: Final = 4437
"""The port of stand-alone servers (PROTOCOL section 13.1)."""

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_CHECK_SECONDS: Final = 1.0

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def durable_streams() -> None:
    """Durable, append-only streams over HTTP."""


@app.command()
def serve(
    data: Annotated[
        Path, typer.Option(help="Directory of the streams; created if need be.", file_okay=False)
    ] = Path("durable-streams-data"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes any free one.", min=0, max=65535)
    ] = DEFAULT_PORT,
    long_poll_timeout: Annotated[
        float, typer.Option(help="How long a long-poll waits for data, in seconds.", min=0.0, max=3600.0)
    ] = 30.0,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the bearer token that every request needs.", dir_okay=False),
    ] = None,
) -> None:
    """Serve streams from a directory until SIGTERM or SIGINT. The first line of output is the URL."""
    token = None if token_file is None else _token(token_file)
    if token is None and not is_loopback(host):
        _fail(f"refusing to listen on {host} without a token: give --token-file, or --host 127.0.0.1", code=2)
    # Blocked before any thread starts, so that the signals reach `sigtimedwait` below and nothing else.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        store = SqliteStore(data)
    except StoreError as error:
        _fail(str(error))
    server = ServerThread(
        StreamApp(store, token=token, limits=Limits(long_poll_timeout_seconds=long_poll_timeout))
    )
    server.start()
    try:
        typer.echo(server.listen(host, port))
        sys.stdout.flush()
        while signal.sigtimedwait(_STOP_SIGNALS, _CHECK_SECONDS) is None:
            if not server.alive:
                _fail("the server ended unexpectedly")
    except OSError as error:
        _fail(f"cannot listen on {host} port {port}: {error.strerror or error}")
    finally:
        server.stop()


def main() -> None:
    """Run the command line."""
    app(prog_name="durable-streams")


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"cannot read the token from {path}: {error}", code=2)
    if not token or any(character.isspace() for character in token):
        _fail(f"{path} must hold one token without spaces", code=2)
    return token


def _fail(message: str, *, code: int = 1) -> NoReturn:
    typer.echo(f"durable-streams: {message}", err=True)
    raise typer.Exit(code)
