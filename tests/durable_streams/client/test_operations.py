"""Create, append, head, close and delete as flows: what is sent, what is tried again, what an answer means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from durable_streams import _operations, errors
from durable_streams._types import AppendResult, CloseResult, HeadResult
from durable_streams._wire import Answer, Failure, Reply
from harness.stream_client import URL, Script, policy

STORED = Reply(204, {"stream-next-offset": "7"})
LOST = Failure("ReadTimeout")
REFUSED = Failure("ConnectError", sent=False)
BROKEN = Reply(500, {})
LATER = Reply(503, {"retry-after": "3"})
SLOWER = Reply(429, {})


BAD_GATEWAY = Reply(502, {})
CLOSED = Reply(409, {"stream-closed": "true", "stream-next-offset": "9"})
TAIL = "3"


def append(
    script: Script, seq: str | None = None, *, tail: str | None = None, max_retries: int = 3
) -> AppendResult:
    chosen = policy(max_retries=max_retries)
    flow = _operations.append(URL, chosen, [b"a", b"b"], content_type="text/plain", seq=seq, tail=tail)
    return script.run(flow)


def ends_at(offset: str) -> Reply:
    """The answer to HEAD."""
    return Reply(200, {"stream-next-offset": offset})


def methods(script: Script) -> list[str]:
    return [request.method for request in script.requests]


class TestAppend:
    def test_sends_the_messages_as_one_body(self) -> None:
        script = Script([STORED])
        assert append(script, "0001") == AppendResult("7")
        request = script.requests[0]
        assert (request.method, request.url, request.body) == ("POST", URL, b"ab")
        assert request.headers == {"content-type": "text/plain", "stream-seq": "0001"}

    def test_json_messages_become_one_array(self) -> None:
        script = Script([STORED])
        script.run(_operations.append(URL, policy(), [b"[1]", b"2"], content_type="application/json", seq=None))
        assert script.requests[0].body == b"[[1],2]"

    @pytest.mark.parametrize("definite", [REFUSED, LATER, SLOWER, Reply(421, {}), Reply(425, {})])
    def test_what_was_certainly_not_stored_is_sent_again(self, definite: Answer) -> None:
        script = Script([definite, definite, STORED])
        assert append(script) == AppendResult("7")
        assert len(script.requests) == 3

    @pytest.mark.parametrize("ambiguous", [LOST, BROKEN])
    def test_with_a_sequence_of_the_callers_it_is_sent_again(self, ambiguous: Answer) -> None:
        script = Script([ambiguous, STORED])
        assert append(script, "0001") == AppendResult("7")

    def test_a_conflict_after_a_lost_answer_names_the_lost_answer(self) -> None:
        script = Script([LOST, Reply(409, {})])
        with pytest.raises(errors.SeqConflictError) as raised:
            append(script, "0001")
        assert "earlier attempt" in raised.value.__notes__[0]
        assert raised.value.in_doubt

    def test_with_a_sequence_it_fails_in_doubt_if_no_attempt_was_answered(self) -> None:
        with pytest.raises(errors.FetchError) as raised:
            append(Script([LOST, REFUSED, REFUSED, REFUSED]), "0001")
        assert raised.value.in_doubt

    def test_a_success_that_is_no_stream_servers_is_none(self) -> None:
        with pytest.raises(errors.FetchError, match="not a stream server's") as raised:
            append(Script([Reply(200, {"content-type": "text/html"}, b"<html>Log in")]))
        assert raised.value.in_doubt, "a proxy may have taken the headers away"


class TestAPlainAppendAfterAnUncertainAnswer:
    @pytest.mark.parametrize("finished", [BROKEN, Reply(503, {})])
    def test_is_sent_again_while_the_stream_ends_where_it_did(self, finished: Answer) -> None:
        script = Script([finished, ends_at(TAIL), finished, ends_at(TAIL), STORED])
        assert append(script, tail=TAIL) == AppendResult("7")
        assert methods(script) == ["POST", "HEAD", "POST", "HEAD", "POST"]
        assert script.sleeps == [0.05, 0.1], "back-off comes before the question"
        assert script.requests[1].headers == {"cache-control": "no-cache"}

    def test_waits_as_long_as_the_server_asks(self) -> None:
        script = Script([Reply(500, {"retry-after": "4"}), ends_at(TAIL), STORED])
        append(script, tail=TAIL)
        assert script.sleeps == [4.0]

    def test_is_certainly_not_stored_when_the_last_attempt_failed_and_the_stream_has_not_grown(self) -> None:
        script = Script([BROKEN, ends_at(TAIL)] * 2)
        with pytest.raises(errors.FetchError) as raised:
            append(script, tail=TAIL, max_retries=1)
        assert not raised.value.in_doubt
        assert raised.value.status == 500
        assert "not stored" in raised.value.__notes__[0]

    @pytest.mark.parametrize(
        ("answers", "tail", "words", "sent"),
        [
            pytest.param([LOST], TAIL, "on its way. Before it, the stream ended at '3'", ["POST"], id="lost"),
            pytest.param([LOST], None, "on its way.", ["POST"], id="lost-unknown-tail"),
            pytest.param([BAD_GATEWAY], TAIL, "on its way", ["POST"], id="proxy-502"),
            pytest.param([Reply(504, {})], TAIL, "on its way", ["POST"], id="proxy-504"),
            pytest.param([Reply(408, {})], TAIL, "on its way", ["POST"], id="slow-408"),
            pytest.param([BROKEN], None, "had not seen", ["POST"], id="unknown-tail"),
            pytest.param([BROKEN, ends_at("4")], TAIL, "from '3' to '4'", ["POST", "HEAD"], id="grown"),
            pytest.param([BROKEN, Reply(404, {})], TAIL, "answered 404", ["POST", "HEAD"], id="deleted"),
            pytest.param([BROKEN, Reply(200, {})], TAIL, "answered 200", ["POST", "HEAD"], id="portal"),
            pytest.param([BROKEN, *[REFUSED] * 4], TAIL, "ConnectError", ["POST", *["HEAD"] * 4], id="no-head"),
        ],
    )
    def test_raises_in_doubt_and_says_what_is_known(
        self, answers: list[Answer], tail: str | None, words: str, sent: list[str]
    ) -> None:
        script = Script(list(answers))
        with pytest.raises(errors.FetchError) as raised:
            append(script, tail=tail)
        assert raised.value.in_doubt
        assert "may have been stored" in raised.value.__notes__[0]
        assert words in raised.value.__notes__[0]
        assert raised.value.url == URL
        assert methods(script) == sent

    def test_is_in_doubt_only_about_the_attempt_that_is(self) -> None:
        """The first attempt was found not to be stored; what the second is told holds for all."""
        script = Script([BROKEN, ends_at(TAIL), Reply(413, {})])
        with pytest.raises(errors.PayloadTooLargeError) as raised:
            append(script, tail=TAIL)
        assert not raised.value.in_doubt

    def test_asks_again_when_the_question_fails(self) -> None:
        script = Script([BROKEN, BROKEN, LOST, ends_at(TAIL), STORED])
        assert append(script, tail=TAIL) == AppendResult("7")
        assert methods(script) == ["POST", "HEAD", "HEAD", "HEAD", "POST"]

    def test_is_in_no_doubt_when_nothing_was_sent(self) -> None:
        with pytest.raises(errors.FetchError) as raised:
            append(Script([REFUSED] * 4))
        assert not raised.value.in_doubt


class TestBackOff:
    def test_doubles_from_attempt_to_attempt(self) -> None:
        script = Script([BROKEN, BROKEN, BROKEN, Reply(200, {"stream-next-offset": "1"})])
        script.run(_operations.head(URL, policy()))
        assert script.sleeps == [0.05, 0.1, 0.2]

    def test_is_as_long_as_the_server_asks(self) -> None:
        script = Script([LATER, STORED])
        append(script)
        assert script.sleeps == [3.0]

    def test_ends_with_the_last_answers_error(self) -> None:
        script = Script([BROKEN, BROKEN, BROKEN, SLOWER])
        with pytest.raises(errors.RateLimitedError):
            script.run(_operations.head(URL, policy(max_retries=3)))
        assert len(script.requests) == 4


class TestErrors:
    @pytest.mark.parametrize(
        ("reply", "kind"),
        [
            (Reply(404, {}), errors.StreamNotFoundError),
            (Reply(410, {}), errors.RetentionGoneError),
            (Reply(409, {"stream-closed": "true"}), errors.StreamClosedError),
            (Reply(409, {"stream-closed": "no"}), errors.ContentTypeMismatchError),
            (Reply(409, {"producer-expected-seq": "4"}), errors.SequenceGapError),
            (Reply(403, {"producer-epoch": "4"}), errors.StaleEpochError),
            (Reply(403, {}), errors.UnauthorizedError),
            (Reply(401, {}), errors.UnauthorizedError),
            (Reply(400, {}), errors.BadRequestError),
            (Reply(413, {}), errors.PayloadTooLargeError),
            (Reply(302, {"location": "http://elsewhere/"}), errors.FetchError),
            (Reply(405, {}), errors.FetchError),
            (Reply(409, {"producer-expected-seq": "x"}), errors.ContentTypeMismatchError),
            (Reply(501, {}), errors.FetchError),
        ],
    )
    def test_each_answer_has_its_own(self, reply: Reply, kind: type[errors.DurableStreamError]) -> None:
        script = Script([reply])
        with pytest.raises(kind) as raised:
            append(script)
        assert type(raised.value) is kind
        assert raised.value.status == reply.status
        assert raised.value.url == URL
        assert raised.value.headers == reply.headers
        assert not raised.value.in_doubt
        assert "/s" in raised.value.message
        assert len(script.requests) == 1

    def test_a_redirect_names_where_it_leads(self) -> None:
        with pytest.raises(errors.FetchError, match="http://elsewhere/"):
            append(Script([Reply(307, {"location": "http://elsewhere/"})]))

    def test_the_servers_words_are_quoted(self) -> None:
        with pytest.raises(errors.BadRequestError, match="no such thing"):
            append(Script([Reply(400, {"content-type": "text/plain"}, b"no such thing")]))

    def test_a_failure_keeps_its_cause(self) -> None:
        cause = OSError("reset")
        with pytest.raises(errors.FetchError) as raised:
            append(Script([Failure("reset", cause=cause)]))
        assert raised.value.__cause__ is cause

    def test_credentials_in_a_query_are_not_quoted(self) -> None:
        flow = _operations.head(f"{URL}?token=secret", policy())
        with pytest.raises(errors.StreamNotFoundError) as raised:
            Script([Reply(404, {})]).run(flow)
        assert "secret" not in str(raised.value)


class TestCreate:
    def run(self, script: Script, **options: object) -> HeadResult:
        chosen: dict[str, object] = {
            "content_type": "application/json",
            "ttl_seconds": None,
            "expires_at": None,
            "body": None,
            "closed": False,
            **options,
        }
        return script.run(_operations.create(URL, policy(), **chosen))  # type: ignore[arg-type]

    def test_sends_the_configuration(self) -> None:
        script = Script([Reply(201, {"stream-next-offset": "0"})])
        moment = datetime(2030, 1, 2, tzinfo=UTC)
        assert self.run(script, expires_at=moment, body=[{"a": 1}, 2], closed=True).offset == "0"
        request = script.requests[0]
        assert request.method == "PUT"
        assert request.body == b'[{"a":1},2]'
        assert request.headers == {
            "content-type": "application/json",
            "stream-expires-at": "2030-01-02T00:00:00+00:00",
            "stream-closed": "true",
        }

    def test_is_repeated_after_a_lost_answer(self) -> None:
        script = Script([LOST, Reply(200, {"stream-next-offset": "0"})])
        assert self.run(script, ttl_seconds=60).stream_closed is False
        assert script.requests[1].headers["stream-ttl"] == "60"

    def test_a_conflict_means_that_it_exists_differently(self) -> None:
        with pytest.raises(errors.StreamExistsError):
            self.run(Script([Reply(409, {})]))

    def test_a_conflict_with_a_closed_stream_means_the_same(self) -> None:
        with pytest.raises(errors.StreamExistsError, match="closed"):
            self.run(Script([Reply(409, {"stream-closed": "true"})]))

    def test_a_conflict_after_a_lost_answer_is_in_doubt(self) -> None:
        with pytest.raises(errors.StreamExistsError) as raised:
            self.run(Script([LOST, Reply(409, {})]))
        assert raised.value.in_doubt

    @pytest.mark.parametrize(
        ("body", "sent"),
        [(None, None), ("", None), (b"", None), ([1, [2]], b"[1,[2]]"), (' {"a": 1}', b'{"a": 1}'), ([], b"[]")],
    )
    def test_json_content_is_text_or_a_value(self, body: object, sent: bytes | None) -> None:
        script = Script([Reply(201, {"stream-next-offset": "0"})])
        self.run(script, body=body)
        assert script.requests[0].body == sent

    def test_an_instant_of_any_zone_is_sent_as_utc(self) -> None:
        script = Script([Reply(201, {"stream-next-offset": "0"})])
        self.run(script, expires_at=datetime(2030, 1, 2, tzinfo=timezone(timedelta(hours=2, seconds=30))))
        assert script.requests[0].headers["stream-expires-at"] == "2030-01-01T21:59:30+00:00"

    @pytest.mark.parametrize(
        "options",
        [
            {"ttl_seconds": 1, "expires_at": "2030-01-01T00:00:00Z"},
            {"ttl_seconds": -1},
            {"ttl_seconds": 1.5},
            {"expires_at": datetime(2030, 1, 2)},  # noqa: DTZ001 - that it lacks a zone is the point
            {"expires_at": "tomorrow"},
            {"expires_at": "2030-01-01T00:00:00"},
            {"content_type": "text/plain", "body": {"a": 1}},
            {"body": "not JSON"},
        ],
    )
    def test_mistakes_are_found_before_anything_is_sent(self, options: dict[str, object]) -> None:
        script = Script([])
        with pytest.raises(ValueError, match=r"ttl_seconds|expires_at|bytes or str|not a JSON"):
            self.run(script, **options)
        assert script.requests == []


class TestHeadCloseDelete:
    def test_head_tells_what_the_headers_say(self) -> None:
        headers = {
            "content-type": "text/plain",
            "stream-next-offset": "9",
            "stream-closed": "TRUE",
            "etag": '"e"',
            "cache-control": "no-store",
        }
        result = Script([Reply(200, headers)]).run(_operations.head(URL, policy()))
        assert result == HeadResult("text/plain", "9", stream_closed=True, etag='"e"', cache_control="no-store")

    def test_closing_without_a_message_is_repeated(self) -> None:
        script = Script([LOST, STORED])
        flow = _operations.close(URL, policy(), None, content_type=None)
        assert script.run(flow) == CloseResult("7")
        assert script.requests[0].headers == {"stream-closed": "true"}
        assert script.requests[0].body == b""

    def test_closing_with_a_message_is_repeated_because_a_closed_stream_takes_no_second_one(self) -> None:
        script = Script([LOST, STORED])
        flow = _operations.close(URL, policy(), b"bye", content_type="text/plain")
        assert script.run(flow) == CloseResult("7")

    @pytest.mark.parametrize(
        ("answers", "tail", "in_doubt"),
        [
            pytest.param([CLOSED], TAIL, False, id="it-was-closed-before"),
            pytest.param([LOST, CLOSED], None, True, id="closed-by-somebody"),
            pytest.param([LOST, CLOSED], TAIL, True, id="grown-and-closed-by-somebody"),
            pytest.param([LOST, CLOSED], "9", False, id="closed-by-another-because-it-has-not-grown"),
            pytest.param([BROKEN, LATER, CLOSED], TAIL, True, id="after-a-500"),
        ],
    )
    def test_closing_a_closed_stream_with_a_message_is_refused(
        self, answers: list[Answer], tail: str | None, *, in_doubt: bool
    ) -> None:
        flow = _operations.close(URL, policy(), b"bye", content_type="text/plain", tail=tail)
        with pytest.raises(errors.StreamClosedError) as raised:
            Script(list(answers)).run(flow)
        assert raised.value.in_doubt is in_doubt

    @pytest.mark.parametrize("status", [404, 410])
    def test_a_deletion_whose_answer_was_lost_succeeded_if_the_stream_is_gone_now(self, status: int) -> None:
        Script([LOST, Reply(status, {})]).run(_operations.delete(URL, policy()))

    @pytest.mark.parametrize(
        ("status", "kind"), [(404, errors.StreamNotFoundError), (410, errors.RetentionGoneError)]
    )
    def test_a_deletion_of_nothing_does_not_succeed(self, status: int, kind: type[Exception]) -> None:
        with pytest.raises(kind):
            Script([Reply(status, {})]).run(_operations.delete(URL, policy()))

    def test_a_head_is_never_in_doubt(self) -> None:
        with pytest.raises(errors.FetchError) as raised:
            Script([LOST] * 4).run(_operations.head(URL, policy()))
        assert not raised.value.in_doubt
