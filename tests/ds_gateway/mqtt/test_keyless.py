"""Messages without the key that is looked for."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from ds_gateway.mqtt.keyless import TOLD_EVERY_SECONDS, Keyless
from harness.mosquitto import Mosquitto
from harness.mqtt_bench import Publisher
from harness.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from harness.mqtt_bench import Bench


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(vars(each)) for each in caplog.records if each.message == "mqtt.without_key"]


def test_are_told_at_once_and_then_once_an_hour_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    now = 5.0
    keyless = Keyless("hall", "/id", lambda: now)
    keyless.saw(b"a/b", key=False)
    for now in (6.0, 5.0 + TOLD_EVERY_SECONDS - 1):  # noqa: B007 - the clock
        keyless.saw(b"a/c", key=False)
    (first,) = told(caplog)
    assert "'topic': 'a/b', 'dedupe_key': '/id', 'messages': 1" in first
    now = 5.0 + TOLD_EVERY_SECONDS
    keyless.saw(b"a/\xff", key=False)
    assert "'topic': 'a/\ufffd', 'dedupe_key': '/id', 'messages': 3" in told(caplog)[1]


def test_are_in_the_status_until_one_message_has_the_key() -> None:
    keyless = Keyless("hall", "/id", lambda: 0.0)
    assert not keyless.reason
    keyless.saw(b"a/b", key=False)
    assert keyless.reason.startswith("no message so far has its dedupe_key /id (looked for on a/b)")
    assert keyless.reason.endswith("correct mqtt.hall.dedupe_key or the publisher")
    keyless.saw(b"a/b", key=True)
    assert not keyless.reason
    keyless.saw(b"a/b", key=False)
    assert not keyless.reason


def test_of_a_real_broker_are_told(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Mosquitto(tmp_path / "broker") as broker, closing(Publisher(broker.port)) as publisher:
        source = bench.start(broker.url, dedupe_key="/uuid")
        bench.wait_until_subscribed()
        publisher.publish([b'{"id": 1}', b'{"id": 1}'])
        bench.wait_for([b'{"id": 1}', b'{"id": 1}'])
        wait_until(lambda: source.snapshot().without_key == 2, what="both are counted")
        assert "(looked for on s/1/t)" in source.snapshot().reason
        publisher.publish([b'{"uuid": "a"}'])
        wait_until(lambda: not source.snapshot().reason, what="a key was there")
    assert len(told(caplog)) == 1
