"""The status as metrics: what is told, by Prometheus' rules, and how many series there are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from ds_gateway.metrics import FAMILIES, MAX_DEVICES, MAX_LABEL_CHARACTERS, exposition
from ds_gateway.metrics.reading import STOPPED_STATES, UP_STATES
from ds_gateway.metrics.reference import page
from harness.peers import REPOSITORY
from harness.statuses import journal, mqtt, reading, serial, stream, troubled, uplink, well

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import Metric

DOCS: Final = REPOSITORY / "docs"
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def openmetrics_families(text: bytes) -> Iterator[Metric]:
    return iter(openmetrics.text_string_to_metric_families(text.decode()))  # type: ignore[no-untyped-call]


def plain_families(text: bytes) -> Iterator[Metric]:
    return iter(text_string_to_metric_families(text.decode()))


def scraped(document: Mapping[str, Any]) -> Series:
    """All series of one scrape, without those of the process."""
    text, _ = exposition(document)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in plain_families(text)
        for sample in family.samples
        if sample.name.startswith("ds_gateway_")
    }


def of(series: Series, name: str, /, **labels: str) -> float | None:
    return series.get((f"ds_gateway_{name}", tuple(sorted(labels.items()))))


class TestWhatIsTold:
    def test_of_a_gateway_that_is_well(self) -> None:
        series = scraped(well([mqtt(readings=[reading("a"), reading("b")]), serial()]))
        assert of(series, "build_info", gateway="line-7", version="0.1.0", config_digest="5f0c21d2a9b4") == 1
        assert of(series, "source_up", source="hall-broker", kind="mqtt") == 1
        assert of(series, "source_up", source="scale-1", kind="serial") == 1
        assert of(series, "source_received_total", source="scale-1") == 8_120
        assert of(series, "devices", source="hall-broker") == 2
        assert of(series, "devices", source="scale-1") == 0
        assert of(series, "device_readings_total", source="hall-broker", device="a") == 18_234
        assert of(series, "stream_up", stream="telemetry/line-7/hall-a") == 1
        assert of(series, "stream_sent_total", stream="telemetry/line-7/hall-a") == 54_702
        assert of(series, "clock_synchronised") == 1
        assert of(series, "config_refused") == 0
        assert of(series, "commands_up") is None, "no device takes commands"
        assert of(series, "embedded_up") is None

    def test_of_a_gateway_in_trouble(self) -> None:
        series = scraped(troubled())
        halted, waiting = "telemetry/line-7/scales", "telemetry/line-7/hall-a"
        assert (of(series, "stream_up", stream=halted), of(series, "stream_stopped", stream=halted)) == (0, 1)
        assert (of(series, "stream_up", stream=waiting), of(series, "stream_stopped", stream=waiting)) == (0, 0)
        assert of(series, "stream_backlog_records", stream=waiting) == 5_298
        assert of(series, "stream_catch_up_seconds", stream=waiting) == 95
        assert of(series, "stream_lost_total", stream=halted) == 3
        assert of(series, "source_up", source="scale-1", kind="serial") == 0
        assert of(series, "source_up", source="meter", kind="serial") == 1
        assert of(series, "source_alarms", source="meter") == 1
        assert of(series, "loss_records_total", cause="shed_newest") == 3
        assert of(series, "clock_synchronised") == 0
        assert of(series, "commands_total", outcome="delivered") == 11
        assert of(series, "device_rejected_total", source="hall-broker", device="hall-a/door") == 2
        assert of(series, "certificate_expiry_timestamp_seconds", name="server.tls.cert") == 1_773_964_800

    def test_instants_are_seconds_since_1970(self) -> None:
        said = well([mqtt(readings=[reading("a")]), serial()])
        said["devices"][0]["last_time"] = "2026-03-01T08:00:04.250000Z"
        said["sources"][0]["last_message_time"] = "2026-03-01T08:00:05.500+00:00"
        said["sources"][1]["last_frame_time_ns"] = 1_772_352_006_000_000_000
        series = scraped(said)
        last = "source_last_received_timestamp_seconds"
        assert (
            of(series, "device_last_reading_timestamp_seconds", source="hall-broker", device="a") == 1772352004.25
        )
        assert of(series, last, source="hall-broker") == 1772352005.5
        assert of(series, last, source="scale-1") == 1772352006

    def test_what_is_not_known_has_no_series(self) -> None:
        said = well(
            [mqtt(last_message_time=None, readings=[reading("a", None)])], uplinks={1: uplink(last_ok_time=None)}
        )
        said["devices"][0]["last_time"] = None
        series = scraped(said)
        for name in ("source_last_received", "device_last_reading", "stream_last_success"):
            assert not [each for each, _ in series if name in each]

    def test_of_the_process_the_usual(self) -> None:
        text, _ = exposition(well())
        assert b"process_resident_memory_bytes" in text
        assert b"process_open_fds" in text

    def test_a_state_is_not_both(self) -> None:
        assert not UP_STATES & STOPPED_STATES


class TestTheRulesOfPrometheus:
    @pytest.mark.parametrize("document", [well, troubled], ids=["well", "troubled"])
    def test_both_formats_can_be_read(self, document: Any) -> None:
        text, kind = exposition(document(), "application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        modern = {family.name for family in openmetrics_families(text)}
        plain, _ = exposition(document())
        usual = {family.name for family in plain_families(plain)}
        assert modern == usual

    def test_names_have_their_units_and_say_what_they_are(self) -> None:
        assert len({each.name for each in FAMILIES}) == len(FAMILIES)
        for each in FAMILIES:
            assert re.fullmatch(r"ds_gateway_[a-z]+(_[a-z]+)*", each.name)
            assert not each.name.endswith(("_total", "_count", "_sum", "_bucket", "_milliseconds", "_mib"))
            assert each.help.endswith(".")

    @pytest.mark.parametrize("name", ['a"b', "a\nb", "a\\b", "Ümläut 温度", "<img src=x onerror=1>", ""])
    def test_names_from_outside_stay_names(self, name: str) -> None:
        series = scraped(well([mqtt(readings=[reading(name)])]))
        assert of(series, "device_readings_total", source="hall-broker", device=name) == 18_234


class TestHowManySeries:
    def test_three_hundred_devices_are_three_series_each_and_all_else_stays(self) -> None:
        def count(devices: int) -> int:
            return len(scraped(well([mqtt(readings=[reading(f"hall/{number}") for number in range(devices)])])))

        base = count(0)
        assert (count(1) - base, count(300) - base) == (3, 900)

    def test_beyond_the_first_devices_are_only_counted(self) -> None:
        names = [f"hall/{number}" for number in range(MAX_DEVICES + 200)]
        many = scraped(well([mqtt(readings=map(reading, names))]))
        full = scraped(well([mqtt(readings=map(reading, names[:MAX_DEVICES]))]))
        assert many.keys() == full.keys()
        assert of(many, "devices", source="hall-broker") == MAX_DEVICES + 200
        assert (of(full, "devices_without_series"), of(many, "devices_without_series")) == (0, 200)

    def test_long_names_are_cut_and_stay_different(self) -> None:
        names = ["x" * 1000 + "1", "x" * 1000 + "2", "y" * MAX_LABEL_CHARACTERS]
        series = scraped(well([mqtt(readings=map(reading, names))]))
        labels = {dict(labels)["device"] for name, labels in series if name == "ds_gateway_device_readings_total"}
        assert len(labels) == 3
        assert max(map(len, labels)) == MAX_LABEL_CHARACTERS
        assert names[2] in labels

    def test_what_a_scrape_costs_is_bounded(self) -> None:
        worst = [mqtt(readings=[reading(f"{number:04}" + "ü" * 1020) for number in range(2000)])]
        streams = [stream(number, f"{number:03}" + "ü" * 1000) for number in range(1, 201)]
        text, _ = exposition(well(worst, journal(*streams)))
        lines = text.count(b"\n")
        assert lines < 3 * MAX_DEVICES + 12 * len(streams) + 300
        assert len(text) < lines * (2 * MAX_LABEL_CHARACTERS + 200)


class TestTheDocumentation:
    def test_the_page_is_generated(self) -> None:
        assert (DOCS / "metrics.md").read_text() == page(), (
            "python -m ds_gateway.metrics.reference > docs/metrics.md"
        )


class TestTheAlerts:
    """docs/alerts.yml; `promtool check rules docs/alerts.yml` says the rest where Prometheus is installed."""

    @pytest.fixture
    def rules(self) -> list[dict[str, Any]]:
        (group,) = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
        assert group["name"] == "ds-gateway"
        return list(group["rules"])

    def test_each_is_of_metrics_and_labels_that_there_are(self, rules: list[dict[str, Any]]) -> None:
        labels = {each.shown_name: set(each.labels) for each in FAMILIES}
        for rule in rules:
            names = set(re.findall(r"\bds_gateway_\w+", rule["expr"]))
            assert names <= labels.keys(), rule["alert"]
            known = set.union({"instance", "job"}, *(labels[name] for name in names))
            text = " ".join(rule["annotations"].values())
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= known, rule["alert"]

    def test_each_says_how_bad_it_is_and_what_to_do(self, rules: list[dict[str, Any]]) -> None:
        assert len({rule["alert"] for rule in rules}) == len(rules) >= 12
        for rule in rules:
            assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
            assert rule["annotations"].keys() == {"summary", "description"}
            assert "$labels.instance" in rule["annotations"]["summary"]

    def test_what_is_lost_or_stopped_has_one(self, rules: list[dict[str, Any]]) -> None:
        text = " ".join(rule["expr"] for rule in rules)
        for name in (
            "stream_stopped",
            "loss_records",
            "journal_full",
            "journal_shedding",
            "certificate_expiry",
            "up{",
        ):
            assert name in text
