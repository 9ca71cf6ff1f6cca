"""From bytes to frames, without I/O: bounded in memory, linear in time, found again after garbage.

A framing is one class that satisfies `Framer`; `build_framer` is the only place that knows which there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds_gateway.framing.candidates import CandidateFramer
from ds_gateway.framing.checked import CheckedFramer
from ds_gateway.framing.checks import build_judge, judge_dsmr, judge_nmea, judge_old_dsmr, proves
from ds_gateway.framing.delimited import DelimitedFramer
from ds_gateway.framing.encodings import COBS_END, SLIP_END, decode_cobs, decode_slip
from ds_gateway.framing.framer import Framer
from ds_gateway.framing.layouts import (
    DSMR_CHECK_BYTES,
    DsmrLayout,
    FixedLayout,
    LengthField,
    LengthLayout,
    NmeaLayout,
    SyncLayout,
)
from ds_gateway.framing.line import LineFramer
from ds_gateway.framing.silence import SilenceFramer

if TYPE_CHECKING:
    from ds_gateway.config.framing import (
        DelimitedSettings,
        DsmrSettings,
        FixedSettings,
        FramingSettings,
        LengthFieldSettings,
        LengthSettings,
        SyncSettings,
    )
    from ds_gateway.framing.checks import Judge

__all__ = ["Framer", "LineFramer", "build_framer"]


def build_framer(settings: FramingSettings) -> Framer:
    """The framer that the settings describe, at the start of a stream of bytes."""
    judge = build_judge(settings.check) if settings.check is not None else None
    if settings.fixed is not None:
        return _fixed(settings.fixed, judge)
    if settings.length is not None:
        return _length(settings.length, judge)
    if settings.sync is not None:
        return _sync(settings.sync, judge)
    if settings.nmea is not None:
        return CandidateFramer(NmeaLayout(), judge=judge_nmea, max_bytes=settings.nmea.max_bytes)
    if settings.dsmr is not None:
        return _dsmr(settings.dsmr)
    if settings.delimited is not None:
        return _delimited(settings.delimited, judge)
    if settings.slip is not None:
        slip = LineFramer(SLIP_END, settings.slip.max_bytes, blanks=b"")
        return _checked(slip, decode_slip, judge)
    if settings.cobs is not None:
        cobs = LineFramer(COBS_END, settings.cobs.max_bytes, blanks=b"")
        return _checked(cobs, decode_cobs, judge)
    if settings.idle is not None:
        idle = settings.idle
        return _checked(SilenceFramer(gap_seconds=idle.gap_seconds, max_bytes=idle.max_bytes), judge)
    assert settings.line is not None, "one kind is always given"
    return _checked(LineFramer(_delimiter_bytes(settings.line.delimiter), settings.line.max_bytes), judge)


def _checked(framer: Framer, *judges: Judge | None) -> Framer:
    given = [judge for judge in judges if judge is not None]
    return CheckedFramer(framer, given, proves=proves(judges[-1])) if given else framer


def _fixed(settings: FixedSettings, judge: Judge | None) -> Framer:
    return CandidateFramer(
        FixedLayout(settings.bytes), judge=judge, max_bytes=settings.bytes, gap_seconds=settings.gap_seconds
    )


def _length(settings: LengthSettings, judge: Judge | None) -> Framer:
    field = _field(settings)
    return CandidateFramer(
        LengthLayout(field),
        judge=judge,
        max_bytes=settings.max_bytes,
        gap_seconds=settings.gap_seconds,
        cut=field.end if settings.cut else 0,
    )


def _sync(settings: SyncSettings, judge: Judge | None) -> Framer:
    if settings.length is None:
        assert settings.bytes is not None, "a length or a number of bytes is always given"
        length: LengthField | int = settings.bytes
    else:
        length = _field(settings.length)
    return CandidateFramer(
        SyncLayout(bytes.fromhex(settings.word), length),
        judge=judge,
        max_bytes=settings.max_bytes,
        gap_seconds=settings.gap_seconds,
    )


def _dsmr(settings: DsmrSettings) -> Framer:
    judge, check_bytes = (judge_dsmr, DSMR_CHECK_BYTES) if settings.crc else (judge_old_dsmr, 0)
    return CandidateFramer(DsmrLayout(check_bytes), judge=judge, max_bytes=settings.max_bytes)


def _delimited(settings: DelimitedSettings, judge: Judge | None) -> Framer:
    stop = bytes.fromhex(settings.stop)
    framer = DelimitedFramer(
        start=bytes.fromhex(settings.start),
        stop=stop,
        escape=None if settings.escape is None else bytes.fromhex(settings.escape)[0],
        xor=bytes.fromhex(settings.xor)[0],
        after=settings.after,
        max_bytes=settings.max_bytes,
    )
    if judge is None:
        return framer
    judges = [judge]
    if settings.after:
        # A check behind the stop covers the stop, too, which is cut off then.
        judges.append(lambda frame: frame.removesuffix(stop))
    # A start proves as much as a check does.
    return CheckedFramer(framer, judges, proves=proves(judge) and not settings.start)


def _field(settings: LengthFieldSettings) -> LengthField:
    return LengthField(settings.offset, settings.bytes, settings.order, settings.uncounted)


def _delimiter_bytes(text: str) -> bytes:
    """A delimiter is written as text but compared with bytes: up to U+00FF a character is that byte."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
