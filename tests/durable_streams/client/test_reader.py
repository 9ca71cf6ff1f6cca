"""Reading as a flow: pages, long-polls, events, resumption, the end."""

from __future__ import annotations

import gc
import itertools
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from durable_streams import StreamEvent, errors
from durable_streams._decoding import JsonDecoder, TextDecoder, event_decoder
from durable_streams._effects import NextChunk, Sleep
from durable_streams._reader import LIVE_TIMEOUT_SECONDS, Mode, resolve_mode
from harness.scripted_reads import (
    BROKE,
    Exchange,
    Reading,
    Stored,
    control,
    data,
    event_stream,
    failure,
    idle,
    page,
    read,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from _typeshed import TraceFunction

    from durable_streams._wire import Failure

UP_TO_DATE = {"stream_up_to_date": "true"}
CLOSED = {"stream_up_to_date": "true", "stream_closed": "true"}


class TestCatchUp:
    def test_follows_pages_to_the_end(self) -> None:
        reading = read([page("1", b"a", b"b"), page("2", b"c"), page("3", b"d", **UP_TO_DATE)])
        assert reading.rest() == [b"a", b"b", b"c", b"d"]
        assert reading.asked() == [{"offset": "-1"}, {"offset": "1"}, {"offset": "2"}]
        assert (reading.checkpoint.offset, reading.checkpoint.up_to_date) == ("3", True)

    def test_ends_at_a_page_that_does_not_advance(self) -> None:
        reading = read([page("1", b"a"), page("1")])
        assert reading.rest() == [b"a"]

    def test_ends_at_the_closure_without_asking_again(self) -> None:
        reading = read([page("1", b"a", stream_closed="true")], live=True)
        assert reading.rest() == [b"a"]
        assert reading.checkpoint.closed
        assert reading.rest() == []

    def test_gives_up_after_some_failures(self) -> None:
        reading = read([refusal(500)] * 4)
        with pytest.raises(errors.FetchError):
            reading.rest()
        assert reading.script.sleeps == pytest.approx([0.05, 0.1, 0.2])

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(404, errors.StreamNotFoundError), (410, errors.RetentionGoneError), (400, errors.InvalidOffsetError)],
    )
    def test_a_refusal_is_raised_at_once(self, status: int, kind: type[Exception]) -> None:
        with pytest.raises(kind):
            read([refusal(status)]).rest()

    def test_an_answer_that_is_no_stream_servers_is_tried_again(self) -> None:
        reading = read([refusal(200, content_type="text/html"), page("1", b"a", **UP_TO_DATE)])
        assert reading.rest() == [b"a"]

    def test_retry_after_is_respected(self) -> None:
        reading = read([refusal(429, retry_after="7"), page("1", b"a", **UP_TO_DATE)])
        assert reading.rest() == [b"a"]
        assert reading.script.sleeps == pytest.approx([7.0])


class TestLongPoll:
    def test_begins_with_a_plain_read_and_then_waits(self) -> None:
        reading = read(
            [
                page("1", b"a", stream_cursor="c1", **UP_TO_DATE),
                page("2", b"b", stream_cursor="c2", **UP_TO_DATE),
                idle("2", stream_cursor="c3"),
                page("3", b"c", **CLOSED),
            ],
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
        assert timeouts == [None, *[LIVE_TIMEOUT_SECONDS] * 3]

    def test_a_page_of_many_is_caught_up_with_plain_reads(self) -> None:
        reading = read(
            [
                page("1", **UP_TO_DATE),
                page("2", b"a"),  # a long-poll that returned only a part
                page("3", b"b", **CLOSED),
            ],
            live="long-poll",
        )
        assert reading.rest() == [b"a", b"b"]
        assert reading.asked()[2] == {"offset": "2"}

    def test_resumes_for_ever(self) -> None:
        reading = read(
            [page("1", b"a", **UP_TO_DATE), *[failure()] * 50, page("2", b"b", **CLOSED)], live="long-poll"
        )
        assert reading.rest() == [b"a", b"b"]
        assert reading.script.sleeps[-1] == pytest.approx(15.0)  # half of the longest back-off
        assert reading.asked()[-1] == {"live": "long-poll", "offset": "1"}

    def test_but_does_not_begin_for_ever(self) -> None:
        reading = read([failure()] * 4, live=True)
        with pytest.raises(errors.FetchError):
            reading.open()

    def test_and_a_read_that_ends_at_up_to_date_gives_up_as_well(self) -> None:
        reading = read([page("1", b"a"), *[failure()] * 4], live=True, until_up_to_date=True)
        assert reading.next() == b"a"
        with pytest.raises(errors.FetchError):
            reading.next()

    def test_a_server_that_never_waits_is_not_asked_in_a_hot_loop(self) -> None:
        reading = read([page("1", **UP_TO_DATE), *[idle("1")] * 20, page("2", **CLOSED)], live="long-poll")
        assert reading.rest() == []
        assert len(reading.script.sleeps) >= 15
        assert 1.0 < reading.script.sleeps[-1] <= 3.2, "slow enough for the server, not too slow for news"

    def test_a_server_that_waits_is_asked_again_at_once(self) -> None:
        reading = read(
            [page("1", **UP_TO_DATE), *[idle("1")] * 20, page("2", **CLOSED)],
            live="long-poll",
            seconds_per_request=10.0,
        )
        assert reading.rest() == []
        assert reading.script.sleeps == []


class TestEvents:
    def test_are_asked_for_from_the_first_request_on(self) -> None:
        reading = read([event_stream(data("a"), control("1", closed=True))], live="sse", cursor="c0")
        assert reading.rest() == [b"a"]
        assert reading.asked() == [{"live": "sse", "offset": "-1", "cursor": "c0"}]
        (request,) = reading.script.requests
        assert request.headers == {"accept": "text/event-stream"}
        assert request.timeout_seconds == LIVE_TIMEOUT_SECONDS

    def test_data_is_handed_out_with_the_control_event_behind_it(self) -> None:
        reading = read(
            [event_stream(data("a"), data("b") + control("1"), data("c"), control("2", closed=True))],
            live="sse",
        )
        seen = []
        for _ in range(3):
            item = reading.next()
            seen.append((item, reading.checkpoint.offset))
        assert seen == [(b"a", "-1"), (b"b", "1"), (b"c", "2")]

    def test_an_item_does_not_wait_for_the_next_chunk(self) -> None:
        reading = read([event_stream(data("a") + control("1"), b": never asked for\n")], live="sse")
        assert reading.next() == b"a"
        assert reading.checkpoint.offset == "1"
        assert reading.script._body == [b": never asked for\n"]

    def test_a_connection_that_ends_in_order_is_made_again_at_once_where_the_last_control_event_says(self) -> None:
        reading = read(
            [
                event_stream(data("a"), control("1", cursor="c1", up_to_date=True)),
                event_stream(control("1", cursor="c2", up_to_date=True)),
                event_stream(data("b"), control("2", closed=True)),
            ],
            live="sse",
            seconds_per_request=60.0,
        )
        assert reading.rest() == [b"a", b"b"]
        assert reading.asked()[1:] == [
            {"live": "sse", "offset": "1", "cursor": "c1"},
            {"live": "sse", "offset": "1", "cursor": "c2"},
        ]
        assert reading.script.sleeps == []

    @pytest.mark.parametrize("ending", [(BROKE,), ()])
    def test_a_connection_that_breaks_inside_a_group_loses_and_repeats_nothing(
        self, ending: tuple[Failure, ...]
    ) -> None:
        reading = read(
            [
                event_stream(data("[1]") + control("1") + data("[2]"), data("[3]"), *ending),
                event_stream(data("[2]"), data("[3]"), control("3", closed=True)),
            ],
            JsonDecoder(),
            live="sse",
        )
        assert reading.rest() == [1, 2, 3]
        assert reading.asked()[1]["offset"] == "1"

    def test_half_an_event_at_the_end_of_a_connection_is_dropped(self) -> None:
        reading = read(
            [
                event_stream(data("a") + control("1")[:-1]),
                event_stream(data("a"), control("1", closed=True)),
            ],
            live="sse",
        )
        assert reading.rest() == [b"a"]

    def test_a_live_read_never_ends_because_a_connection_did(self) -> None:
        breaks: list[Exchange] = [
            event_stream(BROKE),
            failure(),
            refusal(503),
            event_stream(),
            refusal(200, content_type="text/html"),
        ]
        reading = read(
            [event_stream(control("1")), *breaks * 10, event_stream(data("a"), control("2", closed=True))],
            live="sse",
        )
        assert reading.rest() == [b"a"]
        assert reading.script.sleeps[-1] >= 3.2

    def test_a_server_that_ends_every_connection_without_news_is_not_asked_in_a_hot_loop(self) -> None:
        empty = event_stream(control("1", up_to_date=True))
        reading = read([*[empty] * 20, event_stream(control("1", closed=True))], live="sse")
        assert reading.rest() == []
        assert len(reading.script.sleeps) >= 15
        assert reading.script.sleeps[-1] > 1.0

    def test_nor_is_one_whose_connections_break_without_news(self) -> None:
        breaking = event_stream(control("1", up_to_date=True), BROKE)
        reading = read([*[breaking] * 12, event_stream(control("1", closed=True))], live="sse")
        assert reading.rest() == []
        assert all(later >= earlier for earlier, later in pairwise(reading.script.sleeps))
        assert reading.script.sleeps[-1] > 10

    def test_news_make_up_for_failures(self) -> None:
        breaking = [event_stream(data("x"), control(str(number)), BROKE) for number in range(1, 9)]
        reading = read([*breaking, event_stream(control("9", closed=True))], live="sse")
        assert reading.rest() == [b"x"] * 8
        assert reading.script.sleeps == pytest.approx([0.05] * 8)

    def test_binary_arrives_as_the_bytes_that_were_stored(self) -> None:
        reading = read(
            [
                event_stream(
                    data("AP/+", "/fw="),
                    data(""),
                    data("AA=="),
                    control("1", closed=True),
                    stream_sse_data_encoding="base64",
                )
            ],
            live="sse",
        )
        assert b"".join(reading.rest()) == b"\x00\xff\xfe\xfd\xfc\x00"

    def test_text_may_be_divided_inside_of_a_character(self) -> None:
        first, second = data("é")[:-3], data("é")[-3:]
        assert "é".encode() == first[-1:] + second[:1]
        reading = read(
            [
                event_stream(
                    b"event: data\ndata: \xc3\n\n" + control("1"), b"event: data\ndata: \xa9\n\n" + control("2")
                ),
                event_stream(control("2", closed=True)),
            ],
            TextDecoder(),
            live="sse",
        )
        assert reading.next() == "é"
        assert reading.checkpoint.offset == "2"
        assert reading.rest() == []

    def test_each_data_event_of_a_group_is_flattened_one_level(self) -> None:
        reading = read(
            [event_stream(data("[1,", "[2]]"), data('{"a":3}'), data("[4]"), control("1", closed=True))],
            JsonDecoder(),
            live="sse",
        )
        assert reading.rest() == [1, [2], {"a": 3}, 4]

    def test_a_read_to_up_to_date_stops_there(self) -> None:
        reading = read(
            [event_stream(data("a") + control("1") + data("b") + control("2", up_to_date=True) + data("c"))],
            live="sse",
            until_up_to_date=True,
        )
        assert reading.rest() == [b"a", b"b"]
        assert (reading.checkpoint.offset, reading.checkpoint.up_to_date) == ("2", True)

    def test_each_group_is_an_event_and_they_go_on_behind_up_to_date(self) -> None:
        reading = read(
            [
                event_stream(control("1", cursor="c", up_to_date=True)),
                event_stream(data("[1]"), data("[2]"), control("2", closed=True)),
            ],
            event_decoder("json"),
            live="sse",
        )
        events = reading.rest()
        assert [(each.data, each.next_offset, each.up_to_date, each.cursor) for each in events] == [
            ([], "1", True, "c"),
            ([1, 2], "2", True, "c"),
        ]

    def test_unknown_events_are_passed_over(self) -> None:
        unknown = b'event: future\ndata: {"x":1}\n\ndata: a message\n\n'
        reading = read([event_stream(unknown + data("a"), unknown + control("1", closed=True))], live="sse")
        assert reading.rest() == [b"a"]

    @pytest.mark.parametrize("text", ["{no json", "", "[]", '{"upToDate":true}', '{"streamNextOffset":7}'])
    def test_a_control_event_that_says_nothing_is_an_error(self, text: str) -> None:
        broken = f"event: control\ndata: {text}\n\n".encode()
        reading = read([event_stream(data("a") + control("1") + data("b") + broken)], live="sse")
        assert reading.next() == b"a", "what came before the error is handed out"
        for _ in range(2):  # to go on would be to skip
            with pytest.raises(errors.ParseError, match="control event") as raised:
                reading.next()
        assert (raised.value.code, raised.value.url) == ("PARSE_ERROR", reading.reader.url)
        assert reading.checkpoint.offset == "1"

    def test_data_that_is_not_base64_is_an_error(self) -> None:
        reading = read([event_stream(data("A*=="), control("1"), stream_sse_data_encoding="base64")], live="sse")
        with pytest.raises(errors.SSEEncodingError, match=r"A\*=="):
            reading.rest()

    def test_an_encoding_that_nobody_knows_is_an_error(self) -> None:
        reading = read([event_stream(stream_sse_data_encoding="base32")], live="sse")
        with pytest.raises(errors.SSEEncodingError, match="base32"):
            reading.open()


class TestNoEvents:
    @pytest.mark.parametrize("answer", [page("1", b"[]"), refusal(200, content_type="text/html"), refusal(204)])
    def test_a_success_that_is_no_event_stream_is_told_when_the_read_begins(self, answer: Exchange) -> None:
        reading = read([answer], live="sse")
        with pytest.raises(errors.SSENotSupportedError, match="long-poll") as raised:
            reading.open()
        assert raised.value.status in {200, 204}

    @pytest.mark.parametrize("status", [400, 405, 406, 415, 501])
    def test_so_is_a_refusal_where_a_plain_read_is_granted(self, status: int) -> None:
        reading = read([refusal(status), page("1", b"a")], live="sse")
        with pytest.raises(errors.SSENotSupportedError) as raised:
            reading.open()
        assert raised.value.status == status
        assert reading.asked()[1] == {"offset": "-1"}
        assert reading.script.closed == 1, "nobody reads what the plain read found"

    def test_but_not_a_refusal_of_any_read(self) -> None:
        with pytest.raises(errors.InvalidOffsetError):
            read([refusal(400), refusal(400)], live="sse").open()

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(404, errors.StreamNotFoundError), (410, errors.RetentionGoneError), (401, errors.UnauthorizedError)],
    )
    def test_nor_a_stream_that_cannot_be_read(self, status: int, kind: type[Exception]) -> None:
        with pytest.raises(kind):
            read([refusal(status)], live="sse").open()

    def test_nor_a_server_that_is_down(self) -> None:
        with pytest.raises(errors.FetchError):
            read([refusal(502)] * 4, live="sse").open()


class TestTheBestWay:
    """``live=True``."""

    def test_is_events_after_the_catch_up(self) -> None:
        reading = read(
            [
                page("1", b"a"),
                page("2", b"b", stream_cursor="c", **UP_TO_DATE),
                event_stream(data("c"), control("3", up_to_date=True)),
                event_stream(control("3", closed=True)),
            ],
            live=True,
        )
        assert reading.rest() == [b"a", b"b", b"c"]
        assert reading.asked() == [
            {"offset": "-1"},
            {"offset": "1"},
            {"live": "sse", "offset": "2", "cursor": "c"},
            {"live": "sse", "offset": "3", "cursor": "c"},
        ]

    @pytest.mark.parametrize(
        "answer",
        [idle("1"), page("2", b"b", **UP_TO_DATE), *(refusal(status) for status in (400, 405, 406, 415, 501))],
    )
    def test_is_long_polls_where_no_events_are_served_for_the_rest_of_the_read(self, answer: Exchange) -> None:
        reading = read(
            [page("1", b"a", **UP_TO_DATE), answer, page("2", b"b", **UP_TO_DATE), page("3", b"c", **CLOSED)],
            live=True,
        )
        assert reading.rest() == [b"a", b"b", b"c"]
        assert [each.get("live") for each in reading.asked()] == [None, "sse", "long-poll", "long-poll"]
        assert reading.script.sleeps == []

    @pytest.mark.parametrize(
        "events",
        [
            event_stream(data("*"), control("2"), stream_sse_data_encoding="base64"),
            event_stream(stream_sse_data_encoding="base32"),
        ],
    )
    def test_is_long_polls_where_the_events_cannot_be_decoded(self, events: Exchange) -> None:
        reading = read([page("1", b"a", **UP_TO_DATE), events, page("2", b"b", **CLOSED)], live=True)
        assert reading.rest() == [b"a", b"b"]
        assert reading.asked()[2] == {"live": "long-poll", "offset": "1"}

    @pytest.mark.parametrize("answer", [event_stream(), event_stream(BROKE), refusal(502)])
    def test_is_long_polls_where_event_streams_always_break_before_they_bring_anything(
        self, answer: Exchange
    ) -> None:
        reading = read([page("1", **UP_TO_DATE), *[answer] * 3, page("2", b"b", **CLOSED)], live=True)
        assert reading.rest() == [b"b"]
        assert reading.asked()[-1]["live"] == "long-poll"

    @pytest.mark.parametrize("answer", [failure(), refusal(503, retry_after="1"), refusal(429)])
    def test_stays_events_through_an_outage(self, answer: Exchange) -> None:
        reading = read(
            [page("1", **UP_TO_DATE), *[answer] * 9, event_stream(data("b"), control("2", closed=True))], live=True
        )
        assert reading.rest() == [b"b"]
        assert reading.asked()[-1]["live"] == "sse"

    def test_a_stream_that_was_deleted_meanwhile_is_an_error(self) -> None:
        reading = read([page("1", **UP_TO_DATE), refusal(404)], live=True)
        with pytest.raises(errors.StreamNotFoundError):
            reading.rest()

    def test_says_the_streams_content_type_and_not_that_of_events(self) -> None:
        plain = page("1", content_type="text/plain", **UP_TO_DATE)
        reading = read([plain, event_stream(control("1", closed=True))], live=True)
        assert reading.rest() == []
        assert reading.reader.content_type == "text/plain"
        assert reading.reader.headers["content-type"] == "text/event-stream"


class TestABrokenPage:
    def test_is_resumed_without_repeating_a_byte(self) -> None:
        reading = read([page("1", b"abc", b"d", BROKE, **UP_TO_DATE), page("1", b"ab", b"cdef", **UP_TO_DATE)])
        assert b"".join(reading.rest()) == b"abcdef"

    def test_is_resumed_even_if_the_page_is_shorter_now(self) -> None:
        reading = read([page("2", b"abcdef", BROKE), page("1", b"abcd"), page("3", b"efgh", **UP_TO_DATE)])
        assert b"".join(reading.rest()) == b"abcdefgh"

    def test_of_json_hands_out_only_the_messages_that_were_not_handed_out(self) -> None:
        reading = read(
            [page("1", b"[1,2,", b"3,4,", BROKE), page("2", b"[1,2,3,4,5]", **UP_TO_DATE)],
            JsonDecoder(segment_bytes=1),
        )
        assert reading.rest() == [1, 2, 3, 4, 5]

    def test_gives_up_in_the_end(self) -> None:
        reading = read([page("1", b"a", BROKE)] * 4)
        with pytest.raises(errors.FetchError, match="broke off"):
            reading.rest()

    def test_that_is_not_json_stays_an_error(self) -> None:
        reading = read([page("1", b"[1,}"), page("2", b"[2]", **UP_TO_DATE)], JsonDecoder())
        for _ in range(2):
            with pytest.raises(errors.ParseError, match="'-1'"):
                reading.next()
        assert reading.checkpoint.offset == "-1"


class TestAPageThatIsCutShort:
    """Its answer ended in order, as one does that is as long as its connection lives. Only its content tells."""

    def test_is_read_again(self) -> None:
        cut = page("2", b"[1,2,", b"3", **CLOSED)
        reading = read(
            [cut, page("2", b"[1,2,3,4,", b"5]"), page("3", b"[6]", **UP_TO_DATE)],
            JsonDecoder(segment_bytes=1),
        )
        assert reading.rest() == [1, 2, 3, 4, 5, 6]
        assert reading.asked() == [{"offset": "-1"}, {"offset": "-1"}, {"offset": "2"}]
        assert reading.script.sleeps == pytest.approx([0.05])

    @pytest.mark.parametrize("live", [False, "long-poll"])
    def test_every_time_is_an_error_in_the_end_even_in_a_live_read(self, *, live: bool | str) -> None:
        reading = read([page("1", b"[0]"), *[page("2", b"[1,", **UP_TO_DATE)] * 9], JsonDecoder(), live=live)
        assert reading.next() == 0
        for _ in range(2):
            with pytest.raises(errors.ParseError, match="'1'"):
                reading.next()
        assert reading.checkpoint.offset == "1"
        assert len(reading.script.requests) == 1 + 4
        assert reading.script.sleeps == pytest.approx([0.05, 0.1, 0.2])

    @pytest.mark.parametrize("told", [{"content_length": "3"}, {"transfer_encoding": "chunked"}])
    def test_although_its_length_was_told_is_an_error_at_once(self, told: dict[str, str]) -> None:
        reading = read([page("2", b"[1,", **told), page("2", b"[1,2]", **UP_TO_DATE)], JsonDecoder())
        with pytest.raises(errors.ParseError):
            reading.next()
        assert len(reading.script.requests) == 1

    def test_of_events_is_an_error_at_once(self) -> None:
        reading = read([event_stream(data("[1,") + control("1"), data("[2]"))], JsonDecoder(), live="sse")
        with pytest.raises(errors.ParseError):
            reading.next()
        assert len(reading.script.requests) == 1


class TestFromNowOn:
    """``offset="now"``."""

    def test_nothing_is_skipped_once_the_head_of_an_answer_says_where_that_is(self) -> None:
        reading = read(
            [failure(), page("5", BROKE, **UP_TO_DATE), failure(), page("7", b"[6,7]", **CLOSED)],
            JsonDecoder(),
            offset="now",
            live=True,
        )
        reading.open()
        assert reading.reader.start == "5"
        assert reading.rest() == [6, 7]
        assert reading.asked() == [{"offset": "now"}, {"offset": "now"}, {"offset": "5"}, {"offset": "5"}]

    def test_events_are_asked_for_from_where_a_plain_answer_says(self) -> None:
        reading = read(
            [
                page("5", b"[]", content_type="application/json", **UP_TO_DATE),
                event_stream(data("[6]"), BROKE),
                event_stream(data("[6]"), control("6", closed=True)),
            ],
            JsonDecoder(),
            offset="now",
            live="sse",
        )
        reading.open()
        assert (reading.reader.start, reading.reader.content_type) == ("5", "application/json")
        assert reading.rest() == [6]
        events = {"live": "sse", "offset": "5"}
        assert reading.asked() == [{"offset": "now"}, events, events]

    def test_events_that_are_not_served_are_told_when_the_read_begins(self) -> None:
        reading = read([page("5"), refusal(405), page("5")], offset="now", live="sse")
        with pytest.raises(errors.SSENotSupportedError):
            reading.open()

    @pytest.mark.parametrize("live", [True, "sse", "long-poll"])
    def test_a_stream_that_is_closed_takes_one_request(self, *, live: bool | str) -> None:
        reading = read([page("5", **CLOSED)], offset="now", live=live)
        assert reading.rest() == []
        assert reading.checkpoint.closed

    def test_an_answer_that_does_not_know_where_it_is_is_none(self) -> None:
        with pytest.raises(errors.FetchError):
            read([page("now")] * 4, offset="now", live="sse").open()


class TestAnInterruptedWait:
    """A cancelled task, or Ctrl-C: the next call goes on as if nothing had happened."""

    def test_inside_a_page_repeats_and_skips_nothing(self) -> None:
        reading = read(
            [page("1", b"ab", b"cd", b"ef", **UP_TO_DATE), page("1", b"abcdef", b"g", **UP_TO_DATE)], live=False
        )
        assert reading.next() == b"ab"
        reading.script.interrupted = NextChunk
        with pytest.raises(KeyboardInterrupt):
            reading.next()
        reading.script.interrupted = None
        assert b"".join(reading.rest()) == b"cdefg"
        assert reading.checkpoint.offset == "1"
        assert reading.script.sleeps == []

    def test_inside_an_event_stream_goes_on_at_the_last_control_event(self) -> None:
        reading = read(
            [
                event_stream(data("a") + control("1") + data("b"), b"never read"),
                event_stream(data("b"), control("2", closed=True)),
            ],
            live="sse",
        )
        assert reading.next() == b"a"
        reading.script.interrupted = NextChunk
        with pytest.raises(KeyboardInterrupt):
            reading.next()
        reading.script.interrupted = None
        assert reading.rest() == [b"b"]
        assert reading.asked()[1]["offset"] == "1"

    def test_of_a_pause_does_not_begin_it_anew(self) -> None:
        reading = read([page("1", **UP_TO_DATE), failure(), page("2", b"a", **CLOSED)], live="long-poll")
        reading.script.interrupted = Sleep
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                reading.next()
            assert len(reading.script.requests) == 2
            reading.script.clock.seconds += 0.03
        assert reading.next() == b"a", "0.05 s of back-off are over, in however many waits"


class TestAnInterrupt:
    """Ctrl-C, which may come anywhere in this package's code."""

    @pytest.mark.parametrize("decoder", [JsonDecoder, lambda: event_decoder("json")], ids=["messages", "events"])
    def test_skips_nothing_and_its_checkpoint_is_safe_wherever_it_comes(self, decoder: Callable[[], Any]) -> None:
        pages = {
            "-1": page("2", b"[1,", b"2]"),
            "2": page("4", b"[3,", b"4]"),
            "4": page("5", b"[5]", **UP_TO_DATE),
        }
        ends = set()
        for step in range(10_000):
            reading = Reading(Stored([], pages=pages), decoder())
            reached, items = take_interrupted(reading, step)
            messages = [
                each for item in items for each in (item.data if isinstance(item, StreamEvent) else [item])
            ]
            offset = reading.checkpoint.offset
            assert messages == [1, 2, 3, 4, 5][: len(messages)], f"interrupted at step {step}"
            assert max(0, int(offset)) <= len(messages), f"interrupted at step {step}"
            if offset != "5":
                with pytest.raises(errors.StreamConsumedError, match=r"res\.offset"):
                    reading.next()
            ends.add(offset)
            if not reached:
                break
        assert step > 100
        assert ends == {"-1", "2", "4", "5"}

    def test_of_a_decode_gives_up_the_read_rather_than_the_message(self) -> None:
        def convert(message: int) -> int:
            if message in interrupted:
                raise KeyboardInterrupt
            return message

        for message in (1, 2):
            interrupted = {message}
            reading = read([page("1", b"[1,2]", **UP_TO_DATE)], JsonDecoder(), convert=convert)
            with pytest.raises(KeyboardInterrupt):
                reading.rest()
            for _ in range(2):
                with pytest.raises(errors.StreamConsumedError):
                    reading.next()
            assert reading.checkpoint.offset == "-1"


def take_interrupted(reading: Reading, step: int) -> tuple[bool, list[Any]]:
    """Take items to the end; at one step there is an interrupt, and then the read goes on if it can.

    Steps are where the interpreter looks for signals, and all other lines of the package, but for those that hand
    over an item that was taken: between them it never looks.
    """
    steps = itertools.count()
    reached = False

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        nonlocal reached
        code = frame.f_code
        if "durable_streams/_" not in code.co_filename:
            return None
        handing_over = code.co_name in {"__next__", "take_last", "pass_page", "_pass_page"}
        if (event == "call" or (event == "line" and not handing_over)) and next(steps) == step:
            reached = True
            raise KeyboardInterrupt
        return trace

    items: list[Any] = []
    before = sys.gettrace()
    # The collector would end generators of reads that other tests left behind, in the middle of this one: an
    # interrupt there is not this read's.
    gc.disable()
    try:
        while True:
            sys.settrace(None if reached else trace)
            try:
                items.append(reading.next())
            except KeyboardInterrupt:
                continue
            except (StopIteration, errors.StreamConsumedError):
                return reached, items
            finally:
                sys.settrace(before)
    finally:
        gc.enable()


class TestTheCheckpoint:
    def test_stays_before_a_page_until_its_last_item(self) -> None:
        reading = read([page("1", b"[1,2]"), page("2", b"[3]", **UP_TO_DATE)], JsonDecoder())
        seen = []
        for _ in range(3):
            item = reading.next()
            seen.append((item, reading.checkpoint.offset, reading.checkpoint.up_to_date))
        assert seen == [(1, "-1", False), (2, "1", False), (3, "2", True)]

    def test_of_bytes_moves_with_the_last_chunk(self) -> None:
        reading = read([page("1", b"a", b"b"), page("2", b"c", **UP_TO_DATE)])
        seen = []
        for _ in range(3):
            item = reading.next()
            seen.append((item, reading.checkpoint.offset))
        assert seen == [(b"a", "-1"), (b"b", "1"), (b"c", "2")]

    def test_passes_an_empty_page(self) -> None:
        reading = read([page("5", b"[]", **UP_TO_DATE)], JsonDecoder(), offset="now")
        assert reading.rest() == []
        assert reading.checkpoint.offset == "5"

    def test_does_not_pass_a_message_that_could_not_be_decoded(self) -> None:
        def convert(message: int) -> int:
            if message % 2:
                raise ValueError(message)
            return message

        reading = read([page("1", b"[1,2,3]"), page("2", b"[4]", **UP_TO_DATE)], JsonDecoder(), convert=convert)
        seen: list[Any] = []
        for _ in range(4):
            try:
                seen.append((reading.next(), reading.checkpoint.offset))
            except ValueError as error:
                seen.append((error.args[0], reading.checkpoint.offset))
        assert seen == [(1, "-1"), (2, "-1"), (3, "-1"), (4, "2")]

    def test_and_a_decode_that_ends_an_iteration_of_its_own_does_not_end_the_read(self) -> None:
        def convert(message: int) -> int:
            return message or next(iter([]))

        reading = read([page("1", b"[1,0,2]", **UP_TO_DATE)], JsonDecoder(), convert=convert)
        assert reading.next() == 1
        with pytest.raises(RuntimeError):
            reading.next()
        assert reading.rest() == [2]

    def test_does_not_move_while_everything_is_read_at_once(self) -> None:
        reading = read([page("1", b"a"), page("2", b"b", b"c"), refusal(404)])
        with pytest.raises(errors.StreamNotFoundError):
            reading.script.run(reading.items.all())
        assert reading.checkpoint.offset == "-1", "the caller got nothing"

    def test_moves_to_the_end_with_everything(self) -> None:
        reading = read([page("1", b"a"), page("2", b"b", b"c", **UP_TO_DATE)])
        assert reading.script.run(reading.items.all()) == [b"a", b"b", b"c"]
        assert (reading.checkpoint.offset, reading.checkpoint.up_to_date) == ("2", True)


class TestErrorsCanBeOverruled:
    def test_on_error_decides_about_the_next_attempt(self) -> None:
        reading = read([refusal(401), page("1", b"a", **UP_TO_DATE)], try_again=True)
        assert reading.rest() == [b"a"]
        assert [type(error) for error in reading.script.consulted] == [errors.UnauthorizedError]

    def test_also_about_events_that_are_not_served(self) -> None:
        reading = read([refusal(204), event_stream(control("1", closed=True))], live="sse", try_again=True)
        assert reading.rest() == []
        assert [type(error) for error in reading.script.consulted] == [errors.SSENotSupportedError]

    @pytest.mark.parametrize("answers", [[refusal(405), page("1")], [refusal(204)], [refusal(401)]])
    def test_but_not_in_a_hot_loop(self, answers: list[Exchange]) -> None:
        reading = read([*answers * 5, event_stream(control("1", closed=True))], live="sse", try_again=True)
        assert reading.rest() == []
        assert reading.script.sleeps == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8])


class TestEventsOfPages:
    """``iter_events``: what is in an event ends at its ``next_offset``."""

    def test_also_when_a_page_breaks_off_and_is_shorter_then(self) -> None:
        for mode, whole, ends in (
            ("bytes", [b"abcd", b"efgh"], ("4", "8")),
            ("text", ["abcd", "efgh"], ("4", "8")),
            ("json", [[1, 2], [3]], ("4", "8")),
        ):
            first, second = (b"[1,2]", b"[3]") if mode == "json" else (b"abcd", b"efgh")
            broken = b"[1,2,3," if mode == "json" else b"abcdef"
            reading = read(
                [page("8", broken, BROKE), page("4", first), page("8", second, **UP_TO_DATE)], event_decoder(mode)
            )
            assert [(each.data, each.next_offset) for each in reading.rest()] == list(
                zip(whole, ends, strict=True)
            )

    def test_a_page_that_ends_inside_a_character_waits_for_the_next_one(self) -> None:
        a, b, c = "aé".encode()[:2], "é漢".encode()[1:3], "漢z".encode()[1:]
        reading = read(
            [page("2", a), page("4", b, BROKE), page("4", b), page("7", c, **UP_TO_DATE)], event_decoder("text")
        )
        (event,) = reading.rest()
        assert (event.data, event.next_offset) == ("aé漢z", "7")
        assert reading.checkpoint.offset == "7"
        assert reading.asked()[2] == {"offset": "2"}

    def test_text_that_ends_inside_a_character_is_an_error(self) -> None:
        reading = read([page("1", b"a"), page("3", b"b\xc3", **UP_TO_DATE)], event_decoder("text"))
        assert reading.next().data == "a"
        with pytest.raises(errors.ParseError, match="'1'"):
            reading.next()
        assert reading.checkpoint.offset == "1"


class TestModes:
    def test_each_word_has_one(self) -> None:
        assert resolve_mode(live=False) is Mode.CATCH_UP
        assert resolve_mode(live=True) is Mode.AUTO
        assert resolve_mode("long-poll") is Mode.LONG_POLL
        assert resolve_mode("sse") is Mode.SSE

    def test_an_unknown_word_is_a_mistake(self) -> None:
        with pytest.raises(ValueError, match="'websocket'"):
            resolve_mode("websocket")  # type: ignore[arg-type]
