"""Reading as a flow: pages, long-polls, resumption, the end."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from durable_streams import errors
from durable_streams._decoding import BytesDecoder, JsonDecoder
from durable_streams._items import END, Checkpoint, Items
from durable_streams._reader import LONG_POLL_TIMEOUT_SECONDS, Mode, Reader, resolve_mode
from durable_streams._wire import Answer, Failure, Reply
from harness.stream_client import URL, Clock, Script, page, policy

BROKE = Failure("the answer broke off")
UP_TO_DATE = {"stream_up_to_date": "true"}
CLOSED = {"stream_up_to_date": "true", "stream_closed": "true"}


class Reading:
    """A read of a scripted server, item by item."""

    def __init__(self, script: Script, decoder: Any = None, *, clock: Clock | None = None, **options: Any) -> None:
        chosen: dict[str, Any] = {"offset": "-1", "live": False, **options}
        self.script = script
        self.reader = Reader(URL, policy(clock), **chosen)
        self.checkpoint = Checkpoint(chosen["offset"], chosen.get("cursor"))
        self.items: Items[Any] = Items(self.reader, decoder or BytesDecoder(), self.checkpoint)

    def next(self) -> Any:
        return self.script.run(self.items.next())

    def rest(self) -> list[Any]:
        return self.script.run(self.items.all())

    def asked(self) -> list[dict[str, str]]:
        return [dict(request.params) for request in self.script.requests]


def script(*pages: tuple[Answer, list[Any]], **options: Any) -> Script:
    answers = [answer for answer, _ in pages]
    # The script closes one body for each page that was begun.
    return Script(
        answers, bodies=[list(chunks) for answer, chunks in pages if isinstance(answer, Reply)], **options
    )


class TestCatchUp:
    def test_follows_pages_to_the_end(self) -> None:
        reading = Reading(
            script((page("1"), [b"a", b"b"]), (page("2"), [b"c"]), (page("3", **UP_TO_DATE), [b"d"])),
        )
        assert reading.rest() == [b"a", b"b", b"c", b"d"]
        assert reading.asked() == [{"offset": "-1"}, {"offset": "1"}, {"offset": "2"}]
        assert (reading.checkpoint.offset, reading.checkpoint.up_to_date) == ("3", True)

    def test_ends_at_a_page_that_does_not_advance(self) -> None:
        reading = Reading(script((page("1"), [b"a"]), (page("1"), [])))
        assert reading.rest() == [b"a"]

    def test_ends_at_the_closure_without_asking_again(self) -> None:
        reading = Reading(script((page("1", stream_closed="true"), [b"a"])), live=True)
        assert reading.rest() == [b"a"]
        assert reading.checkpoint.closed
        assert reading.next() is END

    def test_gives_up_after_some_failures(self) -> None:
        failures: list[Answer] = [Reply(500, {})] * 4
        reading = Reading(Script(failures))
        with pytest.raises(errors.FetchError):
            reading.rest()
        assert reading.script.sleeps == [0.05, 0.1, 0.2]

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(404, errors.StreamNotFoundError), (410, errors.RetentionGoneError), (400, errors.InvalidOffsetError)],
    )
    def test_a_refusal_is_raised_at_once(self, status: int, kind: type[Exception]) -> None:
        with pytest.raises(kind):
            Reading(Script([Reply(status, {})])).rest()

    def test_an_answer_that_is_no_stream_servers_is_tried_again(self) -> None:
        reading = Reading(
            script((Reply(200, {"content-type": "text/html"}), [b"<html>"]), (page("1", **UP_TO_DATE), [b"a"]))
        )
        assert reading.rest() == [b"a"]


class TestLongPoll:
    def test_begins_with_a_plain_read_and_then_waits(self) -> None:
        reading = Reading(
            script(
                (page("1", stream_cursor="c1", **UP_TO_DATE), [b"a"]),
                (page("2", stream_cursor="c2", **UP_TO_DATE), [b"b"]),
                (Reply(204, {"stream-next-offset": "2", "stream-cursor": "c3", "stream-up-to-date": "true"}), []),
                (page("3", **CLOSED), [b"c"]),
            ),
            live="long-poll",
        )
        assert reading.rest() == [b"a", b"b", b"c"]
        assert reading.asked() == [
            {"offset": "-1"},
            {"live": "long-poll", "offset": "1", "cursor": "c1"},
            {"live": "long-poll", "offset": "2", "cursor": "c2"},
            {"live": "long-poll", "offset": "2", "cursor": "c3"},
        ]
        timeouts = [request.timeout_seconds for request in reading.script.requests]
        assert timeouts == [None, *[LONG_POLL_TIMEOUT_SECONDS] * 3]

    def test_a_page_of_many_is_caught_up_with_plain_reads(self) -> None:
        reading = Reading(
            script(
                (page("1", **UP_TO_DATE), []),
                (page("2"), [b"a"]),  # a long-poll that returned only a part
                (page("3", **CLOSED), [b"b"]),
            ),
            live=True,
        )
        assert reading.rest() == [b"a", b"b"]
        assert reading.asked()[2] == {"offset": "2"}

    def test_resumes_for_ever(self) -> None:
        failures: list[Answer] = [Failure("down", sent=False)] * 50
        reading = Reading(
            Script(
                [page("1", **UP_TO_DATE), *failures, page("2", **CLOSED)],
                bodies=[[b"a"], [b"b"]],
            ),
            live=True,
        )
        assert reading.rest() == [b"a", b"b"]
        assert reading.script.sleeps[-1] == 15.0  # half of the longest back-off
        assert reading.asked()[-1] == {"live": "long-poll", "offset": "1"}

    def test_but_does_not_begin_for_ever(self) -> None:
        reading = Reading(Script([Failure("down", sent=False)] * 4), live=True)
        with pytest.raises(errors.FetchError):
            reading.script.run(reading.reader.open())

    def test_a_server_that_never_waits_is_not_asked_in_a_hot_loop(self) -> None:
        empty = Reply(204, {"stream-next-offset": "1", "stream-up-to-date": "true"})
        answers: list[Answer] = [page("1", **UP_TO_DATE), *[empty] * 20, page("2", **CLOSED)]
        reading = Reading(Script(answers), live=True)
        assert reading.rest() == []
        assert len(reading.script.sleeps) >= 15
        assert reading.script.sleeps[-1] > 1.0

    def test_a_server_that_waits_is_asked_again_at_once(self) -> None:
        ticks = count()

        class Waiting(Clock):
            def __call__(self) -> float:
                return next(ticks) * 10.0

        empty = Reply(204, {"stream-next-offset": "1", "stream-up-to-date": "true"})
        answers: list[Answer] = [page("1", **UP_TO_DATE), *[empty] * 20, page("2", **CLOSED)]
        reading = Reading(Script(answers), live=True, clock=Waiting())
        assert reading.rest() == []
        assert reading.script.sleeps == []


class TestABrokenPage:
    def test_is_resumed_without_repeating_a_byte(self) -> None:
        reading = Reading(
            script((page("1", **UP_TO_DATE), [b"abc", b"d", BROKE]), (page("1", **UP_TO_DATE), [b"ab", b"cdef"]))
        )
        assert b"".join(reading.rest()) == b"abcdef"

    def test_is_resumed_even_if_the_page_is_shorter_now(self) -> None:
        reading = Reading(
            script(
                (page("2"), [b"abcdef", BROKE]),
                (page("1"), [b"abcd"]),
                (page("3", **UP_TO_DATE), [b"efgh"]),
            )
        )
        assert b"".join(reading.rest()) == b"abcdefgh"

    def test_of_json_is_read_as_a_whole_again(self) -> None:
        reading = Reading(
            script((page("1"), [b"[1,2,", BROKE]), (page("2", **UP_TO_DATE), [b"[1,2,3]"])), JsonDecoder()
        )
        assert reading.rest() == [1, 2, 3]

    def test_gives_up_in_the_end(self) -> None:
        broken = [(page("1"), [b"a", BROKE])] * 4
        reading = Reading(script(*broken))
        with pytest.raises(errors.FetchError, match="broke off"):
            reading.rest()


class TestTheCheckpoint:
    def test_stays_before_a_page_until_its_last_item(self) -> None:
        reading = Reading(
            script((page("1"), [b"[1,2]"]), (page("2", **UP_TO_DATE), [b"[3]"])),
            JsonDecoder(),
        )
        seen = []
        while (item := reading.next()) is not END:
            seen.append((item, reading.checkpoint.offset, reading.checkpoint.up_to_date))
        assert seen == [(1, "-1", False), (2, "1", False), (3, "2", True)]

    def test_passes_an_empty_page(self) -> None:
        reading = Reading(script((page("5", **UP_TO_DATE), [b"[]"])), JsonDecoder(), offset="now")
        assert reading.next() is END
        assert reading.checkpoint.offset == "5"


class TestErrorsCanBeOverruled:
    def test_on_error_decides_about_the_next_attempt(self) -> None:
        answers: list[Answer] = [Reply(401, {}), page("1", **UP_TO_DATE)]
        reading = Reading(Script(answers, bodies=[[b"a"]], try_again=True))
        assert reading.rest() == [b"a"]
        assert [type(error) for error in reading.script.consulted] == [errors.UnauthorizedError]


class TestModes:
    def test_each_word_has_one(self) -> None:
        assert resolve_mode(live=False) is Mode.CATCH_UP
        assert resolve_mode(live=True) is Mode.LONG_POLL
        assert resolve_mode("long-poll") is Mode.LONG_POLL

    def test_an_unknown_word_is_a_mistake(self) -> None:
        with pytest.raises(ValueError, match="'websocket'"):
            resolve_mode("websocket")  # type: ignore[arg-type]
