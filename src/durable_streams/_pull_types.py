"""The values of the producer's state machine (`_pull`): states, events, commands. Nothing is decided here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durable_streams._producer import Attempt
    from durable_streams._store import Presence, ProducerState, SealedBatch, Survey
    from durable_streams._wire import Answer, Reply


class Stage(Enum):
    """Where a producer is."""

    LOOK = "looking for the stream"
    CREATE = "creating the stream"
    CLAIM = "claiming its epoch"
    PROBE = "asking what the server remembers"
    IDLE = "waiting for records"
    SEND = "sending"
    HEAD = "looking whether an unanswered batch arrived"
    READ = "reading back an unanswered batch"
    CHECK = "asking whether a refused batch is the next one"
    VOUCH = "asking something else, as the stream may not be read, it seems"
    TAIL = "looking how far everything of ours is to be read back"
    SURVEY = "reading back everything of ours that is kept"
    STOPPED = "stopped"


class Stop(Enum):
    """Why a producer stopped, for programs; the text for people comes with it."""

    FENCED = "fenced"
    SERVER_AHEAD = "server_ahead"
    SERVER_BEHIND = "server_behind"
    FORGOTTEN = "forgotten"
    FOREIGN = "foreign"
    NOT_A_PRODUCER_SERVER = "not_a_producer_server"
    CONTENT_TYPE = "content_type"
    MISSING = "missing"
    REFUSED = "refused"
    TOO_LARGE = "too_large"
    CLOSED = "closed"
    GONE = "gone"
    UNREADABLE = "unreadable"
    """The server does not let the stream be read, and a repair must."""
    UNREADABLE_PAGE = "unreadable_page"
    """The server gives something that cannot be read here: too large, nested too deeply, or no JSON."""
    SETTLED = "settled"
    """Nothing is wrong: this was the task of a policy with ``settle``."""

    @property
    def parked(self) -> bool:
        """Whether the stream itself has ended, as opposed to something being wrong with it."""
        return self in {Stop.CLOSED, Stop.GONE}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the producer may do by itself."""

    create: bool = True
    read_back: bool = True
    halt_if_used: bool = False
    """Stop when the server has batches of an epoch that this store never had confirmed: it may be an old copy.
    Without it, or a repair, a higher epoch is claimed and everything is sent."""
    settle: bool = False
    """Stop as soon as nothing is unresolved; begin nothing new. With ``recover`` a repair is nothing new: it
    claims a higher epoch, and what it does not find in the stream is not sent there any more."""
    recover: bool = False
    """Repair what can be repaired without anybody's decision: a server that forgot, went back or has a gap, and a
    batch that is too large. Needs a store that can (`RepairStore`)."""
    fence_on_start: bool = False
    """Claim a higher epoch and repair at every start, whoever wrote with this identity meanwhile."""
    claim: bool = False
    """An operator decided that this store is the one that goes on: claim the identity back, create the stream
    again if it is gone, and repair. What somebody else wrote under this identity stays where it is; a page that
    cannot be read is stepped over, and what may be in it is sent again."""
    bisect: bool = False
    """An operator decided that a batch which the server refuses is halved until the refused record is found; that
    one is set aside."""


@dataclass(frozen=True, slots=True)
class Pull:
    """The whole state. ``stored`` mirrors the disk: it changes together with the command that saves it."""

    stage: Stage
    stored: ProducerState
    policy: Policy
    batch: SealedBatch | None = None
    repeated: bool = False
    """Whether the number being sent may have reached the server before."""
    late: bool = False
    """Whether an attempt was never answered, or by nobody who could know: it may arrive yet."""
    tail: str = ""
    """The stream's end when READ began."""
    closed: bool = False
    """Whether the stream was seen closed while a batch is unresolved."""
    doubted: bool = False
    """Whether the read-back follows a 204: then an absent batch means that somebody else used the number."""
    claims: int = 0
    """Claims in a row that were answered as duplicates."""
    failures: int = 0
    """Failed attempts in a row."""
    trouble: str = ""
    """What the last failed attempt ran into; empty when there is none."""
    stop: Stop | None = None
    repairs: int = 0
    """Repairs in a row without a batch that got through."""
    asides: int = 0
    """Records set aside in a row without a batch that got through."""
    fencing: bool = False
    """Whether a higher epoch is answered by a still higher one: until the first repair of this process is done."""
    due: str = ""
    """Why a repair begins as soon as the stream was seen to take records; empty when none is due."""
    refusal: int | str = 0
    """What the refusals in a row have in common that do not count at once: a status, or what is wrong with a page;
    0: none."""
    refusals: int = 0
    refused_since: float = 0.0
    """Monotonic seconds."""
    vouched: bool = False
    """Whether the stream server was asked something else, and answered, since it was last read, for this batch or
    this repair: then it is the server itself that refuses to be read."""
    expired: bool = False
    """With SURVEY: whether the server keeps nothing from before our oldest anchor: read what there is."""
    rejected: Stop | None = None
    """With CHECK: why the batch was refused."""
    rejection: str = ""
    """The same for people."""
    limit_bytes: int | None = None
    """No batch may be larger: one that was is known to be refused."""


# -- Events ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """The server answered the request of the last command, or did not."""

    answer: Answer
    at: float = 0.0
    """When; monotonic seconds."""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Everything of ours was read back, up to offset ``end``."""

    survey: Survey
    end: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A read-back met a page of the stream server's that cannot be read here."""

    why: str
    at: float = 0.0
    """When; monotonic seconds."""


@dataclass(frozen=True, slots=True)
class PathConfirmed:
    """Whether the way to the stream server is right, as something else that it answered shows."""

    confirmed: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The read-back reached the tail, at offset ``end``."""

    presence: Presence
    end: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """The store sealed a batch; it is durable."""

    batch: SealedBatch


@dataclass(frozen=True, slots=True)
class Done:
    """The store's commit, or the wait, of the last command is over."""


Event = Answered | Found | Surveyed | Unreadable | PathConfirmed | Sealed | Done


# -- Commands --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """HEAD the stream."""


@dataclass(frozen=True, slots=True)
class Put:
    """PUT the stream: create it."""


@dataclass(frozen=True, slots=True)
class PostClaim:
    """POST a fresh claim."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class PostProbe:
    """POST a fresh probe."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class PostBatch:
    """POST the sealed batch, byte for byte."""

    attempt: Attempt
    batch: SealedBatch


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Read from the anchor until ``tail`` and look for the batch's messages."""

    batch: SealedBatch
    anchor: str
    tail: str


@dataclass(frozen=True, slots=True)
class NextBatch:
    """Wait until the store has sealed a batch, of at most ``max_bytes`` if that is given."""

    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SaveAnchor:
    """Commit the first anchor."""

    offset: str


@dataclass(frozen=True, slots=True)
class SaveEpoch:
    """Commit a new, unclaimed epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SaveClaim:
    """Commit that the epoch's claim was confirmed."""

    epoch: int


@dataclass(frozen=True, slots=True)
class BeginRepair:
    """Commit a new, unclaimed epoch, and that everything of ours must be read back before anything is sent."""

    epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class ReadAllBack:
    """Read everything of ours that the store keeps, until ``tail``."""

    tail: str
    expired: bool = False
    """The server does not keep what lies behind the oldest anchor any more: begin at its oldest message."""
    leniently: bool = False
    """Step over pages that cannot be read."""


@dataclass(frozen=True, slots=True)
class SaveRepair:
    """Commit in one transaction what was found: the epoch is claimed, what is missing is to be sent again."""

    survey: Survey
    end: str
    adopt: bool
    """Whether somebody else wrote under this identity, and it is to be kept apart from that."""


@dataclass(frozen=True, slots=True)
class Reseal:
    """Seal the first ``max_records`` of the refused batch under its number. It was never stored."""

    max_records: int


@dataclass(frozen=True, slots=True)
class SetAside:
    """Keep the one record of the refused batch aside, and seal what says so under its number."""

    reason: str


@dataclass(frozen=True, slots=True)
class ConfirmPath:
    """Ask for something else of the same server that is known to be there."""


@dataclass(frozen=True, slots=True)
class Resolve:
    """Commit that the batch is in the stream; ``offset`` lies behind it."""

    batch: SealedBatch
    offset: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait before the next attempt: the back-off of ``failures``, or what ``headers`` ask for.

    ``renew_credentials`` says that the server refused the present ones.
    """

    failures: int
    reply: Reply | None = None
    renew_credentials: bool = False


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop for good in this process."""

    stop: Stop
    reason: str


Command = (
    Head
    | Put
    | PostClaim
    | PostProbe
    | PostBatch
    | ReadBack
    | NextBatch
    | SaveAnchor
    | SaveEpoch
    | SaveClaim
    | BeginRepair
    | ReadAllBack
    | SaveRepair
    | Reseal
    | SetAside
    | ConfirmPath
    | Resolve
    | Wait
    | Halt
)

Step = tuple[Pull, Command]


class IllegalEventError(AssertionError):
    """An event that cannot follow the last command: a defect of the caller. The state did not change."""
