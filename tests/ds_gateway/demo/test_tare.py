from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ds_gateway.config.server import ServerSettings
from ds_gateway.demo.report import Commanded
from ds_gateway.demo.tare import Tare
from ds_gateway.dialogue import Address
from durable_streams import DurableStream
from durable_streams.testing import InMemoryStreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

JSON = "application/json"


def tare(server: InMemoryStreamServer, server_is_there: Callable[[], bool]) -> Tare:
    address = Address(ServerSettings(url=server.url("/v1")), "demo", "commands/demo", "receipts/demo")
    return Tare(
        "tare-1", address, server_is_there=server_is_there, expires_after_seconds=100_000.0, timeout_seconds=60.0
    )


def commands(server: InMemoryStreamServer) -> list[dict[str, Any]]:
    with (
        DurableStream(server.url("/v1/commands/demo")) as stream,
        stream.stream(live=False) as response,
    ):
        return response.read_json()


class TestTare:
    def test_waits_for_the_server_and_tells_its_receipts(self) -> None:
        there, asked = threading.Event(), threading.Event()

        def server_is_there() -> bool:
            asked.set()
            return there.is_set()

        with (
            InMemoryStreamServer() as server,
            DurableStream.create(server.url("/v1/commands/demo"), content_type=JSON),
            DurableStream.create(server.url("/v1/receipts/demo"), content_type=JSON) as receipts,
            tare(server, server_is_there) as command,
        ):
            assert asked.wait(20)
            assert (commands(server), command.has_ended) == ([], False)
            there.set()
            wait_until(lambda: commands(server) != [], what="the command is in the stream")
            (sent,) = commands(server)
            assert (sent["id"], sent["device"], sent["payload"]) == ("tare-1", "scale", None)
            assert sent["expires_after"] == 86400.0, "the most that a gateway takes"
            for status, is_final in (("accepted", False), ("acknowledged", True)):
                info = {"command": "tare-1", "status": status, "final": is_final}
                receipts.append({"kind": "receipt", "info": info})
            wait_until(lambda: command.has_ended, what="the last receipt came")
            said = ["command tare-1 is in commands/demo", "accepted", "acknowledged"]
            assert (command.take_said(), command.take_said()) == (said, [])
            assert command.outcome() == Commanded("tare-1", "acknowledged", is_final=True, told="acknowledged")

    def test_what_cannot_be_sent_is_told(self) -> None:
        with InMemoryStreamServer() as server, tare(server, lambda: True) as command:
            wait_until(lambda: command.has_ended, what="it has ended")
            outcome = command.outcome()
        assert (outcome.status, outcome.is_final) == ("", False)
        assert "there is no stream commands/demo" in outcome.told

    def test_the_end_of_the_demo_is_the_end_of_its_waiting(self) -> None:
        with (
            InMemoryStreamServer() as server,
            DurableStream.create(server.url("/v1/commands/demo"), content_type=JSON),
        ):
            with tare(server, lambda: False) as unsent:
                pass
            with tare(server, lambda: True) as sent:
                wait_until(lambda: commands(server) != [], what="the command is in the stream")
        assert unsent.has_ended
        assert sent.has_ended
        assert unsent.outcome() == Commanded("tare-1", told="it was not sent")
