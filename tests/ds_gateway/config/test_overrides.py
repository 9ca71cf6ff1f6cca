from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.configuration import MINIMAL, load_text, mistakes_in

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "DS_GATEWAY__"
NOTHING_HERE = "unknown: nothing here has this name, and a variable cannot add a single key to it"


class TestAVariable:
    def test_overrides_what_the_file_says(self, tmp_path: Path) -> None:
        text = MINIMAL + "journal: {max_bytes: 1GiB, retain_bytes: 1MiB}\n"
        journal = load_text(tmp_path, text, {PREFIX + "JOURNAL__MAX_BYTES": "2GiB"}).settings.journal
        assert (journal.max_bytes, journal.retain_bytes) == (2 * 2**30, 2**20)

    def test_makes_a_section_that_the_file_has_not(self, tmp_path: Path) -> None:
        settings = load_text(tmp_path, MINIMAL, {PREFIX + "EXACTLY_ONCE__READ_BACK": "false"}).settings
        assert settings.exactly_once.read_back is False

    def test_that_is_to_be_text_stays_as_it_is(self, tmp_path: Path) -> None:
        environ = {PREFIX + "GATEWAY__ID": "0x10", PREFIX + "SERVER__TOKEN": "{not: yaml"}
        settings = load_text(tmp_path, MINIMAL, environ).settings
        assert settings.gateway.id == "0x10"
        assert settings.server.token is not None
        assert settings.server.token.get() == "{not: yaml"

    def test_reaches_into_a_source_by_its_name(self, tmp_path: Path) -> None:
        text = MINIMAL.replace("  hall:", "  Hall-broker.1:")
        environ = {
            PREFIX + "MQTT__HALL_BROKER_1__QOS": "0",
            PREFIX + "MQTT__HALL_BROKER_1__DEVICES__0__TOPIC": "other/{x}",
        }
        source = load_text(tmp_path, text, environ).settings.mqtt["Hall-broker.1"]
        assert (source.qos, source.devices[0].topic) == (0, "other/{x}")

    def test_gives_a_whole_section_as_yaml(self, tmp_path: Path) -> None:
        environ = {PREFIX + "SERIAL": "{scale: {port: /dev/ttyUSB0, baudrate: 4800}}"}
        assert load_text(tmp_path, MINIMAL, environ).settings.serial["scale"].baudrate == 4800

    def test_for_a_key_wins_over_one_for_its_section(self, tmp_path: Path) -> None:
        environ = {PREFIX + "LOG__LEVEL": "debug", PREFIX + "LOG": "{level: error, format: json}"}
        log = load_text(tmp_path, MINIMAL, environ).settings.log
        assert (log.level, log.format) == ("debug", "json")

    def test_may_hold_a_reference(self, tmp_path: Path) -> None:
        environ = {PREFIX + "SERVER__TOKEN": "${env:SECRET}", "SECRET": "s3cret-token"}
        token = load_text(tmp_path, MINIMAL, environ).settings.server.token
        assert token is not None
        assert token.get() == "s3cret-token"

    def test_without_the_prefix_changes_nothing(self, tmp_path: Path) -> None:
        environ = {"GATEWAY__ID": "x", "DS_GATEWAY_ID": "x", "LOG": "x", "MQTT": "x", "_ENV_FILE": "x"}
        assert load_text(tmp_path, MINIMAL, environ).settings == load_text(tmp_path, MINIMAL).settings


NOT_YAML_ADVICE = (
    "compare the indentation with the lines above, and quote a value that begins with { or [ or has ': ' in it"
)


class TestAWrongVariable:
    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            ("BATCH__PARALLEL", "many", "must be a whole number, not 'many'"),
            ("LOG__LEVEL", "loud", "must be debug, info, warning or error, not 'loud'"),
            ("JOURNAL__MAX_BYTES", "2GX", ("must be a number of bytes, or a number with kB, MB, GB, TB, KiB, MiB, "
             "GiB or TiB, not '2GX'")),
            ("JOURNAL__MAXBYTES", "1", "unknown; did you mean DS_GATEWAY__JOURNAL__MAX_BYTES?"),
            ("JURNAL__MAX_BYTES", "1", "unknown; did you mean DS_GATEWAY__JOURNAL?"),
            ("METRICS__LISTEN", "x", "not supported in this version"),
            ("LOG__COLOUR", "1", "unknown; there are DS_GATEWAY__LOG__FORMAT, DS_GATEWAY__LOG__LEVEL"),
            ("MQTT__HAL__URL", "mqtt://h", "unknown; did you mean DS_GATEWAY__MQTT__HALL?"),
            ("MQTT__HALL__DEVICES__1__TOPIC", "a", "unknown; there are DS_GATEWAY__MQTT__HALL__DEVICES__0"),
            ("SERVER__HEADERS__X", "a", NOTHING_HERE),
            ("DATA_DIR__X", "a", NOTHING_HERE),
            (
                "JOURNAL",
                "{a: [}",
                "not YAML: did not find expected node content (while parsing a flow node); " + NOT_YAML_ADVICE,
            ),
            ("JOURNAL", "{max_bytes: 2GiB, max_bytes: 3GiB}", "this key is here twice"),
            ("JOURNAL", "{max_byte: 2GiB}", "journal.max_byte: unknown key; did you mean max_bytes?"),
            ("JOURNAL", "{max_bytes: no}", ("journal.max_bytes: must be a number of bytes, or a number "
            "with kB, MB, "
             "GB, TB, KiB, MiB, GiB or TiB, not 'no'")),
            ("JOURNAL", "big", "must be a mapping, not 'big'"),
            ("LOG__LEVEL", "\udcff", "the value is not UTF-8"),
        ],
    )  # fmt: skip
    def test_is_told_by_its_name(self, name: str, value: str, told: str, tmp_path: Path) -> None:
        assert mistakes_in(tmp_path, MINIMAL, {PREFIX + name: value}) == [f"environment: {PREFIX}{name}: {told}"]

    def test_comes_after_the_mistakes_of_the_file(self, tmp_path: Path) -> None:
        told = mistakes_in(tmp_path, MINIMAL + "log: {level: loud}\n", {PREFIX + "BATCH__PARALLEL": "many"})
        assert [line.split(": ")[1] for line in told] == ["log.level", PREFIX + "BATCH__PARALLEL"]

    def test_never_shows_a_secret(self, tmp_path: Path) -> None:
        environ = {PREFIX + "SERVER__TOKEN": "s3cret\ntoken", PREFIX + "SERVER__TOKN": "s3cret"}
        told = mistakes_in(tmp_path, MINIMAL, environ)
        assert len(told) == 2
        assert "s3cret" not in str(told)
