from __future__ import annotations

import threading
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_gateway.config.models import LimitSettings
from ds_gateway.config.mqtt import DeviceSettings
from ds_gateway.decoding import MAX_PAYLOAD_BYTES
from ds_gateway.mapping import MappingError, MqttPipeline, check_device, check_devices, stream_path
from ds_gateway.mapping.pipelines import MAX_KEPT_RAW_BYTES, MAX_KEPT_READING_BYTES
from ds_gateway.records import Record, Rejected, telemetry_tail

_NOW_NS = 1_772_366_400_000_123_456


def _device(topic: str, **more: Any) -> DeviceSettings:
    return DeviceSettings.model_validate({"topic": topic, **more})


def _pipeline(*devices: DeviceSettings, **limits: int) -> MqttPipeline:
    return MqttPipeline("hall-broker", "line-7", devices, LimitSettings.model_validate(limits))


def _record(pipeline: MqttPipeline, topic: str, payload: bytes = b'{"t":1}') -> Record:
    result = pipeline(topic, payload, _NOW_NS)
    assert isinstance(result, Record), result
    return result


def _rejected(pipeline: MqttPipeline, topic: str, payload: bytes = b'{"t":1}') -> Rejected:
    result = pipeline(topic, payload, _NOW_NS)
    assert isinstance(result, Rejected), result
    return result


class TestRecords:
    def test_a_message_becomes_the_record_of_its_device(self) -> None:
        pipeline = _pipeline(_device("sensors/{hall}/{sensor}/telemetry", stream="telemetry/{gateway}/{hall}"))
        record = _record(pipeline, "sensors/h1/s1/telemetry", b'{"t": 21.50}')
        assert record.stream == "telemetry/line-7/h1"
        assert record.device == "h1/s1"
        assert record.tail == telemetry_tail(
            gateway="line-7", device="h1/s1", time_ns=_NOW_NS, data=b'{"t": 21.50}'
        )
        assert orjson.loads(b'{"id":"x",' + record.tail) == {
            "id": "x",
            "gateway": "line-7",
            "device": "h1/s1",
            "time": "2026-03-01T12:00:00.000123Z",
            "data": {"t": 21.5},
        }

    def test_fields_are_renamed_scaled_and_announced_with_their_units(self) -> None:
        fields = {"temperature": {"from": "t", "scale": 0.1, "unit": "Cel"}, "on": {}}
        record = _record(_pipeline(_device("s/{id}", fields=fields)), "s/1", b'{"t": 214, "on": true}')
        assert orjson.loads(b"{" + record.tail)["data"] == {"temperature": 21.4, "on": True}
        assert orjson.loads(record.about) == {"fields": {"temperature": {"unit": "Cel"}, "on": {}}}

    def test_a_device_without_listed_fields_is_not_announced(self) -> None:
        assert _record(_pipeline(_device("s/{id}")), "s/1").about == b""

    def test_a_device_of_two_entries_is_announced_with_the_fields_of_both(self) -> None:
        pipeline = _pipeline(
            _device("s/{id}/temp", fields={"t": {"unit": "Cel"}}),
            _device("s/{id}/hum", fields={"h": {"unit": "%"}}),
        )
        first = _record(pipeline, "s/1/temp", b'{"t": 1}').about
        both = _record(pipeline, "s/1/hum", b'{"h": 1}').about
        assert orjson.loads(first) == {"fields": {"t": {"unit": "Cel"}}}
        assert orjson.loads(both) == {"fields": {"t": {"unit": "Cel"}, "h": {"unit": "%"}}}
        assert _record(pipeline, "s/1/temp", b'{"t": 1}').about == both
        assert pipeline.devices()["1"].units == {"t": "Cel", "h": "%"}

    def test_text_payloads_are_values(self) -> None:
        record = _record(_pipeline(_device("s/{id}", decode="text")), "s/1", b"ON\n")
        assert orjson.loads(b"{" + record.tail)["data"] == {"value": "ON"}


class TestDeviceNames:
    @pytest.mark.parametrize(
        ("pattern", "topic", "name"),
        [
            ("sensors/{hall}/{sensor}", "sensors/h1/s1", "h1/s1"),
            ("sensors/{hall}/{rest...}", "sensors/h1/a/b", "h1/a/b"),
            ("sensors/{hall}/{rest...}", "sensors/h1", "h1"),
            ("sensors/{rest...}", "sensors", "sensors"),
            ("sensors/kitchen", "sensors/kitchen", "sensors/kitchen"),
            ("sensors/+", "sensors/kitchen", "sensors/kitchen"),
            ("+/{id}/#", "x/7/y/z", "7"),
        ],
    )
    def test_the_default_name_is_made_of_the_captures_or_is_the_topic(
        self, pattern: str, topic: str, name: str
    ) -> None:
        assert _record(_pipeline(_device(pattern)), topic).device == name

    def test_a_template_names_the_device(self) -> None:
        pipeline = _pipeline(_device("s/{hall}/{id}", name="sensor {id} in {hall}"))
        assert _record(pipeline, "s/h1/7").device == "sensor 7 in h1"

    def test_a_name_that_comes_out_empty_is_refused(self) -> None:
        rejected = _rejected(_pipeline(_device("s/{id}", name="{id}")), "s/")
        assert rejected.reason == "topic s/: the device name is empty"

    @pytest.mark.parametrize("topic", ["s/a\x00b", "s/a\x1fb", "s/a\x85b", "s/\ud800", "s/" + "x" * 2000])
    def test_control_characters_broken_text_and_long_names_are_refused(self, topic: str) -> None:
        rejected = _rejected(_pipeline(_device("s/{id}")), topic)
        assert rejected.reason.isascii()
        assert len(rejected.device) <= 256 * len("\\x00")


class TestStreamNames:
    @pytest.mark.parametrize("value", ["..", ".", "", "a\x01b"])
    def test_a_capture_that_would_lead_elsewhere_is_refused(self, value: str) -> None:
        pipeline = _pipeline(_device("s/{hall}/t", name="fixed", stream="telemetry/{hall}"))
        rejected = _rejected(pipeline, f"s/{value}/t")
        assert "stream name" in rejected.reason
        assert (rejected.source, rejected.raw, rejected.time_ns) == ("hall-broker", b'{"t":1}', _NOW_NS)
        assert pipeline.devices() == {}

    @pytest.mark.parametrize("value", ["a+b", "#"])
    def test_wildcards_are_refused(self, value: str) -> None:
        pipeline = _pipeline(_device("s/{hall}/t", name="fixed", stream="telemetry/{hall}"))
        assert "+ and # are refused" in _rejected(pipeline, f"s/{value}/t").reason

    def test_two_captures_cannot_make_a_parent_together(self) -> None:
        pipeline = _pipeline(_device("s/{a}/{b}", stream="t/{a}{b}"))
        assert "'..' is refused" in _rejected(pipeline, "s/./.").reason

    def test_the_rest_of_a_topic_is_checked_part_by_part(self) -> None:
        pipeline = _pipeline(_device("s/{rest...}", name="fixed", stream="t/{rest}"))
        assert _record(pipeline, "s/a/b").stream == "t/a/b"
        assert "refused" in _rejected(pipeline, "s/a/../b").reason
        assert "refused" in _rejected(pipeline, "s/a//b").reason
        assert "refused" in _rejected(pipeline, "s").reason

    @pytest.mark.parametrize("own", ["commands", "receipts", "gateway"])
    def test_a_capture_cannot_lead_into_the_gateways_own_streams(self, own: str) -> None:
        pipeline = _pipeline(_device("{kind}/{id}", stream="{kind}/{gateway}"))
        assert "own streams" in _rejected(pipeline, f"{own}/1").reason
        assert _record(pipeline, "weather/1").stream == "weather/line-7"

    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("telemetry/line-7", "telemetry/line-7"),
            ("t/a b?c#d%", "t/a%20b%3Fc%23d%25"),
            ("t/Küche", "t/K%C3%BCche"),
            ("a~b_c.d", "a~b_c.d"),
        ],
    )
    def test_each_part_is_percent_encoded_for_a_url(self, name: str, path: str) -> None:
        assert stream_path(name) == path

    @settings(deadline=None)
    @given(value=st.text(max_size=8).filter(lambda text: "/" not in text))
    def test_whatever_is_captured_stays_one_part_of_the_path(self, value: str) -> None:
        pipeline = _pipeline(_device("s/{hall}", name="fixed", stream="telemetry/{hall}/x"))
        result = pipeline(f"s/{value}", b"1", _NOW_NS)
        if isinstance(result, Record):
            first, encoded, last = stream_path(result.stream).split("/")
            assert (first, last) == ("telemetry", "x")
            assert encoded not in {"", ".", ".."}
            assert encoded.isascii()
            assert not set(encoded) & set("?#+ ")


class TestSelection:
    def test_the_first_entry_that_matches_wins(self) -> None:
        pipeline = _pipeline(_device("s/{id}/raw", name="raw {id}", decode="text"), _device("s/{rest...}"))
        assert _record(pipeline, "s/1/raw", b"x").device == "raw 1"
        assert _record(pipeline, "s/1/json").device == "1/json"

    def test_a_topic_of_no_entry_is_rejected(self) -> None:
        rejected = _rejected(_pipeline(_device("s/{id}")), "other/1")
        assert rejected.reason == "topic other/1: no device of the configuration has this topic"
        assert rejected.device == "other/1"

    def test_a_bad_payload_is_rejected_with_its_device_and_the_device_goes_on(self) -> None:
        pipeline = _pipeline(_device("s/{id}"))
        rejected = _rejected(pipeline, "s/1", b"{oops")
        assert rejected.device == "1"
        assert rejected.reason.startswith("not JSON")
        _record(pipeline, "s/1")
        reading = pipeline.devices()["1"]
        assert (reading.count, reading.rejected) == (1, 1)

    def test_of_a_payload_that_is_too_large_only_a_part_is_kept(self) -> None:
        rejected = _rejected(_pipeline(_device("s/{id}")), "s/1", b"1" * (MAX_PAYLOAD_BYTES + 1))
        assert len(rejected.raw) == MAX_KEPT_RAW_BYTES
        assert "bytes are kept" in rejected.reason


class TestFilters:
    def test_a_filter_inside_another_is_not_subscribed_to(self) -> None:
        devices = [_device("s/{id}/raw"), _device("s/{id}/+/x"), _device("s/{rest...}"), _device("$SYS/{what}")]
        assert _pipeline(*devices).filters == ["s/#", "$SYS/+"]

    def test_entries_that_overlap_in_part_are_refused_because_copies_would_come(self) -> None:
        with pytest.raises(MappingError, match="deliver a message for both of them twice") as caught:
            _pipeline(_device("a/x"), _device("s/+/temp"), _device("s/kitchen/{what}"))
        assert (caught.value.key, caught.value.index) == ("topic", 2)

    @pytest.mark.parametrize(("first", "second"), [("s/{rest...}", "s/{id}/raw"), ("s/{id}", "s/+")])
    def test_an_entry_that_can_never_win_is_refused(self, first: str, second: str) -> None:
        with pytest.raises(MappingError, match="never reached") as caught:
            check_devices([_device(first), _device(second)])
        assert caught.value.index == 1


class TestLimits:
    def test_one_device_too_many_is_rejected_and_the_known_ones_go_on(self) -> None:
        pipeline = _pipeline(_device("s/{id}"), max_devices=2)
        _record(pipeline, "s/1")
        _record(pipeline, "s/2")
        assert "limits.max_devices (2)" in _rejected(pipeline, "s/3").reason
        _record(pipeline, "s/1")
        assert sorted(pipeline.devices()) == ["1", "2"]

    def test_what_is_beyond_a_limit_is_an_alarm(self) -> None:
        pipeline = _pipeline(_device("s/{id}"), max_devices=1)
        _record(pipeline, "s/1")
        assert not pipeline.alarms
        _rejected(pipeline, "s/2")
        _rejected(pipeline, "s/3")
        (alarm,) = pipeline.alarms
        assert alarm == (
            "2 messages are in the quarantine, because device '3' is one more than limits.max_devices (1) allows: "
            "raise the limit, or let the topic filters take fewer"
        )

    def test_one_stream_too_many_is_rejected_and_makes_no_device(self) -> None:
        pipeline = _pipeline(_device("s/{hall}", stream="t/{hall}"), max_streams=1)
        _record(pipeline, "s/1")
        assert "limits.max_streams (1)" in _rejected(pipeline, "s/2").reason
        assert sorted(pipeline.devices()) == ["1"]

    def test_topics_without_end_do_not_grow_the_memory(self) -> None:
        pipeline = _pipeline(_device("s/{id}/#"), max_devices=1)
        for number in range(10_000):
            _record(pipeline, f"s/1/{number}")
        assert len(pipeline._routes._cache) <= 4096

    def test_long_topics_are_not_kept(self) -> None:
        pipeline = _pipeline(_device("s/{id}/#"))
        _record(pipeline, "s/1/" + "x" * 60_000)
        assert pipeline._routes._cache == {}


class TestLastReadings:
    def test_the_last_reading_is_there_with_time_data_units_and_count(self) -> None:
        pipeline = _pipeline(_device("s/{id}", stream="t/{id}", fields={"t": {"unit": "Cel"}}))
        for number in range(3):
            _record(pipeline, "s/1", b'{"t": %d}' % number)
        reading = pipeline.devices()["1"]
        assert (reading.device, reading.stream) == ("1", "t/1")
        assert (reading.time_ns, reading.data) == (_NOW_NS, b'{"t":2}')
        assert (reading.units, reading.count, reading.rejected) == ({"t": "Cel"}, 3, 0)

    def test_a_large_reading_is_counted_and_not_kept(self) -> None:
        pipeline = _pipeline(_device("s/{id}"))
        _record(pipeline, "s/1", b'"%b"' % (b"x" * MAX_KEPT_READING_BYTES))
        reading = pipeline.devices()["1"]
        assert (reading.time_ns, reading.data, reading.count) == (_NOW_NS, None, 1)

    def test_they_can_be_read_while_devices_appear(self) -> None:
        pipeline = _pipeline(_device("s/{id}"), max_devices=5000)

        def appear() -> None:
            for number in range(5000):
                pipeline(f"s/{number}", b"1", _NOW_NS)

        thread = threading.Thread(target=appear)
        thread.start()
        while thread.is_alive():
            assert all(name == reading.device for name, reading in pipeline.devices().items())
        thread.join()
        assert len(pipeline.devices()) == 5000


class TestMistakes:
    @pytest.mark.parametrize(
        ("settings_", "key", "words"),
        [
            ({"topic": "s/{hall}", "name": "{hal}"}, "name", "did you mean {hall}?"),
            ({"topic": "s/{hall}", "name": "{gateway}"}, "name", "{gateway} is unknown; there are {hall}"),
            ({"topic": "s/a", "name": "{x}"}, "name", "there are no captures here"),
            ({"topic": "s/a", "name": "{x"}, "name", "a brace is open"),
            ({"topic": "s/{hall}", "stream": "t/{hallo}"}, "stream", "did you mean {hall}?"),
            ({"topic": "s/{hall}", "stream": "t/{!r}"}, "stream", "unknown"),
            ({"topic": "s/{hall}", "stream": "t/{hall.x}"}, "stream", "unknown"),
            ({"topic": "s/{hall}", "stream": "t/a+b"}, "stream", "+ and # are refused"),
            ({"topic": "$share/g/s"}, "topic", "shared subscriptions"),
        ],
    )
    def test_each_is_found_before_anything_runs(self, settings_: dict[str, str], key: str, words: str) -> None:
        with pytest.raises(MappingError) as caught:
            check_device(DeviceSettings.model_validate(settings_))
        assert caught.value.key == key
        assert words in str(caught.value)
