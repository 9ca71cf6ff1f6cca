"""``ds-gateway resolve``: why a stream stands, what each choice would do, and doing it.

| action   | does                                                                                          |
|----------|-----------------------------------------------------------------------------------------------|
| show     | nothing                                                                                       |
| retry    | looks again at everything, as a restart does                                                  |
| claim    | takes the identity back under a higher epoch, reads everything back, sends what is missing    |
| retarget | settles the last batch at the old server, and goes on at the configured one (`retarget`)      |
| bisect   | halves a refused batch until the refused record is found; that one is set aside               |
| skip     | sets everything before a position aside                                                       |

Nothing is deleted: what is set aside goes to the quarantine or into a file, and the stream has a loss record.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.errors import ControlError, GatewayError
from ds_gateway.retarget import Mover, Outcome
from ds_gateway.uplink import DAMAGED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ds_gateway.config.models import Settings
    from ds_gateway.retarget import MakeClient
    from ds_gateway.uplink import Uplinks, UplinkSnapshot

DEFAULT_TIMEOUT_SECONDS: Final = 60.0
MAX_TIMEOUT_SECONDS: Final = 24 * 3600.0
_LOOK_AGAIN_SECONDS: Final = 0.05


class Action(Enum):
    """What is asked for."""

    SHOW = "show"
    RETRY = "retry"
    CLAIM = "claim"
    RETARGET = "retarget"
    BISECT = "bisect"
    SKIP = "skip"

    @property
    def needs_a_name(self) -> bool:
        """Whether it is a decision about one stream, never about all."""
        return self in {Action.CLAIM, Action.BISECT, Action.SKIP}

    @property
    def option(self) -> str:
        """How the command line calls it."""
        return "--skip-to" if self is Action.SKIP else f"--{self.value}"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for."""

    stream: str | None
    """None: every stream that stands."""
    action: Action = Action.SHOW
    old_server_gone: bool = False
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    token: str | None = None
    """For the old server; None: what is configured."""
    skip_to: int | None = None
    """With SKIP: the first position that is kept; None: everything is skipped."""


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
            "action": str(word),
            "old_server_gone": bool(gone),
            "seconds": int() | float() as seconds,
            "token": str() | None as token,
            "skip_to": int() | None as skip_to,
        } if (
            # A boolean is an int to a pattern.
            not isinstance(seconds, bool)
            and 0 < seconds <= MAX_TIMEOUT_SECONDS
            and not isinstance(skip_to, bool)
            and (skip_to is None or skip_to > 0)
            and word in {each.value for each in Action}
        ):
            action = Action(word)
            if action.needs_a_name and stream is None:
                raise ControlError(f"{action.option} is a decision about one stream: name it")
            return Request(stream, action, gone, float(seconds), token, skip_to)
        case _:
            raise ControlError("resolve takes stream, action, old_server_gone, seconds, token and skip_to")


def chosen(standings: Sequence[Standing], request: Request) -> list[Standing]:
    """The streams that are asked for. Raises `ControlError` for a name that there is not.

    And for a token that more than one server would get: each but one would learn another's secret.
    """
    if request.stream is None:
        if request.action is Action.RETARGET:
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


_RETRY: Final = "--retry: remove the cause first, then this looks again at everything, as a restart does"
_CLAIM_BACK: Final = (
    "--claim: this gateway is the one that goes on. It claims the identity back, so that the other one is fenced "
    "and stops; reads everything back; sends what is missing. What the other one wrote stays in the stream. "
    "Switch the other one off first, or give it an identity of its own (another gateway.id and an empty data_dir)"
)
_REPAIR: Final = (
    "--claim: claim a higher epoch, read everything back that is kept here, send again what is missing. What "
    "cannot be found out is sent again, so that a reader who has it already may get it twice"
)
_REPAIR_DAMAGED: Final = (
    "--retry: read everything back that is kept here, and send again what is missing and can still be read; a "
    "loss record says what cannot"
)
_CREATE_AGAIN: Final = (
    "--claim: create the stream again, and send everything that is kept here. What was in it before and is not "
    "kept is gone; a loss record says which positions"
)
_STEP_OVER: Final = (
    "--claim: claim a higher epoch, read everything back that is kept here, step over the pages that cannot be "
    "read, send again what is not found. What is in such a page is sent again, so that a reader who has it "
    "already may get it twice"
)
_BISECT: Final = (
    "--bisect: send smaller and smaller parts until the refused record is found; that one goes to the quarantine, "
    "a loss record takes its place, all others are sent"
)
_SKIP: Final = (
    "--skip-to POSITION (or `end`): set everything before that position aside in a file in data_dir/skipped; a "
    "loss record takes its place in the stream"
)

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "fenced": (_CLAIM_BACK, _RETRY),
    "server_ahead": (_CLAIM_BACK, _RETRY),
    "foreign": (_CLAIM_BACK, _RETRY),
    "server_behind": (_REPAIR, _RETRY),
    "forgotten": (_REPAIR, _RETRY),
    "missing": (_CREATE_AGAIN, _RETRY),
    "gone": (_CREATE_AGAIN, _SKIP, _RETRY),
    "closed": (_SKIP, _RETRY),
    "refused": (_BISECT, _SKIP, _RETRY),
    "too_large": (_BISECT, _SKIP, _RETRY),
    "unreadable_page": (_STEP_OVER, _SKIP, _RETRY),
    DAMAGED: (_REPAIR_DAMAGED,),
}


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
        return list(_CHOICES.get(standing.uplink.stop, (_RETRY,)))
    return ["nothing: it is not halted"]


class Resolver:
    """Answers the verb ``resolve``. Used on the event loop."""

    def __init__(
        self,
        settings: Settings,
        uplinks: Uplinks,
        streams: Callable[[], Sequence[tuple[int, str]]],
        make_client: MakeClient,
        in_journal: Callable[[int], int],
    ) -> None:
        """``in_journal`` says how many records of a stream are not known to be in it."""
        self._in_journal = in_journal
        self._new_url = settings.server.url
        self._uplinks = uplinks
        self._streams = streams
        self._mover = Mover(settings, uplinks, make_client)

    async def answer(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer one request."""
        request = request_of(arguments)
        standings = chosen(self._standings(), request)
        told = await self._do(standings, request)
        return {
            "streams": [
                {
                    "name": each.name,
                    "state": each.uplink.state,
                    "reason": each.uplink.reason,
                    "stop": each.uplink.stop,
                    "old_url": each.old_url,
                    "new_url": self._new_url,
                    "choices": choices(each, self._new_url),
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

    async def _do(self, standings: Sequence[Standing], request: Request) -> dict[int, Mapping[str, Any]]:
        match request.action:
            case Action.SHOW:
                return {}
            case Action.RETARGET:
                outcomes = await self._retarget(standings, request)
            case _:
                doing = (self._decide(each, request) for each in standings)
                numbers = [each.number for each in standings]
                outcomes = dict(zip(numbers, await asyncio.gather(*doing), strict=True))
        return {number: {"done": done, "told": text} for number, (done, text) in outcomes.items()}

    async def _retarget(self, standings: Sequence[Standing], request: Request) -> dict[int, Outcome]:
        """Move the streams, those of one old server at the same time."""
        outcomes = {each.number: not_stranded(each) for each in standings if each.old_url is None}
        stranded = [each for each in standings if each.old_url is not None]
        for old_url in dict.fromkeys(each.old_url or "" for each in stranded):
            outcomes |= await self._mover.move(
                old_url,
                [each.number for each in stranded if each.old_url == old_url],
                old_server_gone=request.old_server_gone,
                timeout_seconds=request.timeout_seconds,
                token=request.token,
            )
        return outcomes

    async def _decide(self, standing: Standing, request: Request) -> Outcome:
        """Do what was decided about one stream, and say how it stands then."""
        if (why := not_offered(standing, request.action, self._new_url)) is not None:
            return False, why
        try:
            told = await self._decided(standing.number, request)
        except GatewayError as error:
            return False, str(error)
        done, how = await self._how_it_went(standing.number, request.timeout_seconds)
        # What was set aside was, however the stream stands now.
        return (True, f"{told}; {how}") if told else (done, how)

    async def _decided(self, number: int, request: Request) -> str:
        """Do it; return what there is to tell, beside how the stream stands then."""
        match request.action:
            case Action.SKIP:
                skipped = await self._uplinks.skip(number, request.skip_to)
                if not skipped.files:
                    return ""
                return f"{skipped.count} records set aside in {', '.join(map(str, skipped.files))}"
            case action:
                claim, bisect = action is Action.CLAIM, action is Action.BISECT
                await self._uplinks.restart(number, claim=claim, bisect=bisect)
                return ""

    async def _how_it_went(self, number: int, timeout_seconds: float) -> Outcome:
        """Wait until the stream is past its start, or has stopped again."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            uplink = self._uplinks.snapshots()[number]
            match uplink.state:
                case "idle" if not self._in_journal(number):
                    return True, "it goes on: everything accepted is in the stream"
                case "sending":
                    return True, "it goes on"
                case "halted" | "parked":
                    return False, f"{uplink.state} again: {uplink.reason}"
                case _ if time.monotonic() >= deadline:
                    return False, f"it is {uplink.state}{f': {uplink.reason}' if uplink.reason else ''}"
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)


def not_offered(standing: Standing, action: Action, new_url: str) -> str | None:
    """Why a decision is refused that `choices` does not offer for a stream that stands; None when it does."""
    uplink = standing.uplink
    if action is Action.RETRY or uplink.state not in {"halted", "parked"}:
        return None  # a stream that goes on says so itself
    offered = choices(standing, new_url)
    if any(each.startswith(action.option) for each in offered):
        return None
    ways = "; ".join(each.partition(":")[0] for each in offered)
    return f"{action.option} does not help here: it is {uplink.state}: {uplink.reason}. What can be done: {ways}"


def not_stranded(standing: Standing) -> Outcome:
    """What becomes of a stream that no other server holds."""
    uplink = standing.uplink
    if uplink.state in {"halted", "parked"}:
        return False, f"it is {uplink.state} for another reason, which --retarget cannot help: {uplink.reason}"
    if uplink.state == "settling":
        return False, "it is being moved already; ds-gateway status shows how far that is"
    return True, f"nothing to do: its records go to {uplink.url}"
