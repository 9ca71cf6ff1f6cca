"""The two fronts are one API; the core knows neither of them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import durable_streams
from durable_streams import errors
from harness.imports import SOURCE, Sources, read_sources

PAIRS = [
    (durable_streams.DurableStream, durable_streams.AsyncDurableStream),
    (durable_streams.StreamResponse, durable_streams.AsyncStreamResponse),
    (durable_streams.SyncIdempotentProducer, durable_streams.IdempotentProducer),
]

# Only one front has these: `aclose` beside `close`, as the async world calls it.
ONLY_ASYNC = {"aclose"}

PUBLIC = """
    BeginRepair RepairStore SaveRepair SetAside Survey
    Acknowledgement AppendResult Appended AsyncDurableStream AsyncItemIterator AsyncStreamResponse Backoff
    BadRequestError CloseResult Command ContentTypeMismatchError DurableStream DurableStreamError FetchError
    Finder Halt HeadResult HeadersLike IdempotentAppendResult IdempotentProducer InvalidOffsetError
    ItemIterator LiveMode MessageError Offset ParamsLike ParseError PayloadTooLargeError Policy PostBatch
    Presence ProducerError ProducerFullError ProducerState ProducerStoppedError ProducerStore
    ProducerStoreDamagedError ProducerStoreError ProducerStoreLockedError Pull RandomSource RateLimitedError
    Resolve RetentionGoneError RetryWith SSEEncodingError SSENotSupportedError SealedBatch SeqConflictError
    SequenceGapError SqliteProducerStore Stage StaleEpochError Stop StoreProducer StreamClosedError
    StreamConsumedError StreamEvent StreamExistsError StreamNotFoundError StreamResponse SyncAcknowledgement
    SyncIdempotentProducer UnauthorizedError Wait astream is_control_message stream
"""

# What callers rely on: `name=default`, or the name alone where there is none. More may come, none may go.
SIGNATURES = {
    "stream": "url offset='-1' live=True cursor=None headers=None params=None on_error=None client=None "
    "timeout=None",
    "DurableStream": "url content_type=None headers=None params=None client=None timeout=None batching=True",
    "DurableStream.create": "url content_type=None ttl_seconds=None expires_at=None body=None closed=False "
    "headers=None params=None client=None timeout=None batching=True",
    "DurableStream.connect": "url headers=None params=None client=None timeout=None",
    "DurableStream.head_static": "url headers=None params=None client=None timeout=None",
    "DurableStream.delete_static": "url headers=None params=None client=None timeout=None",
    "DurableStream.create_stream": "content_type=None ttl_seconds=None expires_at=None body=None closed=False",
    "DurableStream.head": "",
    "DurableStream.append": "data seq=None",
    "DurableStream.stream": "offset='-1' live=True cursor=None headers=None params=None on_error=None",
    "DurableStream.close_stream": "data=None",
    "DurableStream.delete": "",
    "StreamResponse.iter_bytes": "",
    "StreamResponse.iter_text": "encoding='utf-8'",
    "StreamResponse.iter_json": "decode=None",
    "StreamResponse.iter_json_batches": "",
    "StreamResponse.iter_events": "mode='bytes'",
    "StreamResponse.read_bytes": "",
    "StreamResponse.read_text": "encoding='utf-8'",
    "StreamResponse.read_json": "decode=None",
    "StreamResponse.read_json_batches": "",
    "IdempotentProducer": "url_or_stream producer_id client=None epoch=0 auto_claim=False max_batch_bytes=1048576 "
    "linger_ms=5 max_in_flight=5 content_type=None headers=None params=None on_error=None store=None",
    "IdempotentProducer.append": "data",
    "IdempotentProducer.append_nowait": "data",
    "IdempotentProducer.flush": "",
    "IdempotentProducer.restart": "",
    "IdempotentProducer.close_stream": "data=None",
    "IdempotentProducer.close": "",
}

ATTRIBUTES = {
    "StreamResponse": "url content_type live offset start_offset cursor up_to_date stream_closed headers status "
    "ok closed",
    "IdempotentProducer": "epoch next_seq pending_count in_flight_count",
    "AppendResult": "next_offset",
    "CloseResult": "final_offset",
    "HeadResult": "exists content_type offset stream_closed etag cache_control",
    "IdempotentAppendResult": "offset duplicate",
    "StreamEvent": "data next_offset up_to_date cursor",
}


def public(cls: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(cls) if not name.startswith("_")}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


def found(path: str) -> Any:
    value: Any = durable_streams
    for name in path.split("."):
        value = getattr(value, name)
    return value


class TestParity:
    @pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
    def test_both_have_the_same_members(self, sync: type, asynchronous: type) -> None:
        assert public(asynchronous).keys() - public(sync).keys() == ONLY_ASYNC
        assert public(sync).keys() <= public(asynchronous).keys()

    @pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
    def test_both_take_the_same_arguments(self, sync: type, asynchronous: type) -> None:
        assert parameters(sync) == parameters(asynchronous)
        for name, member in public(sync).items():
            other = public(asynchronous)[name]
            if callable(member):
                assert parameters(member) == parameters(other), name
            else:
                assert isinstance(other, property), name

    def test_both_functions_take_the_same_arguments(self) -> None:
        assert parameters(durable_streams.stream) == parameters(durable_streams.astream)


class TestTheSurface:
    def test_is_what_it_was(self) -> None:
        assert set(durable_streams.__all__) == set(PUBLIC.split())

    @pytest.mark.parametrize("path", SIGNATURES)
    def test_takes_what_it_took(self, path: str) -> None:
        signature = inspect.signature(found(path))
        taken = [
            name if each.default is inspect.Parameter.empty else f"{name}={each.default!r}"
            for name, each in signature.parameters.items()
            if name != "self"
        ]
        positional = [each for each in SIGNATURES[path].split() if "=" not in each]
        assert set(SIGNATURES[path].split()) <= set(taken)
        assert taken[: len(positional)] == positional

    @pytest.mark.parametrize("path", ATTRIBUTES)
    def test_tells_what_it_told(self, path: str) -> None:
        assert set(ATTRIBUTES[path].split()) <= set(dir(found(path)))

    def test_every_error_is_exported_and_under_one_root(self) -> None:
        every = {
            name: value
            for name, value in vars(errors).items()
            if isinstance(value, type) and issubclass(value, Exception)
        }
        assert every.keys() <= set(durable_streams.__all__)
        assert all(issubclass(each, durable_streams.DurableStreamError) for each in every.values())
        codes = [vars(each)["code"] for each in every.values()]
        assert len(codes) == len(set(codes)), "two errors share a code"

    def test_every_name_that_is_exported_exists_and_is_documented(self) -> None:
        for name in durable_streams.__all__:
            value = getattr(durable_streams, name)
            if isinstance(value, type) or inspect.isfunction(value):
                assert value.__doc__, name

    def test_an_error_tells_what_it_knows(self) -> None:
        error = durable_streams.FetchError("x", status=500, url="u", headers={"a": "b"})
        assert (error.code, error.status, error.url, error.headers, error.records) == (
            "FETCH_ERROR",
            500,
            "u",
            {"a": "b"},
            (),
        )


@pytest.fixture(scope="module")
def sources() -> Sources:
    return read_sources(SOURCE)


class TestTheCore:
    @pytest.mark.parametrize(
        "module",
        [
            "_answers",
            "_batches",
            "_batching",
            "_checks",
            "_decoding",
            "_drain",
            "_effects",
            "_events",
            "_exchange",
            "_handle",
            "_inflate",
            "_intake",
            "_items",
            "_json_pages",
            "_messages",
            "_operations",
            "_pacing",
            "_pages",
            "_producer",
            "_pull",
            "_reactions",
            "_reader",
            "_retry",
            "_sse",
            "_store_messages",
            "_types",
            "_urls",
            "_window",
            "_wire",
            "errors",
        ],
    )
    def test_does_no_input_and_output(self, module: str, sources: Sources) -> None:
        forbidden = {"httpx", "asyncio", "anyio", "threading", "time", "random", "socket"}
        imported = {
            each.imported.split(".")[0] for each in sources.imports if each.importer == f"durable_streams.{module}"
        }
        assert imported & forbidden == set()
