"""``serve``: streams from a directory."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from durable_streams.cli.connection import read_token
from durable_streams.cli.ending import WRONG_USE, WrongUseError, fail
from durable_streams.cli.sizes import size_from

DEFAULT_PORT: Final = 4437
"""The port of stand-alone servers (PROTOCOL section 13.1)."""

MIN_QUOTA: Final = 1024 * 1024
"""Below it a store has hardly room for its own tables."""

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_CHECK_SECONDS: Final = 1.0
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BLOCK_BYTES: Final = 4 * 1024 * 1024
"""Above the size of a page, which would otherwise be mapped anew for each read."""


def port_of(text: str) -> int:
    """Return the number of a port; raise `typer.BadParameter` for what is none."""
    digits = str(text)  # the default comes as a number
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65535):
        raise typer.BadParameter(f"{text} is no port: give 1 to 65535, or 0 for any free one")
    return int(digits)


def serve(
    data: Annotated[
        Path, typer.Option(help="Directory of the streams; created if need be.", file_okay=False)
    ] = Path("durable-streams-data"),
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(parser=port_of, metavar="PORT", help="Port to listen on; 0 takes any free one.")
    ] = DEFAULT_PORT,
    long_poll_timeout: Annotated[
        float, typer.Option(help="How long a long-poll waits for data, in seconds.", min=0.0, max=3600.0)
    ] = 30.0,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the bearer token that every request needs.", dir_okay=False),
    ] = None,
    retain_bytes: Annotated[
        int | None,
        typer.Option(
            parser=size_from(1),
            metavar="SIZE",
            help="Keep this much of each stream and drop what is older; all by default.",
        ),
    ] = None,
    retain_seconds: Annotated[
        float | None,
        typer.Option(help="Keep data for this time of serving and drop them then; for ever by default.", min=1.0),
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            parser=size_from(MIN_QUOTA),
            metavar="SIZE",
            help="Size of all streams on the disk from which appends are refused (507).",
        ),
    ] = None,
    min_free_bytes: Annotated[
        int,
        typer.Option(
            parser=size_from(0),
            metavar="SIZE",
            help="Free space of the disk below which appends are refused (507).",
        ),
    ] = 64 * 1024 * 1024,
    max_body_bytes: Annotated[
        int,
        typer.Option(
            parser=size_from(1024), metavar="SIZE", help="Size of one request from which it is refused (413)."
        ),
    ] = 16 * 1024 * 1024,
    max_streams: Annotated[
        int, typer.Option(help="Number of streams from which no more are created (507).", min=1)
    ] = 100_000,
    max_connections: Annotated[
        int, typer.Option(help="Number of connections from which new ones are refused (503).", min=1)
    ] = 1000,
) -> None:
    """Serve streams from a directory until SIGTERM or SIGINT. The first line of output is the URL.

    Data, producer state and closure are committed together and are on the disk before they are confirmed. A SIZE
    is in bytes, or has a unit: 500MB, 20GiB.
    """
    # No other command needs the server: without it they start in a tenth less time.
    from durable_streams.server import (  # noqa: PLC0415
        ConnectionLimits,
        Limits,
        ServerThread,
        SqliteStore,
        StoreError,
        StreamApp,
        is_loopback,
    )

    try:
        token = None if token_file is None else read_token(token_file)
    except WrongUseError as error:
        fail(str(error), code=WRONG_USE)
    _check_host(host)
    if token is None and not is_loopback(host):
        fail(
            f"refusing to listen on {host} without a token: give --token-file, or --host 127.0.0.1", code=WRONG_USE
        )
    _check_address(host, port)
    _allow_many_files()
    _give_large_blocks_back()
    # Blocked before any thread starts, so that the signals reach `sigtimedwait` below and nothing else.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        store = SqliteStore(data, max_bytes=max_bytes, min_free_bytes=min_free_bytes)
    except StoreError as error:
        fail(str(error))
    limits = Limits(
        long_poll_timeout_seconds=long_poll_timeout,
        max_body_bytes=max_body_bytes,
        max_streams=max_streams,
        retain_bytes=retain_bytes,
        retain_seconds=retain_seconds,
    )
    server = ServerThread(
        StreamApp(store, token=token, local_only=token is None, limits=limits),
        connections=ConnectionLimits(max_connections=max_connections),
    )
    server.start()
    try:
        typer.echo(server.listen(host, port))
        sys.stdout.flush()
        while not _stop_is_asked():
            if not server.alive:
                fail("the server ended unexpectedly")
    except OSError as error:
        fail(_why_unheard(host, port, error))
    finally:
        server.stop()


def _check_host(host: str) -> None:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no name"
        fail(f"--host {host!r} is no address: {reason}; give an IP address of this machine", code=WRONG_USE)


def _check_address(host: str, port: int) -> None:
    """Refuse one that cannot be had, before anything is made."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        fail(_why_unheard(host, port, error))


def _why_unheard(host: str, port: int, error: OSError) -> str:
    # Python's own text names the address once more.
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    way_out = "--host takes an address of this machine"
    if error.errno == errno.EADDRINUSE:
        way_out = "stop the program that has it, or give another --port (0 takes any free one)"
    elif error.errno == errno.EACCES:
        way_out = "give a --port above 1023"
    return f"cannot listen on {host} port {port}: {reason}; {way_out}"


def _stop_is_asked() -> bool:
    """Wait for a signal for a while; whether one asked to stop."""
    info = signal.sigtimedwait(_STOP_SIGNALS, _CHECK_SECONDS)
    # Behind a SIGSTOP and SIGCONT CPython 3.11 returns something that is no signal of ours.
    return info is not None and info.si_signo in _STOP_SIGNALS


def _allow_many_files() -> None:
    """Each connection is an open file, and the usual limit of 1024 is a soft one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # more than the kernel allows: it stays as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _give_large_blocks_back() -> None:
    """Let the C library return large messages to the system at once, instead of growing with each peak."""
    with contextlib.suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
