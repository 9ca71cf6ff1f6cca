"""What the gateway makes of bytes, step by step: the same framers and pipelines, without journal and network.

    chunk of a capture -> `SerialTrial` or `MqttTrial` -> `Step`: raw bytes, what was discarded, and of each frame
    its `Outcome`

Time is that of the capture: reports on change and silences are as they were. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from ds_gateway.decoding import UndecodableError, build_decoder, finder
from ds_gateway.framing import build_framer
from ds_gateway.mapping import MqttPipeline, SerialPipeline, TopicPattern
from ds_gateway.records import NANOSECONDS, Frame, Record, Rejected, element
from ds_gateway.serial_port.questions import Questions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ds_gateway.captures import Chunk
    from ds_gateway.config.decoding import DecodeSettings, FieldSettings
    from ds_gateway.config.models import Settings
    from ds_gateway.config.mqtt import MqttSettings
    from ds_gateway.config.serial_port import SerialSettings
    from ds_gateway.decoding.limits import Decoder
    from ds_gateway.framing import Framer

PLACEHOLDER_ID: Final = "ID"
"""Where the journal would put the id, which carries the record's position."""
MAX_KEPT_BYTES: Final = 4096
"""Bytes on the line that are kept for showing, of one step."""


class Reading(Protocol):
    """Settings that say how a payload is read."""

    @property
    def decode(self) -> DecodeSettings:
        """How it is decoded."""
        ...  # pragma: no cover

    @property
    def fields(self) -> dict[str, FieldSettings] | None:
        """What passes, and what is made of it."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one frame or message."""

    frame: bytes
    """What is decoded: without delimiter, marks, check and encoding."""
    device: str
    decoded: bytes = b""
    """JSON object before any transform; empty where nothing could be decoded."""
    fields: Mapping[str, FieldSettings] | None = None
    """The transforms, by field."""
    record: bytes = b""
    """The final record with a placeholder for its id; empty where there is none."""
    stream: str = ""
    refused: str = ""
    """Why it would be in the quarantine."""
    unreported: str = ""
    """Why it was read and is no record."""
    untimed: str = ""
    """Why the payload's own time could not be read; the record has that of its reception."""


@dataclass(frozen=True, slots=True)
class Step:
    """What came, and what it became."""

    after_seconds: float
    raw: bytes
    """As it was on the line, at most `MAX_KEPT_BYTES`; the payload of a message."""
    raw_bytes: int
    outcomes: Sequence[Outcome] = ()
    topic: str | None = None
    retain: bool = False
    is_sent: bool = False
    discarded: Sequence[str] = ()
    """What was damaged or too long."""
    notes: Sequence[str] = ()

    @property
    def is_refused(self) -> bool:
        """Whether something in it did not become a reading, and should have."""
        return bool(self.discarded) or any(each.refused for each in self.outcomes)


class Trial(Protocol):
    """Takes the chunks of one source in their order."""

    def feed(self, chunk: Chunk) -> Iterator[Step]:
        """What this chunk becomes; to be exhausted before the next call."""
        ...  # pragma: no cover

    def quiet(self, now: float) -> Iterator[Step]:
        """Nothing came until now (seconds since the beginning)."""
        ...  # pragma: no cover

    def end(self) -> Iterator[Step]:
        """Nothing more comes."""
        ...  # pragma: no cover


class _Judge:
    """What a pipeline's answer means."""

    def __init__(self, pipeline: MqttPipeline | SerialPipeline) -> None:
        self._pipeline = pipeline
        self._decoders: dict[tuple[int, bool], Decoder] = {}

    def outcome(
        self, made: Record | Rejected | None, frame: bytes, reading: Reading | None, device: str, untimed: int
    ) -> Outcome:
        """``device`` counts where ``made`` does not say it; ``untimed``: how many there were before."""
        decoded = b"" if reading is None else self._decoded(reading, frame, fields=False)
        fields = None if reading is None else reading.fields
        outcome = Outcome(frame, device, decoded, fields)
        if isinstance(made, Rejected):
            return replace(outcome, device=made.device, refused=made.reason)
        if isinstance(made, Record):
            return replace(
                outcome,
                device=made.device,
                record=element(PLACEHOLDER_ID, made.tail),
                stream=made.stream,
                untimed=self._untimed(made.device, untimed),
            )
        assert reading is not None, "only what a device's settings say is not reported"
        if not self._decoded(reading, frame, fields=True):
            only = reading.decode.only
            is_header = only is None or finder(only)(frame)
            why = "the names of the columns" if is_header else "decode.only finds nothing in it"
            return replace(outcome, unreported=f"it is no reading ({why})")
        return replace(outcome, unreported="report: nothing changed enough, or it is too soon")

    def untimed(self, device: str) -> int:
        """How many readings of the device had no time of their own that could be read."""
        last = self._pipeline.devices().get(device)
        return 0 if last is None else last.untimed

    def _decoded(self, reading: Reading, payload: bytes, *, fields: bool) -> bytes:
        decoder = self._decoders.get((id(reading), fields))
        if decoder is None:
            decoder = build_decoder(reading.decode, reading.fields if fields else None)
            self._decoders[id(reading), fields] = decoder
        try:
            return decoder(payload)
        except UndecodableError:
            return b""

    def _untimed(self, device: str, before: int) -> str:
        last = self._pipeline.devices().get(device)
        return last.last_untimed if last is not None and last.untimed > before else ""


class MqttTrial:
    """Messages of one broker."""

    def __init__(self, name: str, settings: Settings, broker: MqttSettings, *, started_ns: int) -> None:
        self._now = 0.0
        self._started_ns = started_ns
        self._devices = [(TopicPattern(each.topic), each) for each in broker.devices]
        self._pipeline = MqttPipeline(
            name,
            settings.gateway.id,
            broker.devices,
            settings.limits,
            monotonic=lambda: self._now,
            envelope=settings.gateway.envelope,
        )
        self._judge = _Judge(self._pipeline)

    def feed(self, chunk: Chunk) -> Iterator[Step]:
        """One message."""
        self._now = chunk.after_seconds
        if chunk.lost_bytes:
            yield _missing(chunk)
            return
        assert chunk.topic is not None, "a message has a topic"
        reading = next((each for pattern, each in self._devices if pattern.match(chunk.topic) is not None), None)
        before = {name: last.untimed for name, last in self._pipeline.devices().items()}
        made = self._pipeline(chunk.topic, chunk.raw, _time_ns(self._started_ns, self._now))
        device = made.device if made is not None else ""
        outcome = self._judge.outcome(made, chunk.raw, reading, device, before.get(device, 0))
        yield Step(
            self._now,
            chunk.raw[:MAX_KEPT_BYTES],
            len(chunk.raw),
            (outcome,),
            topic=chunk.topic,
            retain=chunk.retain,
        )

    def quiet(self, now: float) -> Iterator[Step]:
        """Silence means nothing."""
        self._now = now
        yield from ()

    def end(self) -> Iterator[Step]:
        """Nothing is left."""
        yield from ()


class SerialTrial:
    """Bytes of one port.

    ``at_boundary``: they begin with a frame; otherwise anywhere, as after the opening of a port. ``device``: where
    devices are asked, the bytes answer what this one is asked; empty: all, in turn. Where the chunks say what was
    sent, they say who answers.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        port: SerialSettings,
        *,
        started_ns: int,
        at_boundary: bool,
        device: str = "",
    ) -> None:
        self._now = 0.0
        self._started_ns = started_ns
        self._pipeline = SerialPipeline(
            name, settings.gateway.id, port, monotonic=lambda: self._now, envelope=settings.gateway.envelope
        )
        self._judge = _Judge(self._pipeline)
        self._keeps_unasked = port.keeps_unasked
        first = next(device for _, device in port.each_device(name))
        asked = port.asked(name)
        self._readings: list[tuple[str, Reading]] = [
            (first.name, first),
            *((each.name, each) for each in asked),
        ]
        wanted = {route for route, each in enumerate(asked, 1) if device in {each.name, each.device.name}}
        self._questions = Questions(name, port, wanted)
        self._settings = port
        self._framer = build_framer(port.framing)
        self._framer.reset(discard_to_boundary=not at_boundary)
        self._is_first = not at_boundary
        self._silent_at = self._framer.gap_seconds
        self._kept = bytearray()
        self._kept_bytes = 0

    def feed(self, chunk: Chunk) -> Iterator[Step]:
        """Bytes that were read, or written."""
        yield from self.quiet(chunk.after_seconds)
        self._now = chunk.after_seconds
        if chunk.lost_bytes:
            self._framer.reset(discard_to_boundary=True)
            self._forget()
            yield _missing(chunk)
        elif chunk.is_sent:
            yield Step(self._now, chunk.raw[:MAX_KEPT_BYTES], len(chunk.raw), is_sent=True)
            self._questions.asked(chunk.raw, self._framer, self._now)
        else:
            # One by one, so that each frame is shown with its own bytes: how they are chunked changes no frame.
            for index in range(len(chunk.raw)):
                yield from self._take(chunk.raw[index : index + 1])

    def quiet(self, now: float) -> Iterator[Step]:
        """A silence may complete a frame."""
        if self._silent_at is not None and now >= self._silent_at:
            self._now = max(self._now, self._silent_at)
            self._silent_at = None
            yield from self._step(self._framer, self._framer.idle)
        self._now = max(self._now, now)

    def end(self) -> Iterator[Step]:
        """What is left is told."""
        if self._framer.gap_seconds is not None:
            yield from self._step(self._framer, self._framer.idle)
        if self._kept:
            framer = self._questions.framer or self._framer
            held = framer.buffered_bytes
            note = (
                f"{held} bytes are no whole frame: its end has not come"
                if held
                else "no frame: they belong to none, or come before the first boundary"
            )
            yield Step(self._now, bytes(self._kept), self._kept_bytes, notes=(note,))
            self._forget()

    def _take(self, byte: bytes) -> Iterator[Step]:
        self._questions.prompt(self._framer, self._now)
        framer = self._questions.framer or self._framer
        self._kept_bytes += 1
        if len(self._kept) < MAX_KEPT_BYTES:
            self._kept += byte
        if framer.gap_seconds is not None:
            self._silent_at = self._now + framer.gap_seconds
        yield from self._step(framer, lambda: framer.feed(byte))

    def _step(self, framer: Framer, get: Callable[[], list[bytes]]) -> Iterator[Step]:
        overlong, bad_checks, resyncs = framer.overlong, framer.bad_checks, framer.resyncs
        frames = get()
        discarded = [
            *_times(framer.overlong - overlong, "longer than max_bytes, or with a wrong length"),
            *_times(framer.bad_checks - bad_checks, "damaged: the check or the encoding does not hold"),
        ]
        others = self._questions.heard(frames, framer.begun_bytes)
        outcomes, notes = [], list(self._questions.take_notes())
        if framer.resyncs > resyncs:
            notes.append("bytes that belong to no frame are skipped")
        for frame in others:
            if self._keeps_unasked:
                outcomes.append(self._outcome(Frame(frame, self._time_ns)))
            else:
                notes.append(f"answers nothing that is asked here, and is dropped: {frame[:64]!r}")
        outcomes += [
            self._outcome(Frame(frame, self._time_ns, route)) for route, frame in self._questions.take_answers()
        ]
        if not (outcomes or discarded or notes):
            return
        if self._is_first and self._lost_a_tail(len(frames)):
            notes.append(
                "what comes before the first boundary may be a tail, and is no frame, as after each opening"
            )
        self._is_first = False
        yield Step(self._now, bytes(self._kept), self._kept_bytes, outcomes, discarded=discarded, notes=notes)
        self._forget()

    def _outcome(self, frame: Frame) -> Outcome:
        device, reading = self._readings[frame.route]
        untimed = self._judge.untimed(device)
        return self._judge.outcome(self._pipeline(frame), frame.data, reading, device, untimed)

    def _lost_a_tail(self, frames: int) -> bool:
        """Whether there were more frames if the first byte began one."""
        if self._questions:
            return False
        framer = build_framer(self._settings.framing)
        return len(framer.feed(bytes(self._kept))) > frames

    def _forget(self) -> None:
        self._kept.clear()
        self._kept_bytes = 0

    @property
    def _time_ns(self) -> int:
        return _time_ns(self._started_ns, self._now)


def _missing(chunk: Chunk) -> Step:
    return Step(chunk.after_seconds, b"", 0, notes=(f"{chunk.lost_bytes} bytes are missing in the capture here",))


def _time_ns(started_ns: int, after_seconds: float) -> int:
    return started_ns + round(after_seconds * NANOSECONDS)


def _times(count: int, what: str) -> list[str]:
    return [f"{count} {'frame' if count == 1 else 'frames'} {what}"] if count else []
