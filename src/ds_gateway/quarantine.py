"""``ds-gateway quarantine``: looks into the quarantine, and reads once more what is in it.

The same for a running gateway, which is asked through the control socket, and for a command without one.

A retry takes the present configuration: the pipeline of the source (and topic) reads the kept bytes as if they
came now, with the time when they came. What becomes a record is accepted in the transaction that takes it out of
the quarantine; what does not stays, with the reason of today.
"""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ds_gateway.errors import ControlError, JournalDamagedError
from ds_gateway.journal.quarantine import Quarantined, read_quarantine
from ds_gateway.logs import event, logger
from ds_gateway.mapping import MqttPipeline, SerialPipeline
from ds_gateway.records import Item, Retried, RetryOutcome, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ds_gateway.journal import Intake

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 1000
STEP_ROWS: Final = 200
STEP_BYTES: Final = 2 * 1024 * 1024
"""The most that one answer carries, or one retry takes: a quarantine has up to 16 MiB."""
COMMIT_SECONDS: Final = 30.0

MAX_TOPIC_SHOWN: Final = 256

_log = logger("quarantine")

_REFUSED_RECORD: Final = "stream "
"""How the source of a record begins that a server refused; no source has a blank in its name."""
_CUT: Final = "bytes are kept"

Pipelines = dict[str, MqttPipeline | SerialPipeline]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of them. Empty: all."""

    numbers: frozenset[int] = frozenset()
    source: str = ""
    device: str = ""
    reason: str = ""
    """Words in the reason, in whatever case."""

    def has(self, each: Quarantined) -> bool:
        """Whether this one is among them."""
        return (
            (not self.numbers or each.number in self.numbers)
            and (not self.source or each.source == self.source)
            and (not self.device or each.device == self.device)
            and self.reason.lower() in each.reason.lower()
        )


@dataclass(slots=True)
class _Group:
    """Items of one retry on their way through the journal. Counted down in the writer's thread."""

    left: int
    done: threading.Event = field(default_factory=threading.Event)

    def take(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.done.set()


class Quarantine:
    """Answers about one data folder. ``pipelines`` are made for it, and used in one thread at a time."""

    def __init__(
        self, directory: Path, pipelines: Callable[[], Pipelines], make_intake: Callable[..., Intake]
    ) -> None:
        """``make_intake`` takes ``on_committed``, and is called when something is tried again the first time."""
        self._directory = directory
        self._make_pipelines = pipelines
        self._make_intake = make_intake
        self._pipelines: Pipelines | None = None
        self._intake: Intake | None = None
        self._lock = threading.Lock()

    async def answer(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The control socket's verb ``quarantine``. Raises `ControlError` and `JournalError`."""
        return await asyncio.to_thread(self.do, arguments)

    def do(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One request, in this thread. Raises `ControlError` and `JournalError`."""
        match arguments:
            case {"action": "ls", "limit": int(limit)} if 0 < limit <= MAX_LIMIT:
                return listing(self._directory, _wanted(arguments), limit)
            case {"action": "show", "number": int(number)}:
                return show(self._directory, number)
            case {"action": "page", "after": int(after)}:
                return page(self._directory, _wanted(arguments), after)
            case {"action": "retry", "after": int(after)}:
                return self.retry(_wanted(arguments), after)
            case _:
                raise ControlError(
                    f"quarantine takes an action: ls with limit (1 to {MAX_LIMIT}), show with number, page or "
                    "retry with after"
                )

    def retry(self, wanted: Wanted, after: int) -> dict[str, Any]:
        """Read some of them once more, behind a number; ``next`` is where to go on, or None.

        Raises `ControlError` when the journal takes nothing now.
        """
        with self._lock:
            found, following = _step(self._directory, wanted, after)
            if self._pipelines is None:
                self._pipelines = self._make_pipelines()
            tried: list[tuple[Quarantined, Retried]] = []
            impossible: list[dict[str, Any]] = []
            for each in found:
                if isinstance(each, JournalDamagedError):
                    impossible.append({"number": None, "device": "", "reason": str(each)})
                elif why := why_not(each, self._pipelines):
                    impossible.append({"number": each.number, "device": each.device, "reason": why})
                else:
                    tried.append((each, Retried(each.number, _read(each, self._pipelines), RetryOutcome())))
            self._commit([retried for _, retried in tried])
        words = [retried.outcome.word for _, retried in tried]
        event(
            _log,
            "info",
            "quarantine.retried",
            accepted=words.count("accepted"),
            not_reported=words.count("not_reported"),
            kept=words.count("kept"),
            impossible=len(impossible),
        )
        return {
            "accepted": words.count("accepted"),
            "not_reported": words.count("not_reported"),
            "no_room": words.count("no_room"),
            "kept": [
                {"number": each.number, "device": each.device, "reason": getattr(retried.now, "reason", "")}
                for each, retried in tried
                if retried.outcome.word == "kept"
            ],
            "impossible": impossible,
            "next": following,
        }

    def _commit(self, retried: Sequence[Retried]) -> None:
        """Wait until the journal has them. What is not taken in time is taken later, once."""
        if not retried:
            return
        if self._intake is None:
            self._intake = self._make_intake(on_committed=_settle)
        group = _Group(len(retried))
        deadline = time.monotonic() + COMMIT_SECONDS
        if not self._intake.offer([Item(each, token=group) for each in retried]) or not group.done.wait(
            max(deadline - time.monotonic(), 0)
        ):
            raise ControlError(
                f"the journal took nothing within {COMMIT_SECONDS:g} s: it is full, or its disk is slow (see "
                "ds-gateway status); what waits is taken once there is room, and nothing twice: try again then"
            )


def _settle(items: Sequence[Item], _commit: int) -> None:
    for item in items:
        if isinstance(item.token, _Group):
            item.token.take()


def why_not(each: Quarantined, pipelines: Pipelines) -> str:
    """Why it cannot be read again; empty if it can."""
    if each.source.startswith(_REFUSED_RECORD):
        return "is a record that the server refused, not a payload: export it"
    if each.reason.endswith(_CUT):
        return "is not whole: it was too large, and only its beginning is kept"
    pipeline = pipelines.get(each.source)
    if pipeline is None:
        return f"no source has the name {each.source} now: give the source that name, or export it"
    if isinstance(pipeline, MqttPipeline) and not each.topic:
        return "its topic is not known: an earlier version put it aside, without its topic; export it"
    return ""


def _read(each: Quarantined, pipelines: Pipelines) -> Any:
    pipeline = pipelines[each.source]
    if isinstance(pipeline, MqttPipeline):
        return pipeline(each.topic, each.raw, each.time_ns)
    return pipeline.again(each.device, each.raw, each.time_ns)


def listing(directory: Path, wanted: Wanted, limit: int) -> dict[str, Any]:
    """The newest of them without their bytes, and how many there are. Raises `JournalError`."""
    newest: list[dict[str, Any]] = []
    count = size = 0
    damaged: list[str] = []
    for _, each in read_quarantine(directory, newest_first=True):
        if isinstance(each, JournalDamagedError):
            damaged.append(str(each))
        elif wanted.has(each):
            count += 1
            size += len(each.raw)
            if len(newest) < limit:
                newest.append({**_told(each), "topic": each.topic[:MAX_TOPIC_SHOWN] or None})
    return {"count": count, "bytes": size, "damaged": damaged[:limit], "payloads": newest}


def show(directory: Path, number: int) -> dict[str, Any]:
    """One of them with its bytes (base64). Raises `ControlError` if it is not there, `JournalError`."""
    for found, each in read_quarantine(directory, after=number - 1):
        if found != number:
            break
        if isinstance(each, JournalDamagedError):
            raise each
        return {**_told(each), "raw": base64.b64encode(each.raw).decode()}
    raise ControlError(
        f"there is no number {number} in the quarantine: it was taken back, or gave way to newer ones; "
        "ds-gateway quarantine ls shows what there is"
    )


def page(directory: Path, wanted: Wanted, after: int) -> dict[str, Any]:
    """Some of them with their bytes (base64), the oldest first, behind a number; ``next``: where to go on."""
    found, following = _step(directory, wanted, after)
    payloads = [
        {**_told(each), "raw": base64.b64encode(each.raw).decode()}
        for each in found
        if isinstance(each, Quarantined)
    ]
    damaged = [str(each) for each in found if not isinstance(each, Quarantined)]
    return {"payloads": payloads, "damaged": damaged, "next": following}


def _step(
    directory: Path, wanted: Wanted, after: int
) -> tuple[list[Quarantined | JournalDamagedError], int | None]:
    found: list[Quarantined | JournalDamagedError] = []
    size, last = 0, after
    for number, each in read_quarantine(directory, after=after):
        weight = 0 if isinstance(each, JournalDamagedError) else len(each.raw)
        if isinstance(each, JournalDamagedError) or wanted.has(each):
            if len(found) >= STEP_ROWS or (found and size + weight > STEP_BYTES):
                return found, last
            found.append(each)
            size += weight
        last = number
    return found, None


def _told(each: Quarantined) -> dict[str, Any]:
    return {
        "number": each.number,
        "time": rfc3339(each.time_ns),
        "source": each.source,
        "device": each.device,
        "topic": each.topic or None,
        "reason": each.reason,
        "bytes": len(each.raw),
    }


def _wanted(arguments: Mapping[str, Any]) -> Wanted:
    match arguments:
        case {
            "numbers": list(numbers),
            "source": str(source),
            "device": str(device),
            "reason": str(reason),
        } if all(isinstance(number, int) for number in numbers):
            return Wanted(frozenset(numbers), source, device, reason)
        case _:
            raise ControlError("quarantine takes numbers, source, device and reason")


def steps(ask: Callable[[int], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All answers of a request that goes on behind ``next``."""
    after: int | None = 0
    while after is not None:
        answer = ask(after)
        yield answer
        after = answer["next"]
