"""How many payloads a core decodes: from bytes to the bytes of a record's fields, and to the whole record.

    python benchmarks/decoding.py [--rounds 7] [--json]

Processor time, best of the rounds, so that other work on the machine does not count. The first line is
`orjson.loads` alone on the same payload in the same rounds; each ratio is to it. Rates of different machines are
not comparable; the ratios are.
"""

from __future__ import annotations

import argparse
import json
import struct
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cbor2
import orjson

from ds_gateway.config.decoding import DecodeSettings, FieldSettings, TimeSettings
from ds_gateway.config.models import LimitSettings
from ds_gateway.config.mqtt import DeviceSettings
from ds_gateway.decoding import build_decoder, build_timed_decoder
from ds_gateway.mapping import MqttPipeline

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = 20_000
NOW_NS = 1_772_366_400_000_123_456
JSON = b'{"temp":214,"hum":45.5,"ts":"2026-11-22T17:46:58Z","battery":3.71,"id":"sensor-0042","ok":true,"n":1}'


@dataclass(frozen=True)
class Result:
    """One way of reading one payload."""

    name: str
    bytes: int
    us: float
    of_orjson: float

    @property
    def per_second(self) -> float:
        return 1e6 / self.us


def cases() -> dict[str, tuple[Callable[[bytes], Any], bytes]]:
    def decoder(decode: Any, drop: tuple[str, ...] = (), **fields: dict[str, Any]) -> Callable[[bytes], bytes]:
        listed = {name: FieldSettings.model_validate(values) for name, values in fields.items()} or None
        return build_decoder(DecodeSettings.model_validate(decode), listed, drop)

    def record(**more: Any) -> Callable[[bytes], Any]:
        device = DeviceSettings.model_validate({"topic": "s/{id}", **more})
        pipeline = MqttPipeline("hall", "line-7", [device], LimitSettings())
        return lambda payload: pipeline("s/1", payload, NOW_NS)

    scaled: dict[str, dict[str, Any]] = {"temperature": {"from": "temp", "scale": 0.1}}
    members = {"a": "u16", "b": "f32", "c": {"type": "u8", "bit": 3}, "d": {"type": "u8", "bits": [0, 2]}}
    timed = build_timed_decoder(DecodeSettings.of("json"), None, (), TimeSettings.model_validate("ts"))
    return {
        "orjson.loads alone": (orjson.loads, JSON),
        "json": (decoder("json"), JSON),
        "json, a field": (decoder("json", hum={}), JSON),
        "json, a scaled field": (decoder("json", (), **scaled), JSON),
        "json, two fields, one scaled": (decoder("json", (), hum={}, **scaled), JSON),
        "json, a field dropped": (decoder("json", ("ts",)), JSON),
        "json, its own time": (timed, JSON),
        "json to a record": (record(), JSON),
        "json to a record, on change": (record(report={"on_change": True}), JSON),
        "csv, three columns": (decoder({"csv": {"columns": ["a", "b", "c"]}}), b"1.5,2,x"),
        "regex, one group": (decoder({"regex": r"(?P<weight>[\d.]+)\s*kg"}), b"S S 12.345 kg"),
        "struct, four members": (decoder({"struct": {"members": members}}), struct.pack(">HfB", 1, 21.4, 13)),
        "cbor, three members": (decoder("cbor"), cbor2.dumps({"t": 21.5, "h": 45, "id": "sensor-0042"})),
        "number": (decoder("number"), b"12.345"),
        "text": (decoder("text"), b"S S 12.345 kg"),
        "raw": (decoder("raw"), b"S S 12.345 kg"),
    }


def measure(rounds: int) -> list[Result]:
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, (read, payload) in cases().items():
            started = time.process_time()
            for _ in range(CALLS):
                read(payload)
            seconds = time.process_time() - started
            best[name] = min(seconds, best.get(name, seconds))
    base = best["orjson.loads alone"]
    return [
        Result(name, len(payload), best[name] / CALLS * 1e6, best[name] / base)
        for name, (_, payload) in cases().items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return
    print(f"{'':30}{'bytes':>7}{'us':>8}{'a second':>12}{'of orjson':>11}")
    for result in results:
        print(
            f"{result.name:30}{result.bytes:7}{result.us:8.2f}{result.per_second:12,.0f}{result.of_orjson:11.1f}"
        )


if __name__ == "__main__":
    main()
