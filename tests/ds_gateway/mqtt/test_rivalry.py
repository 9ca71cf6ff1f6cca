"""Another client with the same client id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ds_gateway.mqtt.rivalry import Rivalry
from harness.mosquitto import Mosquitto
from harness.mqtt_bench import CLIENT_ID, take_over
from harness.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from harness.mqtt_bench import Bench

CLOSED = "the broker closed the connection"
EVENT = "mqtt.disconnected"
GUESSED = f"{CLOSED}, 3 times in a row within 10 s after it had accepted the client: perhaps another client uses"


@pytest.fixture
def rivalry() -> Rivalry:
    return Rivalry("hall", "line-7", short_seconds=10.0)


class TestARival:
    def test_is_known_where_the_broker_says_so(self, rivalry: Rivalry) -> None:
        said = "the broker ended the connection: Session taken over"
        assert rivalry.ended(said, 100.0, cut=False) == (
            f"{said}: another client uses the client id 'line-7', too; stop the other one, or give one of the two "
            "another client id (here mqtt.hall.client_id)"
        )

    def test_is_guessed_after_three_short_connections(self, rivalry: Rivalry) -> None:
        assert [rivalry.ended(CLOSED, 9.9, cut=True) for _ in range(2)] == [CLOSED] * 2
        third = rivalry.ended(CLOSED, 0.0, cut=True)
        assert third.startswith(f"{GUESSED} the client id 'line-7', too; then stop the other one")
        assert "4 times" in rivalry.ended(CLOSED, 0.0, cut=True)

    @pytest.mark.parametrize(("seconds", "cut"), [(10.0, True), (0.0, False)])
    def test_is_not_guessed_over_a_long_connection_or_another_reason(
        self, rivalry: Rivalry, *, seconds: float, cut: bool
    ) -> None:
        for _ in range(2):
            rivalry.ended(CLOSED, 0.0, cut=True)
        assert rivalry.ended(CLOSED, seconds, cut=cut) == CLOSED
        assert rivalry.ended(CLOSED, 0.0, cut=True) == CLOSED

    def test_has_nothing_to_do_with_a_broker_that_is_away(self, rivalry: Rivalry) -> None:
        for _ in range(2):
            rivalry.ended(CLOSED, 0.0, cut=True)
        assert rivalry.ended("refused", None, cut=False) == "refused"
        assert GUESSED in rivalry.ended(CLOSED, 0.0, cut=True)


@pytest.mark.parametrize(
    ("version", "reason"),
    [("3.1.1", GUESSED), ("5", f"another client uses the client id {CLIENT_ID!r}, too")],
)
def test_a_real_brokers_rival_is_named(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture, version: str, reason: str
) -> None:
    with caplog.at_level("INFO", "ds_gateway.mqtt"), Mosquitto(tmp_path / "broker") as broker:
        source = bench.start(broker.url, version=version)
        for number in range(3):
            wait_until(
                lambda: (now := source.snapshot()).state == "connected" and now.reconnects >= number,  # noqa: B023
                what="the source is connected",
            )
            take_over(broker.port)
            wait_until(
                lambda: caplog.messages.count(EVENT) > number,  # noqa: B023
                what="the source has lost the connection",
            )
    reasons = [vars(each)["event_values"]["reason"] for each in caplog.records if each.message == EVENT]
    assert reason in reasons[2]
