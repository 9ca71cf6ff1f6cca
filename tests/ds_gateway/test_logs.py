from __future__ import annotations

import io
import json
import logging
import os
import socket
import struct
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from ds_gateway import logs
from ds_gateway.journald import Journald, is_connected
from ds_gateway.logs import (
    MAX_REPEAT_SECONDS,
    REPEAT_SECONDS,
    EventHandler,
    JournalHandler,
    JsonFormatter,
    LogfmtFormatter,
    event,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Written:
    """A logger of its own with a handler, and the lines that it wrote."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.now = 1000.0
        self.stream = io.StringIO()
        self.handler = EventHandler(self.stream, monotonic=lambda: self.now)
        self.handler.setFormatter(formatter)
        self.log = logging.Logger("ds_gateway.test")  # noqa: LOG001 - not in the process's registry
        self.log.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def as_json() -> Written:
    return Written(JsonFormatter())


@pytest.fixture
def as_logfmt() -> Written:
    return Written(LogfmtFormatter())


@pytest.fixture
def restored() -> Iterator[None]:
    """The process's logging is as it was, whatever the test sets up."""
    root, ours = logging.getLogger(), logging.getLogger(logs.ROOT)
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


class TestJson:
    def test_is_one_object_a_line(self, as_json: Written) -> None:
        event(as_json.log, "info", "uplink.batch.acked", stream="a/b", records=3, seconds=0.5, last=None, ok=True)
        [written] = as_json.objects
        assert written.pop("time").endswith("Z")
        assert written == {
            "level": "info",
            "logger": "ds_gateway.test",
            "event": "uplink.batch.acked",
            "stream": "a/b",
            "records": 3,
            "seconds": 0.5,
            "last": None,
            "ok": True,
        }

    def test_of_what_json_cannot_say_is_text(self, as_json: Written) -> None:
        event(as_json.log, "info", "x", number=float("nan"), raw=b"\xff", text="line\nbreak \u2028 \x1b[31m")
        [written] = as_json.objects
        assert (written["number"], written["raw"]) == ("nan", "b'\\xff'")
        assert written["text"] == "line\nbreak \u2028 \x1b[31m"
        assert as_json.stream.getvalue().isascii()

    def test_has_the_extras_of_plain_logging(self, as_json: Written) -> None:
        as_json.log.warning("serial.port.%s", "waiting", extra={"source": "scale-1"})
        [written] = as_json.objects
        assert (written["event"], written["source"]) == ("serial.port.waiting", "scale-1")

    def test_values_cannot_pose_as_the_head(self, as_json: Written) -> None:
        event(as_json.log, "warning", "x", logger="y", time="never", event="z")
        [written] = as_json.objects
        assert (written["logger"], written["event"]) == ("ds_gateway.test", "x")
        assert written["time"] != "never"

    def test_has_the_traceback_of_an_exception(self, as_json: Written) -> None:
        try:
            raise OSError(5, "broken")  # noqa: TRY301
        except OSError as error:
            event(as_json.log, "error", "x", exc=error)
        assert as_json.objects[0]["traceback"].endswith("OSError: [Errno 5] broken")

    def test_bounds_what_comes_from_outside(self, as_json: Written) -> None:
        event(as_json.log, "info", "x", topic="t" * 100_000)
        assert len(as_json.lines[0]) < 3000


class TestLogfmt:
    def test_is_for_people(self, as_logfmt: Written) -> None:
        event(as_logfmt.log, "warning", "mqtt.lost", source="hall", reason="no route to host", seconds=2)
        [line] = as_logfmt.lines
        time, _, rest = line.partition(" ")
        assert time.endswith("Z")
        assert rest == 'warning mqtt.lost source=hall reason="no route to host" seconds=2'

    @pytest.mark.parametrize("text", ["a b", 'a"b', "a=b", "", "a\nb", "a\x1b[31mb", "a\\b", "\u2028", "\x9b"])
    def test_nothing_breaks_the_line_or_drives_the_terminal(self, text: str, as_logfmt: Written) -> None:
        event(as_logfmt.log, "info", "x", value=text)
        [line] = as_logfmt.lines
        assert line.isprintable()
        assert json.loads(line.partition("value=")[2]) == text


class Journal:
    """What systemd's journal gets, read as its protocol says."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "socket")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(5)

    def entry(self) -> dict[str, str]:
        data = self.socket.recv(1 << 20)
        fields: dict[str, str] = {}
        while data:
            line, _, data = data.partition(b"\n")
            name, is_one_line, value = line.partition(b"=")
            if not is_one_line:
                (length,) = struct.unpack_from("<Q", data)
                value, data = data[8 : 8 + length], data[8 + length + 1 :]
            assert name.isupper()
            assert name.decode() not in fields
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path)
    with closing(journal.socket):
        yield journal


class TestTheJournalOfSystemd:
    @pytest.fixture
    def log(self, journal: Journal) -> Iterator[logging.Logger]:
        self.stream = io.StringIO()
        log = logging.Logger("ds_gateway.test")  # noqa: LOG001 - not in the process's registry
        handler = JournalHandler(self.stream, Journald(journal.path))
        log.addHandler(handler)
        yield log
        handler.close()

    def test_has_fields(self, log: logging.Logger, journal: Journal) -> None:
        event(log, "warning", "mqtt.lost", source="hall", reason="no route", seconds=2, logger="x", event="y")
        assert journal.entry() == {
            "MESSAGE": 'mqtt.lost source=hall reason="no route" seconds=2 logger=x event=y',
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "ds-gateway",
            "DSG_EVENT": "mqtt.lost",
            "DSG_LOGGER": "ds_gateway.test",
            "DSG_SOURCE": "hall",
            "DSG_REASON": "no route",
            "DSG_SECONDS": "2",
        }

    def test_has_values_of_many_lines_that_pose_as_no_others(self, log: logging.Logger, journal: Journal) -> None:
        odd: dict[str, Any] = {"9odd-näme": 1, "\n": 2}
        event(log, "info", "x", topic="a\nPRIORITY=0\nMESSAGE=false", **odd)
        entry = journal.entry()
        assert (entry["PRIORITY"], entry["DSG_TOPIC"]) == ("6", "a\nPRIORITY=0\nMESSAGE=false")
        assert entry["DSG_9ODD_N_ME"] == "1"
        assert entry["MESSAGE"].isprintable()

    def test_has_the_traceback_of_an_exception_as_a_field(self, log: logging.Logger, journal: Journal) -> None:
        try:
            raise OSError(5, "broken")  # noqa: TRY301
        except OSError as error:
            event(log, "error", "x", exc=error)
        entry = journal.entry()
        assert entry["DSG_TRACEBACK"].endswith("OSError: [Errno 5] broken")
        assert (entry["MESSAGE"], entry["PRIORITY"]) == ("x", "3")

    def test_that_is_gone_costs_no_event(self, log: logging.Logger, journal: Journal) -> None:
        Path(journal.path).unlink()
        event(log, "info", "x", source="hall")
        assert json.loads(self.stream.getvalue())["source"] == "hall"

    def test_is_where_standard_error_is_its_socket(self, tmp_path: Path) -> None:
        with (tmp_path / "file").open("w") as file:
            status = os.fstat(file.fileno())
            there = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            assert is_connected(there, file.fileno())
            for text in ("", "1:2", f"{status.st_dev}", f"{status.st_dev}:"):
                assert not is_connected({"JOURNAL_STREAM": text}, file.fileno())
        assert not is_connected(there, -1)


class TestSecrets:
    def test_show_as_stars(self, as_json: Written, as_logfmt: Written) -> None:
        for written in (as_json, as_logfmt):
            event(written.log, "info", "x", token=SecretStr("hunter2"))
            assert "hunter2" not in written.stream.getvalue()
            assert "**********" in written.stream.getvalue()


class TestRepeats:
    def test_are_counted_and_told_once(self, as_json: Written) -> None:
        for attempt in range(5):
            event(as_json.log, "warning", "mqtt.lost", source="hall", attempt=attempt)
        assert [line["attempt"] for line in as_json.objects] == [0]
        as_json.now += REPEAT_SECONDS
        event(as_json.log, "info", "other")
        assert [(line["event"], line.get("repeats"), line.get("attempt")) for line in as_json.objects[1:]] == [
            ("mqtt.lost", 4, 4),
            ("other", None, None),
        ]

    def test_begin_anew_after_a_minute(self, as_json: Written) -> None:
        event(as_json.log, "warning", "x")
        as_json.now += REPEAT_SECONDS
        event(as_json.log, "warning", "x")
        assert [line.get("repeats") for line in as_json.objects] == [None, None]

    def test_that_go_on_are_told_less_and_less_often(self, as_json: Written) -> None:
        for _ in range(24 * 3600):
            event(as_json.log, "warning", "mqtt.lost", source="hall")
            as_json.now += 1
        told = as_json.objects
        assert [line.get("repeats") for line in told[:7]] == [None, 59, 120, 240, 480, 900, 900]
        assert sum(line.get("repeats", 1) for line in told) > 24 * 3600 - MAX_REPEAT_SECONDS - 60, (
            "all are counted"
        )
        assert len(told) < 110

    def test_that_go_on_after_a_quiet_time_begin_anew(self, as_json: Written) -> None:
        for _ in range(600):
            event(as_json.log, "warning", "mqtt.lost", source="hall")
            as_json.now += 1
        as_json.now += 2 * MAX_REPEAT_SECONDS
        event(as_json.log, "info", "other")
        as_json.now += MAX_REPEAT_SECONDS
        event(as_json.log, "warning", "mqtt.lost", source="hall")
        assert "repeats" not in as_json.objects[-1]

    def test_differ_in_a_text(self, as_json: Written) -> None:
        event(as_json.log, "info", "source.state", source="hall", state="down")
        event(as_json.log, "info", "source.state", source="hall", state="up")
        event(as_json.log, "info", "source.state", source="yard", state="down")
        assert len(as_json.lines) == 3

    def test_are_not_held_back_when_debugging(self, as_json: Written) -> None:
        for _ in range(3):
            event(as_json.log, "debug", "x")
        assert len(as_json.lines) == 3

    def test_are_told_at_the_end(self, as_json: Written) -> None:
        for _ in range(3):
            event(as_json.log, "info", "x")
        as_json.handler.close()
        assert [line.get("repeats") for line in as_json.objects] == [None, 2]

    def test_of_very_many_kinds_are_forgotten_not_hoarded(self, as_json: Written) -> None:
        event(as_json.log, "info", "x", name="first")
        event(as_json.log, "info", "x", name="first")
        for number in range(2000):
            event(as_json.log, "info", "x", name=str(number))
        assert len(as_json.handler._repeats._seen) <= 1000
        assert [line["name"] for line in as_json.objects if "repeats" in line] == ["first"]


@pytest.mark.usefixtures("restored")
class TestSetup:
    @pytest.mark.parametrize(
        ("form", "stream", "is_json"),
        [
            ("auto", io.StringIO(), True),
            ("auto", Terminal(), False),
            ("json", Terminal(), True),
            ("logfmt", io.StringIO(), False),
        ],
    )
    def test_chooses_the_format(self, form: Any, stream: io.StringIO, is_json: bool) -> None:  # noqa: FBT001
        logs.setup("info", form, stream=stream)
        event(logs.logger("test"), "info", "hello")
        assert stream.getvalue().startswith("{") is is_json
        assert "hello" in stream.getvalue()

    def test_takes_the_journal_where_standard_error_is_its(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: Journal
    ) -> None:
        monkeypatch.setattr(Journald.__init__, "__defaults__", (journal.path,))
        with (tmp_path / "stderr").open("w") as stream:
            status = os.fstat(stream.fileno())
            monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
            logs.setup("info", "auto", stream=stream)
            event(logs.logger("test"), "info", "hello")
            logs.setup("info", "json", stream=stream)
        assert journal.entry()["DSG_EVENT"] == "hello"

    def test_sets_the_level_of_ours_and_quiets_libraries(self) -> None:
        stream = io.StringIO()
        logs.setup("debug", "json", stream=stream)
        event(logs.logger("test"), "debug", "ours")
        logging.getLogger("library").info("theirs")
        logging.getLogger("library").warning("theirs, important")
        assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [
            "ours",
            "theirs, important",
        ]

    def test_twice_writes_once(self) -> None:
        first, second = io.StringIO(), io.StringIO()
        logs.setup("info", "json", stream=first)
        logs.setup("warning", "json", stream=second)
        event(logs.logger("test"), "info", "quiet")
        event(logs.logger("test"), "error", "loud")
        assert first.getvalue() == ""
        assert len(second.getvalue().splitlines()) == 1
