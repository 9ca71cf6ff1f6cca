"""Moving streams whose last batch is unresolved at another server than the configured one.

    old server: was the last batch stored? until it is   (HEAD, read back, the same bytes with the same number)
    journal:    resolved, and moved                       one transaction
    new server: everything that came later                a new epoch

A kill anywhere leaves the stream stranded as before, or moved.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds_gateway.config.credential import Credential
from ds_gateway.config.server import EMBEDDED, STREAMS_FOLDER
from ds_gateway.errors import ControlError, GatewayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    import httpx

    from ds_gateway.config.models import JournalSettings, Settings
    from ds_gateway.config.server import ServerSettings
    from ds_gateway.uplink import Uplinks

    MakeClient = Callable[[ServerSettings, httpx.AsyncBaseTransport | None], httpx.AsyncClient]

Outcome = tuple[bool, str]
"""Whether it was done, and what is told about it."""


def old_settings(server: ServerSettings, url: str, token: str | None) -> ServerSettings:
    """How the old server is asked: as the configured one, but for its URL and perhaps a token of its own."""
    changes: dict[str, Any] = {"url": url}
    if token is not None:
        changes["token"] = Credential(token)
    return server.model_copy(update=changes)


@asynccontextmanager
async def way_to(
    old: ServerSettings,
    data_dir: str,
    journal: JournalSettings,
    make_client: MakeClient,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client for the old server. The embedded one is opened for as long as it is asked, and does not listen."""
    if old.url != EMBEDDED:
        client = make_client(old, None)
        try:
            yield client
        finally:
            await client.aclose()
        return
    if not (Path(data_dir) / STREAMS_FOLDER).is_dir():
        # Opening would make an empty one, where no batch could ever be found.
        raise ControlError(
            f"the streams of the embedded server are not in {data_dir}/{STREAMS_FOLDER}: put them back there"
        )
    # Only who was served by it has the server in this process, too.
    from ds_gateway.embedded import EmbeddedServer, options  # noqa: PLC0415

    embedded = EmbeddedServer(options(data_dir, old, journal, listen=False))
    embedded.start()
    client = make_client(old, embedded.transport())
    try:
        yield client
    finally:
        await client.aclose()
        await embedded.stop()


class Mover:
    """Moves streams away from their old servers. Used on the event loop."""

    def __init__(
        self,
        settings: Settings,
        uplinks: Uplinks,
        make_client: MakeClient,
    ) -> None:
        self._settings = settings
        self._uplinks = uplinks
        self._make_client = make_client
        self._asking = asyncio.Lock()

    async def move(
        self,
        old_url: str,
        numbers: Sequence[int],
        *,
        old_server_gone: bool,
        timeout_seconds: float,
        token: str | None,
    ) -> dict[int, Outcome]:
        """Move streams away from one server, at the same time; return what came of each."""
        if old_server_gone:
            outcomes = [await outcome_of(self._uplinks.give_up(number)) for number in numbers]
        else:
            outcomes = await self._settle(old_url, numbers, timeout_seconds, token)
        moved = f"moved from {old_url} to {self._settings.server.url}"
        return {
            number: (True, moved) if why is None else (False, f"{why}; nothing is changed, try again")
            for number, why in zip(numbers, outcomes, strict=True)
        }

    async def _settle(
        self, old_url: str, numbers: Sequence[int], seconds: float, token: str | None
    ) -> list[str | None]:
        settings = self._settings
        old = old_settings(settings.server, old_url, token)
        try:
            # One request at a time: a second one could not open the embedded store.
            async with (
                self._asking,
                way_to(old, settings.data_dir, settings.journal, self._make_client) as client,
            ):
                settling = (
                    self._uplinks.settle(number, old, client, timeout_seconds=seconds) for number in numbers
                )
                return list(await asyncio.gather(*map(outcome_of, settling)))
        except GatewayError as error:
            return [str(error)] * len(numbers)


async def outcome_of(doing: Coroutine[Any, Any, None]) -> str | None:
    """Wait for it; return why it failed, or None."""
    try:
        await doing
    except GatewayError as error:
        return str(error)
    return None
