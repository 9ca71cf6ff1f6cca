"""Create, append, head, close and delete as flows: what is sent, what is tried again, what an answer means."""

from __future__ import annotations

from datetime import UTC, datetime

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


def append(script: Script, seq: str | None = None) -> AppendResult:
    return script.run(_operations.append(URL, policy(), [b"a", b"b"], content_type="text/plain", seq=seq))


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

    @pytest.mark.parametrize("definite", [REFUSED, LATER, SLOWER])
    def test_what_was_certainly_not_stored_is_sent_again(self, definite: Answer) -> None:
        script = Script([definite, definite, STORED])
        assert append(script) == AppendResult("7")
        assert len(script.requests) == 3

    @pytest.mark.parametrize("ambiguous", [LOST, BROKEN, Reply(503, {}), Reply(408, {})])
    def test_what_may_have_been_stored_is_not_sent_again_and_says_so(self, ambiguous: Answer) -> None:
        script = Script([ambiguous])
        with pytest.raises(errors.FetchError) as raised:
            append(script)
        assert len(script.requests) == 1
        assert "may have been stored" in raised.value.__notes__[0]

    @pytest.mark.parametrize("ambiguous", [LOST, BROKEN])
    def test_with_a_sequence_of_the_callers_it_is_sent_again(self, ambiguous: Answer) -> None:
        script = Script([ambiguous, STORED])
        assert append(script, "0001") == AppendResult("7")

    def test_a_conflict_after_a_lost_answer_names_the_lost_answer(self) -> None:
        script = Script([LOST, Reply(409, {})])
        with pytest.raises(errors.SeqConflictError) as raised:
            append(script, "0001")
        assert "earlier attempt" in raised.value.__notes__[0]

    def test_a_success_that_is_no_stream_servers_is_none(self) -> None:
        with pytest.raises(errors.FetchError, match="not a stream server's"):
            append(Script([Reply(200, {"content-type": "text/html"}, b"<html>Log in")]))


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
        assert "/s" in str(raised.value)
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

    @pytest.mark.parametrize(
        "options",
        [
            {"ttl_seconds": 1, "expires_at": "2030-01-01T00:00:00Z"},
            {"ttl_seconds": -1},
            {"ttl_seconds": 1.5},
            {"expires_at": datetime(2030, 1, 2)},  # noqa: DTZ001 - that it lacks a zone is the point
            {"content_type": "text/plain", "body": {"a": 1}},
        ],
    )
    def test_mistakes_are_found_before_anything_is_sent(self, options: dict[str, object]) -> None:
        script = Script([])
        with pytest.raises(ValueError, match=r"ttl_seconds|expires_at|bytes or str"):
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

    def test_closing_with_a_message_is_not(self) -> None:
        script = Script([LOST])
        with pytest.raises(errors.FetchError):
            script.run(_operations.close(URL, policy(), b"bye", content_type="text/plain"))

    def test_a_deletion_whose_answer_was_lost_succeeded_if_the_stream_is_gone_now(self) -> None:
        Script([LOST, Reply(404, {})]).run(_operations.delete(URL, policy()))

    def test_a_deletion_of_nothing_does_not_succeed(self) -> None:
        with pytest.raises(errors.StreamNotFoundError):
            Script([Reply(404, {})]).run(_operations.delete(URL, policy()))
