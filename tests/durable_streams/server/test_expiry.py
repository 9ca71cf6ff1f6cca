"""Time to live and absolute expiry (PROTOCOL sections 4 and 5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from durable_streams.server import _rules
from durable_streams.server._store import Stream, StreamSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from harness.clock import Clock

TEXT = {"content-type": "text/plain"}
TTL_SECONDS = 100
USES = {
    "read": lambda client: client.get("/s"),
    "read now": lambda client: client.get("/s?offset=now"),
    "long-poll": lambda client: client.get("/s?offset=-1&live=long-poll"),
    "append": lambda client: client.post("/s", headers=TEXT, content=b"x"),
    "close": lambda client: client.post("/s", headers={"stream-closed": "true"}),
}


@pytest.fixture
def living(client: httpx.Client) -> httpx.Client:
    client.put("/s", headers={**TEXT, "stream-ttl": str(TTL_SECONDS)}, content=b"x")
    return client


@pytest.mark.parametrize("use", USES)
def test_each_use_starts_the_time_anew(living: httpx.Client, clock: Clock, use: str) -> None:
    clock.advance(TTL_SECONDS - 1)
    assert USES[use](living).status_code in {200, 204}
    clock.advance(TTL_SECONDS - 1)
    assert living.head("/s").status_code == 200
    clock.advance(3)
    assert living.head("/s").status_code == 404


def test_a_head_does_not(living: httpx.Client, clock: Clock) -> None:
    clock.advance(TTL_SECONDS - 1)
    assert living.head("/s").status_code == 200
    clock.advance(3)
    assert living.head("/s").status_code == 404


@pytest.mark.parametrize("use", [*USES, "delete"])
def test_an_expired_stream_is_gone_for_all(living: httpx.Client, clock: Clock, use: str) -> None:
    clock.advance(TTL_SECONDS + 2)
    act: Callable[[httpx.Client], httpx.Response] = USES.get(use, lambda client: client.delete("/s"))
    assert act(living).status_code == 404


def test_its_place_is_free(living: httpx.Client, clock: Clock) -> None:
    clock.advance(TTL_SECONDS + 2)
    assert living.put("/s", headers=TEXT, content=b"new").status_code == 201
    assert living.get("/s").content == b"new"


def test_no_use_moves_an_absolute_expiry(client: httpx.Client, clock: Clock) -> None:
    clock.now = 1_767_225_590.0  # 2025-12-31T23:59:50Z
    client.put("/s", headers={**TEXT, "stream-expires-at": "2026-01-01T00:00:00Z"}, content=b"x")
    clock.advance(9)
    assert client.get("/s").status_code == 200
    assert client.post("/s", headers=TEXT, content=b"y").status_code == 204
    clock.advance(1)
    assert client.get("/s").status_code == 404


@pytest.mark.parametrize(
    ("header", "value"),
    [
        *(("stream-ttl", value) for value in ("-1", "+60", "060", "60.0", "6e1", "", "abc", "9" * 30)),
        *(
            ("stream-expires-at", value)
            for value in (
                "tomorrow", "", "2030-01-01", "2030-01-01T00:00:00", "2030-13-01T00:00:00Z",
                "2030-01-01 00:00:00Z", "20300101T000000Z",
            )
        ),
    ],
)  # fmt: skip
def test_malformed_ones_are_refused(client: httpx.Client, header: str, value: str) -> None:
    answer = client.put("/s", headers={**TEXT, header: value})
    assert answer.status_code == 400
    assert repr(value[:100]) in answer.text


def test_both_are_refused(client: httpx.Client) -> None:
    headers = {**TEXT, "stream-ttl": "60", "stream-expires-at": "2030-01-01T00:00:00Z"}
    assert client.put("/s", headers=headers).status_code == 400


def test_a_read_stores_a_new_deadline_only_once_the_slack_is_used_up() -> None:
    settings = StreamSettings("text/plain", ttl_seconds=100)
    stream = Stream(1, "u", "/s", settings, deadline=_rules.sliding_deadline(100, 1000.0))
    assert _rules.renewal(stream, 1000.5) is None
    change = _rules.renewal(stream, 1001.5)
    assert change is not None
    assert change.deadline == 1001.5 + 100 + 1
