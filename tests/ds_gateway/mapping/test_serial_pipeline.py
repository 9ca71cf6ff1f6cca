from __future__ import annotations

from typing import Any

import orjson
import pytest

from ds_gateway.config.serial_port import SerialSettings
from ds_gateway.mapping import MappingError, SerialPipeline, check_serial
from ds_gateway.records import Frame, Record, Rejected

_NOW_NS = 1_772_366_400_000_123_456


def _pipeline(**settings: Any) -> SerialPipeline:
    return SerialPipeline("scale-1", "line-7", _settings(**settings))


def _settings(**settings: Any) -> SerialSettings:
    return SerialSettings.model_validate({"port": "/dev/ttyUSB0", **settings})


class TestSerialPipeline:
    def test_a_frame_becomes_the_record_of_the_port(self) -> None:
        result = _pipeline()(Frame(b" 12.5 kg\r", _NOW_NS))
        assert isinstance(result, Record)
        assert (result.stream, result.device) == ("telemetry/line-7", "scale-1")
        assert orjson.loads(b"{" + result.tail) == {
            "gateway": "line-7",
            "device": "scale-1",
            "time": "2026-03-01T12:00:00.000123Z",
            "data": {"value": "12.5 kg"},
        }

    def test_the_stream_may_name_gateway_and_device(self) -> None:
        result = _pipeline(name="hall/scale", stream="t/{gateway}/{name}")(Frame(b"1", _NOW_NS))
        assert isinstance(result, Record)
        assert (result.stream, result.device) == ("t/line-7/hall/scale", "hall/scale")

    def test_a_text_that_is_a_number_is_scaled(self) -> None:
        pipeline = _pipeline(fields={"weight": {"from": "value", "scale": 0.1, "unit": "kg"}})
        result = pipeline(Frame(b"+000214", _NOW_NS))
        assert isinstance(result, Record)
        assert orjson.loads(b"{" + result.tail)["data"] == {"weight": 21.4}
        assert orjson.loads(result.about) == {"fields": {"weight": {"unit": "kg"}}}
        assert pipeline.devices()["scale-1"].units == {"weight": "kg"}

    def test_what_does_not_decode_is_rejected_whole(self) -> None:
        result = _pipeline(decode="json")(Frame(b"{half", _NOW_NS))
        assert isinstance(result, Rejected)
        assert (result.source, result.device, result.raw) == ("scale-1", "scale-1", b"{half")

    def test_the_device_is_known_before_its_first_reading(self) -> None:
        reading = _pipeline().devices()["scale-1"]
        assert (reading.time_ns, reading.data, reading.count) == (None, None, 0)


class TestMistakes:
    @pytest.mark.parametrize(
        ("settings_", "key", "words"),
        [
            ({"name": "a\x01"}, "name", "control characters"),
            ({"name": "..", "stream": "t/{name}"}, "stream", "'..' is refused"),
            ({"stream": "t/{gatway}"}, "stream", "did you mean {gateway}?"),
        ],
    )
    def test_each_is_found_before_anything_runs(self, settings_: dict[str, str], key: str, words: str) -> None:
        with pytest.raises(MappingError) as caught:
            check_serial("scale-1", _settings(**settings_))
        assert caught.value.key == key
        assert words in str(caught.value)

    def test_sound_settings_pass(self) -> None:
        check_serial("scale-1", _settings(stream="t/{gateway}/{name}"))


class TestAgain:
    """Frames that were refused, and are read anew, as from the quarantine."""

    def test_each_way_to_read_the_device_is_tried(self) -> None:
        requests = [
            {"write": "a", "decode": "json"},
            {"write": "b"},
            {"write": "c", "name": "x", "decode": "json"},
        ]
        pipeline = _pipeline(poll={"requests": requests})
        for device, payload, kind in (
            ("scale-1", b"no JSON", Record),
            ("scale-1/x", b"no JSON", Rejected),
            ("scale-1/x", b'{"a": 1}', Record),
            ("of another name before", b'{"a": 1}', Rejected),
        ):
            assert isinstance(pipeline.again(device, payload, 0), kind)

    def test_the_only_device_of_a_port_may_have_had_another_name(self) -> None:
        record = _pipeline().again("of another name before", b"1.5", 0)
        assert isinstance(record, Record)
        assert record.device == "scale-1"

    def test_of_several_devices_none_gets_what_another_one_sent(self) -> None:
        requests = [{"write": "a", "name": "x"}, {"write": "b", "name": "y"}]
        rejected = _pipeline(poll={"requests": requests}).again("z", b"1.5", 0)
        assert isinstance(rejected, Rejected)
        assert "(scale-1/x, scale-1/y) has this name" in rejected.reason

    def test_nothing_is_read_where_nothing_is_asked_any_more(self) -> None:
        devices = [{"name": "pump", "commands": {"write": "T"}}]
        assert isinstance(_pipeline(devices=devices).again("pump", b"1.5", 0), Rejected)
