from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from ds_gateway.config import models, schema
from ds_gateway.config.quantities import Bytes, Number, Seconds, WholeSeconds
from ds_gateway.config.server import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel


def models_below(annotation: Any) -> Iterator[type[BaseModel]]:
    model = schema.as_model(annotation)
    if model is None:
        for argument in typing.get_args(annotation):
            yield from models_below(argument)
        return
    yield model
    for info in schema.fields(model).values():
        yield from models_below(schema.plain(info.annotation))


ALL = list(dict.fromkeys(models_below(models.Settings)))


def all_fields() -> Iterator[tuple[str, Any]]:
    for model in ALL:
        for name, info in schema.fields(model).items():
            yield f"{model.__name__}.{name}", info


def accepted(kind: Any, value: object) -> Any:
    return TypeAdapter(kind).validate_python(value, strict=True)


class TestSizes:
    @pytest.mark.parametrize(
        ("text", "size"),
        [(0, 0), (512, 512), ("512", 512), ("512B", 512), ("1kB", 1000), ("1 KiB", 1024), ("1.5GiB", 3 * 2**29),
         ("2G", 2 * 10**9), ("2Ti", 2**41), (" 7 ", 7)],
    )  # fmt: skip
    def test_with_and_without_units(self, text: object, size: int) -> None:
        assert accepted(Bytes, text) == size

    @pytest.mark.parametrize(
        "text", ["", "-1", -1, "1.5.2", "1e3", "GiB", "2 XB", 1.5, True, None, "9" * 30, 2**63]
    )
    def test_refused(self, text: object) -> None:
        with pytest.raises(ValidationError):
            accepted(Bytes, text)


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [(5, 5.0), (0.5, 0.5), ("250ms", 0.25), ("60s", 60.0), ("5m", 300.0), ("5 min", 300.0), ("1.5h", 5400.0),
         ("1d", 86400.0), ("7", 7.0), ("0.1ms", 0.0001)],
    )  # fmt: skip
    def test_with_and_without_units(self, text: object, seconds: float) -> None:
        assert accepted(Seconds, text) == seconds

    @pytest.mark.parametrize("text", ["", "-1s", -1, "1 week", "1:30", True, None, "99999999d", float("nan")])
    def test_refused(self, text: object) -> None:
        with pytest.raises(ValidationError):
            accepted(Seconds, text)

    def test_whole_seconds(self) -> None:
        assert accepted(WholeSeconds, "1m") == 60
        with pytest.raises(ValidationError):
            accepted(WholeSeconds, "500ms")


class TestNumbers:
    @pytest.mark.parametrize("number", [0, -3, 0.1, 10**30])
    def test_stay_what_they_are(self, number: float) -> None:
        result = accepted(Number, number)
        assert (type(result), result) == (type(number), number)

    @pytest.mark.parametrize("value", ["1", True, None, []])
    def test_refused(self, value: object) -> None:
        with pytest.raises(ValidationError):
            accepted(Number, value)


@pytest.mark.parametrize(("name", "info"), list(all_fields()))
def test_every_field_says_what_it_is_for(name: str, info: Any) -> None:
    assert info.description, name
    assert info.description.endswith("."), name


def test_the_library_reads_no_environment_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_GATEWAY__LOG__LEVEL", "debug")
    settings = models.Settings.model_validate(
        {"gateway": {"id": "a"}, "data_dir": "/d", "server": {"url": "http://h"}}
    )
    assert settings.log.level == "info"


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "https://h:1/v1/stream/",
        "http://[::1]:80/x",
        "http://user@h/",
        "http://h:99999",
        "//h",
        "http://a..b",
    ],
)
def test_a_server_has_a_plain_url(url: str) -> None:
    if url in {"http://h", "https://h:1/v1/stream/", "http://[::1]:80/x"}:
        assert ServerSettings.model_validate({"url": url}).url == url.rstrip("/")
    else:
        with pytest.raises(ValidationError):
            ServerSettings.model_validate({"url": url})


@pytest.mark.parametrize("name", ["Producer-Id", "stream-seq", "Content-Type", "Transfer-Encoding", "X Y", "X\n"])
def test_headers_of_the_protocol_cannot_be_set(name: str) -> None:
    with pytest.raises(ValidationError):
        ServerSettings.model_validate({"url": "http://h", "headers": {name: "x"}})
