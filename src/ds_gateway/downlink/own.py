"""Commands to the gateway itself, as device ``@gateway``, for boxes that nobody can log in to.

What the control socket's verbs do; only those that ``downlink.gateway_commands`` lists.

    "status"        {"verb": "resolve", "stream": "telemetry/line-7", "action": "retry"}        "reload"
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.commands import Progress
from ds_gateway.downlink.parsing import OWN_DEVICE
from ds_gateway.downlink.ports import GatewayMessage
from ds_gateway.downlink.receipts import MAX_OWN_REPLY_CHARACTERS, MAX_REASON_CHARACTERS
from ds_gateway.errors import ConfigError, GatewayError
from ds_gateway.logs import event, logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from ds_gateway.commands import Delivery
    from ds_gateway.downlink.ports import Route, Routes

    Verb = Callable[[Mapping[str, Any]], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]

_log = logger("downlink")

_RESOLVE_DEFAULTS: Final[Mapping[str, Any]] = {
    "stream": None,
    "action": "show",
    "old_server_gone": False,
    "seconds": 60.0,
    "token": None,
    "skip_to": None,
}
_ROOM_FOR_MORE: Final = 100
"""Characters for saying that there are more mistakes, line ends included."""
_LONG_PARTS: Final = ("devices", "sources", "streams")
"""Left out of an answer that is too long, one after the other."""


class NotAllowedError(ValueError):
    """A command to the gateway that it does not take."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class OwnRoute:
    """The way to the gateway itself."""

    allowed: Collection[str]
    device: str = OWN_DEVICE
    source: str = OWN_DEVICE
    delivery: Delivery = "at_most_once"
    """Skipping records twice would skip others."""
    expires_after_seconds: float = 60.0
    max_rate: float | None = None

    def message(self, payload: Any) -> GatewayMessage:
        """Read what is asked for. Raises `NotAllowedError`."""
        arguments: dict[str, Any] = {}
        match payload:
            case str(verb):
                pass
            case {"verb": str(verb)}:
                arguments = {key: value for key, value in payload.items() if key != "verb"}
            case _:
                raise NotAllowedError('a payload for @gateway is a verb, as "status"', "bad_payload")
        if verb not in self.allowed:
            allowed = ", ".join(self.allowed) or "nothing"
            raise NotAllowedError(
                f"{verb[:40]!r} is not allowed; downlink.gateway_commands allows {allowed}", "not_allowed"
            )
        if "token" in arguments:
            raise NotAllowedError("a token does not belong into a stream of commands", "bad_payload")
        return GatewayMessage(verb, arguments)


class AllRoutes:
    """The devices' routes, and the gateway's own."""

    def __init__(self, routes: Routes, allowed: Collection[str]) -> None:
        self._routes = routes
        self._own = OwnRoute(tuple(allowed))

    def route(self, device: str) -> Route:
        """See `Routes`."""
        return self._own if device == OWN_DEVICE else self._routes.route(device)


async def perform(
    message: GatewayMessage, verbs: Mapping[str, Verb], afterwards: Mapping[str, Callable[[], None]]
) -> Progress:
    """Do what a command to the gateway asks for.

    ``afterwards``: what some verbs do once the receipt is committed.
    """
    verb = verbs.get(message.verb)
    if verb is None:
        return Progress("failed", is_final=True, reason=f"{message.verb} is not supported in this version")
    defaults = _RESOLVE_DEFAULTS if message.verb == "resolve" else {}
    try:
        result = verb({**defaults, **message.arguments})
        if inspect.isawaitable(result):
            result = await result
    except ConfigError as error:
        return Progress("failed", is_final=True, reason=_first(error), code="configuration")
    except GatewayError as error:
        return Progress("failed", is_final=True, reason=str(error))
    except Exception as error:  # noqa: BLE001 - supervision boundary: a verb's defect must not leave its command open
        event(_log, "error", "downlink.verb.failed", verb=message.verb, error=repr(error), exc=error)
        return Progress("failed", is_final=True, reason=f"{error!r}, see the log of the gateway", code="defect")
    then = afterwards.get(message.verb)
    return Progress("acknowledged", is_final=True, reply=_short(result), then=then)


def _first(error: ConfigError) -> str:
    """The first mistakes, as many as a receipt has room for."""
    told: list[str] = []
    for problem in error.problems:
        text = str(problem)[:MAX_REASON_CHARACTERS]
        if told and sum(map(len, told)) + len(text) > MAX_REASON_CHARACTERS - _ROOM_FOR_MORE:
            told.append(f"and {len(error.problems) - len(told)} more: ds-gateway check tells all")
            break
        told.append(text)
    return "\n".join(told)


def _short(result: Mapping[str, Any]) -> str:
    shown = dict(result)
    for part in ("", *_LONG_PARTS):
        if shown.pop(part, None) is not None:
            shown["truncated"] = True
        text = orjson.dumps(shown).decode()
        if len(text) <= MAX_OWN_REPLY_CHARACTERS:
            break
    return text
