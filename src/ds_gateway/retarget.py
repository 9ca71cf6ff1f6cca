"""``ds-gateway resolve``: why a stream stands, and moving one whose last batch is unresolved at another server.

    old server: was the last batch stored? until it is   (HEAD, read back, the same bytes with the same number)
    journal:    resolved, and moved                       one transaction
    new server: everything that came later                a new epoch

A kill anywhere leaves the stream stranded as before, or moved.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.config.credential import Credential
from ds_gateway.config.models import EMBEDDED
from ds_gateway.embedded import FOLDER, EmbeddedServer, options
from ds_gateway.errors import ControlError, GatewayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    import httpx

    from ds_gateway.config.models import JournalSettings, ServerSettings, Settings
    from ds_gateway.uplink import Uplinks, UplinkSnapshot

DEFAULT_TIMEOUT_SECONDS: Final = 60.0
MAX_TIMEOUT_SECONDS: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for."""

    stream: str | None
    """None: every stream that stands."""
    retarget: bool
    old_server_gone: bool
    timeout_seconds: float
    token: str | None
    """For the old server; None: what is configured."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One stream as `resolve` sees it."""

    number: int
    name: str
    uplink: UplinkSnapshot
    old_url: str | None
    """Where its last batch is unresolved; None when that is not why it stands."""


def request_of(arguments: Mapping[str, Any]) -> Request:
    """Check a request of the control socket. Raises `ControlError`."""
    match arguments:
        case {
            "stream": str() | None as stream,
            "retarget": bool(retarget),
            "old_server_gone": bool(gone),
            "seconds": int() | float() as seconds,
            "token": str() | None as token,
        } if 0 < seconds <= MAX_TIMEOUT_SECONDS:
            return Request(stream, retarget, gone, float(seconds), token)
        case _:
            raise ControlError("resolve takes stream, retarget, old_server_gone, seconds and token")


def chosen(standings: Sequence[Standing], request: Request) -> list[Standing]:
    """The streams that are asked for. Raises `ControlError` for a name that there is not.

    And for a token that more than one server would get: each but one would learn another's secret.
    """
    if request.stream is None:
        if request.retarget:
            stranded = [each for each in standings if each.old_url is not None]
            servers = dict.fromkeys(str(each.old_url) for each in stranded)
            if request.token is not None and len(servers) > 1:
                raise ControlError(
                    f"--token-file is for one old server, and these streams have {len(servers)}: "
                    f"{', '.join(servers)}; name one STREAM at a time instead of --all"
                )
            return stranded
        return [each for each in standings if each.uplink.state in {"halted", "parked", "settling"}]
    found = [each for each in standings if each.name == request.stream]
    if not found:
        names = ", ".join(each.name for each in standings) or "none yet"
        raise ControlError(f"there is no stream {request.stream!r}; there are: {names}")
    return found


def choices(standing: Standing, new_url: str) -> list[str]:
    """What an operator can do about a stream, one line each."""
    if standing.old_url is not None:
        old_url = standing.old_url
        return [
            (
                f"--retarget: find out at {old_url} whether the last batch arrived, send it there until it "
                f"did, then go on at {new_url}; nothing is lost or stored twice. That server must answer; "
                "--token-file for a token of its own"
            ),
            (
                f"--retarget --old-server-gone: ask nobody, and send the last batch to {new_url}. There all of it "
                f"is once; that batch may be at {old_url}, too. Only when that server will never be back, "
                f"not when it has another address now: then {new_url} may have the batch already, and would store "
                "it twice; set server.url back or settle at the old address first"
            ),
            f"set server.url back to {old_url} and restart: everything goes on there",
        ]
    if standing.uplink.state in {"halted", "parked"}:
        return ["remove the cause and restart the gateway: it looks again at everything; the records are kept"]
    return ["nothing: it is not halted"]


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
    make_client: Callable[[ServerSettings, httpx.AsyncBaseTransport | None], httpx.AsyncClient],
) -> AsyncIterator[httpx.AsyncClient]:
    """A client for the old server. The embedded one is opened for as long as it is asked, and does not listen."""
    if old.url != EMBEDDED:
        client = make_client(old, None)
        try:
            yield client
        finally:
            await client.aclose()
        return
    if not (Path(data_dir) / FOLDER).is_dir():
        # Opening would make an empty one, where no batch could ever be found.
        raise ControlError(
            f"the streams of the embedded server are not in {data_dir}/{FOLDER}: put them back there"
        )
    embedded = EmbeddedServer(options(data_dir, old, journal, listen=False))
    embedded.start()
    client = make_client(old, embedded.transport())
    try:
        yield client
    finally:
        await client.aclose()
        await embedded.stop()


class Resolver:
    """Answers the verb ``resolve``. Used on the event loop."""

    def __init__(
        self,
        settings: Settings,
        uplinks: Uplinks,
        streams: Callable[[], Sequence[tuple[int, str]]],
        make_client: Callable[[ServerSettings, httpx.AsyncBaseTransport | None], httpx.AsyncClient],
    ) -> None:
        self._settings = settings
        self._uplinks = uplinks
        self._streams = streams
        self._make_client = make_client
        self._asking = asyncio.Lock()

    async def answer(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer one request."""
        request = request_of(arguments)
        standings = chosen(self._standings(), request)
        new_url = self._settings.server.url
        if request.retarget:
            told = await self._retarget(standings, request)
        else:
            told = {}
        return {
            "streams": [
                {
                    "name": each.name,
                    "state": each.uplink.state,
                    "reason": each.uplink.reason,
                    "old_url": each.old_url,
                    "new_url": new_url,
                    "choices": choices(each, new_url),
                    **told.get(each.number, {}),
                }
                for each in standings
            ]
        }

    def _standings(self) -> list[Standing]:
        snapshots, stranded = self._uplinks.snapshots(), self._uplinks.stranded
        return [
            Standing(number, name, snapshots[number], stranded[number].url if number in stranded else None)
            for number, name in self._streams()
            if number in snapshots
        ]

    async def _retarget(self, standings: Sequence[Standing], request: Request) -> dict[int, Mapping[str, Any]]:
        """Move the streams, those of one old server at the same time; return what came of each."""
        outcomes = {each.number: not_stranded(each) for each in standings if each.old_url is None}
        stranded = [each for each in standings if each.old_url is not None]
        for old_url in dict.fromkeys(each.old_url for each in stranded):
            theirs = [each for each in stranded if each.old_url == old_url]
            outcomes.update(await self._leave(old_url or "", theirs, request))
        return {number: {"done": done, "told": text} for number, (done, text) in outcomes.items()}

    async def _leave(
        self, old_url: str, standings: Sequence[Standing], request: Request
    ) -> dict[int, tuple[bool, str]]:
        """Move these streams away from a server."""
        numbers = [each.number for each in standings]
        if request.old_server_gone:
            outcomes = [await outcome_of(self._uplinks.give_up(number)) for number in numbers]
        else:
            outcomes = await self._settle(old_url, numbers, request)
        moved = f"moved from {old_url} to {self._settings.server.url}"
        return {
            number: (True, moved) if why is None else (False, f"{why}; nothing is changed, try again")
            for number, why in zip(numbers, outcomes, strict=True)
        }

    async def _settle(self, old_url: str, numbers: Sequence[int], request: Request) -> list[str | None]:
        settings, seconds = self._settings, request.timeout_seconds
        old = old_settings(settings.server, old_url, request.token)
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


async def outcome_of(moving: Coroutine[Any, Any, None]) -> str | None:
    """Wait for it; return why it failed, or None."""
    try:
        await moving
    except GatewayError as error:
        return str(error)
    return None


def not_stranded(standing: Standing) -> tuple[bool, str]:
    """What becomes of a stream that no other server holds."""
    uplink = standing.uplink
    if uplink.state in {"halted", "parked"}:
        return False, f"it is {uplink.state} for another reason, which --retarget cannot help: {uplink.reason}"
    if uplink.state == "settling":
        return False, "it is being moved already; ds-gateway status shows how far that is"
    return True, f"nothing to do: its records go to {uplink.url}"
