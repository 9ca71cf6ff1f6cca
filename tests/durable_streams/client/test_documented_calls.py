"""Every call that the protocol's documentation shows for Python, with the arguments and in the forms it shows."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from durable_streams import (
    AsyncDurableStream,
    DurableStream,
    DurableStreamError,
    FetchError,
    IdempotentProducer,
    RetentionGoneError,
    SeqConflictError,
    StreamConsumedError,
    StreamEvent,
    astream,
    stream,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CLICK, SCROLL = {"event": "click"}, {"event": "scroll"}


@pytest.fixture
def filled(url: str) -> str:
    """A closed stream of two messages: live reads of it end."""
    with DurableStream.create(url, content_type="application/json", ttl_seconds=3600) as handle:
        handle.append(CLICK)
        handle.append(SCROLL)
        handle.close_stream()
    return url


class Event:
    """What a decoder makes of a message."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def from_dict(cls, message: dict[str, str]) -> Event:
        return cls(message["event"])


class TestReading:
    def test_iterating_yields_bytes(self, filled: str) -> None:
        with stream(filled) as res:
            assert json.loads(b"".join(chunk for chunk in res)) == [CLICK, SCROLL]

    def test_in_every_other_form(self, filled: str) -> None:
        with stream(filled) as res:
            assert [item for item in res.iter_json()] == [CLICK, SCROLL]  # noqa: C416 - as it is shown
        with stream(filled) as res:
            assert [item.name for item in res.iter_json(decode=Event.from_dict)] == ["click", "scroll"]
        with stream(filled) as res:
            assert list(res.iter_json_batches()) == [[CLICK, SCROLL]]
        with stream(filled) as res:
            assert json.loads("".join(res.iter_text(encoding="utf-8"))) == [CLICK, SCROLL]
        with stream(filled) as res:
            events: list[StreamEvent[list[Any]]] = list(res.iter_events(mode="json"))
        assert [(event.data, event.up_to_date) for event in events] == [([CLICK, SCROLL], True)]
        assert all(isinstance(event.next_offset, str) and hasattr(event, "cursor") for event in events)

    @pytest.mark.parametrize("method", ["read_bytes", "read_text", "read_json", "read_json_batches"])
    def test_everything_at_once_and_once_only(self, filled: str, method: str) -> None:
        with stream(filled, live=False) as res:
            assert len(getattr(res, method)()) > 0
            with pytest.raises(StreamConsumedError):
                getattr(res, method)()

    @pytest.mark.parametrize("live", [False, True, "long-poll", "sse"])
    def test_with_named_arguments(self, filled: str, live: Any) -> None:
        headers, params = {"Authorization": "Bearer token"}, {"tenant": "my-tenant"}
        res = stream(url=filled, offset=None, live=live, headers=headers, params=params)
        assert res.read_json() == [CLICK, SCROLL]
        res.close()

    def test_over_a_pool_of_ones_own(self, filled: str) -> None:
        with httpx.Client(timeout=30.0) as client:
            for _ in range(2):
                with stream(filled, client=client) as res:
                    assert len(res.read_json()) == 2

    def test_with_async_with_and_without_await(self, filled: str) -> None:
        async def main() -> list[Any]:
            async with astream(filled) as res:
                read = [item async for item in res.iter_json()]
            res = await astream(url=filled, offset=res.offset, live=True)
            async with res:
                return [read, [item async for item in res.iter_json()]]

        assert asyncio.run(main()) == [[CLICK, SCROLL], []]


class TestHandles:
    def test_in_their_three_forms(self, url: str) -> None:
        headers = {"Authorization": "Bearer token"}
        handles = (
            DurableStream.create(url=url, content_type="application/json", ttl_seconds=3600, headers=headers),
            DurableStream.connect(url=url, headers=headers),
            DurableStream(url=url, headers=headers),
            DurableStream(url, batching=False),
        )
        for number, handle in enumerate(handles):
            handle.append({"n": number})
        result = handles[0].head()
        assert (result.exists, result.content_type) == (True, "application/json")
        with handles[0].stream(offset=result.offset, live=False) as res:
            assert list(res.iter_json()) == []
        handles[0].append(SCROLL, seq="seq-001")
        with pytest.raises(SeqConflictError):
            handles[0].append(SCROLL, seq="seq-001")
        handles[0].delete()
        for handle in handles:
            handle.close()

    def test_with_async(self, url: str) -> None:
        async def main() -> int:
            handle = await AsyncDurableStream.create(url=url, content_type="application/json")
            await handle.append(CLICK)
            await asyncio.gather(handle.append({"n": 1}), handle.append({"n": 2}), handle.append({"n": 3}))
            async with handle.stream(live=False) as res:
                count = len([item async for item in res.iter_json()])
            await handle.aclose()
            return count

        assert asyncio.run(main()) == 4

    def test_a_producer_that_nobody_waits_for_until_the_end(self, url: str) -> None:
        failed: list[Exception] = []

        async def main() -> list[Any]:
            handle = await AsyncDurableStream.create(url, content_type="application/json")
            producer = IdempotentProducer(
                handle,
                producer_id="event-processor-1",
                auto_claim=True,
                linger_ms=5,
                max_batch_bytes=65536,
                on_error=lambda error: failed.append(error),  # noqa: PLW0108 - as it is shown
            )
            for event in (CLICK, SCROLL):
                producer.append_nowait(json.dumps(event))
            await producer.flush()
            await producer.close()
            async with handle.stream(live=False) as res:
                read = await res.read_json()
            await handle.aclose()
            return read

        assert asyncio.run(main()) == [CLICK, SCROLL]
        assert failed == []


class TestErrors:
    def test_the_order_of_the_handlers_may_be_the_documented_one(self, url: str) -> None:
        caught = []
        try:
            with stream(url) as res:
                res.read_json()
        except (StreamConsumedError, SeqConflictError, RetentionGoneError):
            pass
        except DurableStreamError as error:
            caught = [(error.status, error.code, bool(error.message))]
        assert caught == [(404, "NOT_FOUND", True)]

    def test_on_error_may_bring_new_headers(self, filled: str) -> None:
        def guarded(request: httpx.Request) -> httpx.Response:
            if request.headers.get("authorization") != "Bearer new":
                return httpx.Response(401)
            response = inner.handle_request(request)
            assert isinstance(response, httpx.Response)
            return response

        def handle_error(error: Exception) -> Any:
            if isinstance(error, FetchError) and error.status == 401:
                return {"headers": {"Authorization": "Bearer new"}}
            return None

        with httpx.HTTPTransport() as inner, httpx.Client(transport=httpx.MockTransport(guarded)) as client:
            with stream(filled, on_error=handle_error, client=client) as res:
                assert list(res.iter_json()) == [CLICK, SCROLL]

    @pytest.mark.parametrize("value", [lambda: "Bearer token", "Bearer token"])
    def test_headers_may_be_called_for(self, filled: str, value: str | Callable[[], str]) -> None:
        with stream(filled, headers={"Authorization": value}, live=False) as res:
            assert len(res.read_json()) == 2
