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
# A store's coroutines need a loop, so only the async producer drains one.
ONLY_ASYNC_ARGUMENTS = {"store"}


def public(cls: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(cls) if not name.startswith("_")}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [
        (each.name, each.kind, each.default)
        for each in inspect.signature(function).parameters.values()
        if each.name not in ONLY_ASYNC_ARGUMENTS
    ]


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
            "_effects",
            "_exchange",
            "_handle",
            "_items",
            "_messages",
            "_operations",
            "_reactions",
            "_reader",
            "_retry",
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
