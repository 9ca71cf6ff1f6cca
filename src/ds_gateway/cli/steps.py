"""How `ds_gateway.trying.Step` is shown, to people and to machines."""

from __future__ import annotations

import base64
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from ds_gateway.cli.printing import count
from ds_gateway.mapping import stream_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ds_gateway.config.decoding import FieldSettings
    from ds_gateway.trying import Outcome, Step

_MAX_SHOWN_BYTES: Final = 96
_MAX_SHOWN_CHARACTERS: Final = 2000
_PRINTABLE: Final = frozenset(range(0x20, 0x7F))


@dataclass(slots=True)
class Tally:
    """What there was in all."""

    bytes: int = 0
    frames: int = 0
    records: int = 0
    unreported: int = 0
    refused: int = 0
    discarded: int = 0

    def add(self, step: Step) -> None:
        """Count one step."""
        self.bytes += 0 if step.is_sent else step.raw_bytes
        self.frames += len(step.outcomes)
        self.records += sum(bool(each.record) for each in step.outcomes)
        self.unreported += sum(bool(each.unreported) for each in step.outcomes)
        self.refused += step.is_refused
        self.discarded += len(step.discarded)

    def __str__(self) -> str:
        return (
            f"{count(self.frames, 'frame')}: {count(self.records, 'record')}, {self.unreported} not reported, "
            f"{self.frames - self.records - self.unreported} refused"
            + (f"; {self.discarded} discarded for damage or length" if self.discarded else "")
        )


def show(steps: Iterable[Step], *, as_json: bool) -> Tally:
    """Print them as they come; as JSON: one document. Return what there was."""
    tally = Tally()
    if not as_json:
        for step in steps:
            tally.add(step)
            sys.stdout.write("".join(f"{line}\n" for line in lines(step)))
        sys.stdout.write(f"{tally}\n")
        return tally
    # Not all in memory at once: a capture may be long.
    separator = b'{"steps":['
    for step in steps:
        tally.add(step)
        sys.stdout.write((separator + orjson.dumps(told(step))).decode())
        separator = b",\n"
    ending = {
        "frames": tally.frames,
        "records": tally.records,
        "unreported": tally.unreported,
        "refused": tally.frames - tally.records - tally.unreported,
        "discarded": tally.discarded,
    }
    head = '{"steps":[' if separator.startswith(b"{") else ""
    sys.stdout.write(f"{head}],{orjson.dumps(ending).decode()[1:]}\n")
    return tally


def lines(step: Step) -> list[str]:
    """For people."""
    title = "sent" if step.is_sent else "raw" if step.topic is None else "message"
    where = "" if step.topic is None else f" on {safe(step.topic)}{' (retained)' if step.retain else ''}"
    found = [f"{step.after_seconds:10.3f} s  {title}{where}  {shown_bytes(step.raw, step.raw_bytes)}"]
    found += [f"    discarded  {each}" for each in step.discarded]
    found += [f"    note       {safe(each)}" for each in step.notes]
    for outcome in step.outcomes:
        found += _outcome_lines(outcome, is_frame=step.topic is None)
    return found


def _outcome_lines(outcome: Outcome, *, is_frame: bool) -> list[str]:
    found = [f"    frame      {shown_bytes(outcome.frame, len(outcome.frame))}"] if is_frame else []
    if outcome.device:
        found.append(f"    device     {safe(outcome.device)}")
    if outcome.decoded:
        found.append(f"    decoded    {_cut(outcome.decoded)}")
    data = _data(outcome)
    for name, field in (outcome.fields or {}).items():
        if isinstance(data, dict) and name in data:
            value = orjson.dumps(data[name]).decode()
            unit = f" {field.unit}" if field.unit else ""
            found.append(f"    field      {safe(name)} = {value}{unit}{_way(name, field)}")
    if outcome.untimed:
        found.append(f"    time       that of reception: {safe(outcome.untimed)}")
    if outcome.refused:
        found.append(f"    refused    {safe(outcome.refused)}")
    if outcome.unreported:
        found.append(f"    no record  {safe(outcome.unreported)}")
    if outcome.record:
        found.append(f"    record     {_cut(outcome.record)}")
        found.append(f"    stream     {stream_path(outcome.stream)}")
    return found


def told(step: Step) -> dict[str, Any]:
    """For machines; bytes in base64."""
    return {
        "after": step.after_seconds,
        "raw": base64.b64encode(step.raw).decode(),
        "raw_bytes": step.raw_bytes,
        "topic": step.topic,
        "retain": step.retain,
        "sent": step.is_sent,
        "discarded": list(step.discarded),
        "notes": list(step.notes),
        "frames": [
            {
                "frame": base64.b64encode(each.frame).decode(),
                "device": each.device or None,
                "decoded": orjson.Fragment(each.decoded or b"null"),
                "record": orjson.Fragment(each.record or b"null"),
                "stream": each.stream or None,
                "path": stream_path(each.stream) if each.stream else None,
                "refused": each.refused or None,
                "unreported": each.unreported or None,
                "untimed": each.untimed or None,
            }
            for each in step.outcomes
        ],
    }


def shown_bytes(raw: bytes, size: int) -> str:
    """Text where it is one, with escapes; else hex digits."""
    part = raw[:_MAX_SHOWN_BYTES]
    more = f" ... {size} bytes" if size > len(part) else ""
    line = part.rstrip(b"\r\n")
    if all(byte in _PRINTABLE or byte in b"\r\n\t\x02\x03" for byte in line):
        return f"{part.decode('latin-1')!a}{more}"
    text = "".join(chr(byte) if byte in _PRINTABLE else "." for byte in part)
    return f"{part.hex(' ')}  |{text}|{more}"


def safe(text: str) -> str:
    """From outside: nothing in it is a command to the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _data(outcome: Outcome) -> Any:
    return orjson.loads(outcome.record).get("data") if outcome.record else None


def _way(name: str, field: FieldSettings) -> str:
    given = field.model_dump(exclude_unset=True, by_alias=True, exclude={"unit"})
    steps = [f"{key} {value}" for key, value in given.items() if (key, value) != ("from", name)]
    return f"   ({safe(', '.join(steps))})" if steps else ""


def _cut(json: bytes) -> str:
    text = safe(json.decode())
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]} ... (--json has all)"
