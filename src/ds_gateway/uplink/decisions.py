"""What is decided about a stream's uplink, and the words that an operator reads. Pure: no I/O, no clock, no tasks.

| who decides        | policy of the next run | may be done while the stream is                |
|--------------------|------------------------|------------------------------------------------|
| the configuration  | `usual`                | anything                                       |
| an operator        | `decided`              | halted, parked; to look again also idle, waiting |
| the hourly look    | `looking_again`        | idle                                           |
| an import          | `importing`            | anything                                       |
| a move (`settle`)  | `settling`             | halted, as its last batch is at another server |
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from durable_streams import (
    BeginRepair,
    Command,
    Halt,
    Policy,
    PostBatch,
    Pull,
    Resolve,
    SaveRepair,
    SetAside,
    Stage,
    Stop,
    Wait,
)

if TYPE_CHECKING:
    from ds_gateway.config.models import ExactlyOnceSettings
    from ds_gateway.config.server import ServerSettings

DAMAGED: Final = "damaged"
STRANDED: Final = "stranded"
"""Why a stream is halted where no server has said anything: a row cannot be read; ``server.url`` was changed."""
STANDING: Final = frozenset({"halted", "parked"})
_LOOKS_AGAIN: Final = STANDING | {"idle", "waiting"}

SKIPPING: Final = "an operator skips records: they are being set aside"
MOVED_ALREADY: Final = "it is being moved already; ds-gateway status shows how far that is"
UNRESOLVED_STILL: Final = "a batch is unresolved still; try again"


def usual(server: ServerSettings, exactly_once: ExactlyOnceSettings) -> Policy:
    """What a producer may do by itself."""
    return Policy(
        create=server.create,
        read_back=exactly_once.read_back,
        halt_if_used=True,
        recover=exactly_once.recover == "auto",
        fence_on_start=exactly_once.fence_on_start,
    )


def fencing(policy: Policy) -> Policy:
    """What it may do where nobody else must write under this identity: to claim at every start."""
    return replace(policy, fence_on_start=True)


def importing(policy: Policy) -> Policy:
    """What it may do with what was imported: a copy of it that was imported elsewhere is not to be fenced."""
    return replace(policy, fence_on_start=False)


def decided(policy: Policy, *, claim: bool, bisect: bool) -> Policy:
    """What it may do as an operator decided: to claim is to repair."""
    return replace(policy, claim=claim, bisect=bisect, recover=policy.recover or claim)


def looking_again(policy: Policy) -> Policy:
    """What it may do when it looks whether anything happened meanwhile."""
    # Nothing says that somebody else wrote meanwhile: no reason to fence anybody.
    return replace(policy, fence_on_start=False)


def settling(policy: Policy) -> Policy:
    """What it may do at a server that is to be left."""
    return replace(policy, create=False, settle=True)


def why_not(state: str, *, decides: bool) -> str | None:
    """Why an operator's choice is refused for a stream in this state; None when it is not.

    ``decides``: it is more than to look again.
    """
    return None if state in (STANDING if decides else _LOOKS_AGAIN) else f"it is {state}, not halted"


def standing(halt: Halt) -> str:
    """The state of a stream that stopped."""
    return "parked" if halt.stop.parked else "halted"


def shown(pull: Pull, command: Command, state: str, reason: str) -> tuple[str, str]:
    """The state and the reason to show with a producer's next command, after these."""
    match command:
        case Halt() | SetAside():
            return state, reason  # told when the run ends; goes on
        case Wait(renew_credentials=True):
            return "waiting", f"{pull.trouble}; see server.token and server.headers, which are read again"
        case Wait():
            return "waiting", pull.trouble
        case Resolve():
            return "idle", ""
        case BeginRepair(why=why):
            return "repairing", why
        case SaveRepair():
            return "starting", ""
        case _ if pull.trouble:
            return state, reason
        case _ if pull.stored.repairing:
            return "repairing", reason
        case PostBatch():
            return "sending", ""
        case _:
            return "idle" if pull.stage is Stage.IDLE else "starting", ""


def asking(url: str) -> str:
    """What is told while a stream is settled."""
    return f"asking {url}"


def why_unsettled(halt: Halt, url: str) -> str | None:
    """Why a server that is to be left did not settle the last batch; None when it did."""
    return None if halt.stop is Stop.SETTLED else f"{url} does not settle it: {halt.reason}"


def why_not_in_time(url: str, timeout_seconds: float, last_error: str) -> str:
    """Why nothing is known of a server that is to be left."""
    return f"{url} did not settle it within {timeout_seconds:g} s: {last_error or 'no answer yet'}"


def why_damaged(error: Exception) -> str:
    """Why a stream stands of which a row cannot be read."""
    return f"{error}; ds-gateway resolve shows what can be done"


def why_stranded(name: str, url: str) -> str:
    """Why a stream of another server than the configured one is not sent, and the ways out."""
    return (
        f"a batch is unresolved at {url}: nobody knows whether it arrived there. `ds-gateway resolve "
        f"{shlex.quote(name)} --retarget` finds out there, then goes on at the server that is configured now; "
        "or set server.url back"
    )
