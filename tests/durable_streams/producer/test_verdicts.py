"""What each answer to a producer's POST means (PROTOCOL sections 5.2 and 5.2.1)."""

from __future__ import annotations

import itertools

import pytest

from durable_streams._producer import PROBE_SEQ, Attempt, Verdict, judge, producer_request
from durable_streams._wire import Failure, Reply

FRESH = Attempt(epoch=3, seq=7)
REPEATED = Attempt(epoch=3, seq=7, repeated=True)
NEXT = {"stream-next-offset": "0_9"}
ECHO = {"producer-epoch": "3", "producer-seq": "7"}


def reply(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
    return Reply(status, headers or {}, body)


TABLE = [
    # (what came back, fresh attempt, repeated attempt)
    (reply(200, {**ECHO, **NEXT}), Verdict.APPENDED, Verdict.APPENDED),
    (reply(200, ECHO), Verdict.UNCONFIRMED, Verdict.UNCONFIRMED),
    (reply(200, NEXT), Verdict.UNCONFIRMED, Verdict.UNCONFIRMED),
    (reply(204, NEXT), Verdict.UNCONFIRMED, Verdict.UNCONFIRMED),
    (reply(200, {**NEXT, "producer-epoch": "2", "producer-seq": "7"}), Verdict.UNCONFIRMED, Verdict.UNCONFIRMED),
    (reply(200, {}, b"<html>log in</html>"), Verdict.PATH_BROKEN, Verdict.PATH_BROKEN),
    (reply(204, ECHO), Verdict.DUPLICATE_UNSENT, Verdict.DUPLICATE),
    (reply(204, {**ECHO, "producer-seq": "8"}), Verdict.DUPLICATE_UNSENT, Verdict.DUPLICATE_UNSENT),
    (reply(204, {**ECHO, "producer-seq": "6"}), Verdict.UNCONFIRMED, Verdict.UNCONFIRMED),
    (reply(409, {"stream-closed": "true", **NEXT}), Verdict.CLOSED, Verdict.CLOSED),
    (reply(409, {"stream-closed": "TRUE", "producer-expected-seq": "7"}), Verdict.CLOSED, Verdict.CLOSED),
    (reply(409, {"producer-expected-seq": "7"}), Verdict.AMBIGUOUS, Verdict.AMBIGUOUS),
    (reply(409, {"producer-expected-seq": "6"}), Verdict.FORGOTTEN, Verdict.FORGOTTEN),
    (reply(409, {"producer-expected-seq": "0"}), Verdict.FORGOTTEN, Verdict.FORGOTTEN),
    (reply(409, {"producer-expected-seq": "8"}), Verdict.AHEAD, Verdict.AHEAD),
    (reply(409, {"content-type": "text/plain"}), Verdict.CONTENT_TYPE, Verdict.CONTENT_TYPE),
    (reply(409, NEXT), Verdict.CONTENT_TYPE, Verdict.CONTENT_TYPE),
    (reply(409, {"content-type": "text/html"}), Verdict.PATH_BROKEN, Verdict.PATH_BROKEN),
    (reply(403, {"producer-epoch": "4"}), Verdict.FENCED, Verdict.FENCED),
    (reply(403, {"producer-epoch": "3"}), Verdict.AMBIGUOUS, Verdict.AMBIGUOUS),
    (reply(403), Verdict.UNAUTHORIZED, Verdict.UNAUTHORIZED),
    (reply(401), Verdict.UNAUTHORIZED, Verdict.UNAUTHORIZED),
    (reply(404), Verdict.PATH_BROKEN, Verdict.PATH_BROKEN),
    (reply(404, NEXT), Verdict.MISSING, Verdict.MISSING),
    (reply(410, NEXT), Verdict.GONE, Verdict.GONE),
    (reply(410), Verdict.PATH_BROKEN, Verdict.PATH_BROKEN),
    (reply(413, NEXT), Verdict.TOO_LARGE, Verdict.TOO_LARGE),
    (reply(413), Verdict.PATH_BROKEN, Verdict.PATH_BROKEN),
    (reply(400, {"producer-epoch": "2"}), Verdict.EPOCH_BEHIND, Verdict.EPOCH_BEHIND),
    (reply(400, NEXT), Verdict.REFUSED, Verdict.REFUSED),
    (reply(400), Verdict.PATH_BROKEN, Verdict.PATH_BROKEN),
    (reply(302, NEXT), Verdict.PATH_BROKEN, Verdict.PATH_BROKEN),
    (reply(511, {"content-type": "text/html"}), Verdict.AMBIGUOUS, Verdict.AMBIGUOUS),
    (reply(421), Verdict.WAIT, Verdict.WAIT),
    (reply(425), Verdict.WAIT, Verdict.WAIT),
    (reply(429), Verdict.WAIT, Verdict.WAIT),
    (reply(429, {"retry-after": "3"}), Verdict.WAIT, Verdict.WAIT),
    (reply(503, {"retry-after": "3"}), Verdict.WAIT, Verdict.WAIT),
    (reply(503), Verdict.AMBIGUOUS, Verdict.AMBIGUOUS),
    (reply(500, NEXT), Verdict.AMBIGUOUS, Verdict.AMBIGUOUS),
    (reply(502), Verdict.AMBIGUOUS, Verdict.AMBIGUOUS),
    (reply(507, NEXT), Verdict.WAIT, Verdict.WAIT),
    (reply(405, NEXT), Verdict.AMBIGUOUS, Verdict.AMBIGUOUS),
    (reply(408), Verdict.PATH_BROKEN, Verdict.PATH_BROKEN),
    (Failure("timed out"), Verdict.AMBIGUOUS, Verdict.AMBIGUOUS),
    (Failure("connection refused", sent=False), Verdict.NOT_SENT, Verdict.NOT_SENT),
]


@pytest.mark.parametrize(("answer", "fresh", "repeated"), TABLE, ids=lambda value: str(value)[:60])
def test_the_table(answer: Reply | Failure, fresh: Verdict, repeated: Verdict) -> None:
    assert judge(FRESH, answer).verdict is fresh
    assert judge(REPEATED, answer).verdict is repeated


CLOSING_TABLE = [
    (reply(204, {"stream-closed": "true", **ECHO, **NEXT}), Verdict.ENDED),
    (reply(204, {"stream-closed": "true", **NEXT}), Verdict.ENDED),
    (reply(200, {"stream-closed": "true", **ECHO, **NEXT}), Verdict.APPENDED),
    (reply(204, NEXT), Verdict.UNCONFIRMED),
    (reply(204, {}), Verdict.PATH_BROKEN),
    (reply(409, {"stream-closed": "true", **NEXT}), Verdict.CLOSED),
    (reply(403, {"producer-epoch": "4"}), Verdict.FENCED),
]


@pytest.mark.parametrize(("answer", "expected"), CLOSING_TABLE, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("repeated", [False, True])
def test_the_table_of_a_request_that_only_closes(answer: Reply, expected: Verdict, *, repeated: bool) -> None:
    assert judge(Attempt(epoch=3, seq=7, repeated=repeated, closes=True), answer).verdict is expected


def test_every_verdict_is_in_the_table() -> None:
    seen = {verdict for row in TABLE for verdict in row[1:]} | {verdict for _, verdict in CLOSING_TABLE}
    assert seen == set(Verdict)


HEADER_CHOICES: dict[str, list[str | None]] = {
    "producer-epoch": [None, "2", "3", "4", "-1", "x", "9" * 30],
    "producer-seq": [None, "0", "6", "7", "8", "", "1e3"],
    "producer-expected-seq": [None, "0", "7", "9"],
    "stream-closed": [None, "true", "false"],
    "stream-next-offset": [None, "0_9"],
}
STATUSES = [
    100,
    200,
    201,
    204,
    206,
    301,
    304,
    400,
    401,
    403,
    404,
    405,
    409,
    410,
    413,
    418,
    429,
    500,
    503,
    511,
    599,
]


def every_reply() -> list[Reply]:
    replies = []
    for values in itertools.product(*HEADER_CHOICES.values()):
        headers = {name: value for name, value in zip(HEADER_CHOICES, values, strict=True) if value is not None}
        replies += [Reply(status, headers) for status in STATUSES]
    return replies


def test_every_combination_has_a_meaning_and_none_lies() -> None:
    for answer, attempt in itertools.product(
        every_reply(), (FRESH, REPEATED, Attempt(3, 0), Attempt(3, PROBE_SEQ))
    ):
        verdict = judge(attempt, answer).verdict
        echoed = answer.headers.get("producer-epoch") == str(attempt.epoch) and answer.headers.get(
            "producer-seq"
        ) == str(attempt.seq)
        if verdict is Verdict.APPENDED:
            assert answer.status == 200
            assert echoed
        if verdict is Verdict.DUPLICATE:
            assert answer.status == 204
            assert attempt.repeated
        if not answer.from_stream_server:
            assert verdict in {
                Verdict.PATH_BROKEN,
                Verdict.WAIT,
                Verdict.UNAUTHORIZED,
                Verdict.AMBIGUOUS,
                Verdict.CONTENT_TYPE,
            }, "an answer that anybody could have given decides nothing"


def test_a_claim_at_seq_zero_that_was_used_is_not_a_success() -> None:
    answer = reply(204, {"producer-epoch": "3", "producer-seq": "0"})
    assert judge(Attempt(3, 0), answer).verdict is Verdict.DUPLICATE_UNSENT
    assert judge(Attempt(3, 0, repeated=True), answer).verdict is Verdict.DUPLICATE


def test_a_judgement_carries_what_it_rests_on() -> None:
    assert judge(FRESH, reply(200, {**ECHO, **NEXT})).offset == "0_9"
    assert judge(FRESH, reply(409, {"producer-expected-seq": "2"})).expected_seq == 2
    assert judge(FRESH, reply(403, {"producer-epoch": "9"})).server_epoch == 9
    assert "too big" in judge(FRESH, reply(413, {**NEXT, "content-type": "text/plain"}, b"too big\n")).detail


def test_the_request_carries_all_three_producer_headers() -> None:
    request = producer_request("http://s/x", "me", FRESH, b"[1]", content_type="application/json")
    assert (request.method, request.body) == ("POST", b"[1]")
    assert dict(request.headers) == {
        "content-type": "application/json",
        "producer-id": "me",
        "producer-epoch": "3",
        "producer-seq": "7",
    }
