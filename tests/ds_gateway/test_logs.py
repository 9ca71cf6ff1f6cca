from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from ds_gateway import logs
from ds_gateway.logs import REPEAT_SECONDS, EventHandler, JsonFormatter, LogfmtFormatter, event

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
