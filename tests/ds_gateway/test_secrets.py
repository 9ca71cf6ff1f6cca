"""No secret is in the log, in the status or in a stream, whatever goes wrong: everything here goes wrong."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from durable_streams.testing import InMemoryStreamServer
from faults.plant import GATEWAY
from harness.audit import StreamReader
from harness.gateway_process import GatewayProcess, source_of, stream_of
from harness.mosquitto import Mosquitto
from harness.stream_server import Asked, Front, Reply

if TYPE_CHECKING:
    from pathlib import Path

    from harness.processes import Processes

SECRETS = {
    "token": "tok-9f8e7d6c",
    "header": "hdr-1a2b3c4d",
    "password": "pwd-5e6f7a8b",
    "proxy": "prx-0c9d8e7f",
    "status": "sta-3f2e1d0c",
}


def refuse(asked: Asked) -> Reply:
    """As a careless server does it: what it refuses is in its answer."""
    said = json.dumps(dict(asked.headers))
    return Reply(httpx.codes.UNAUTHORIZED, {"x-debug": said, "content-type": "text/html"}, said.encode())


@pytest.mark.parametrize("way", ["refused", "proxy away"])
def test_are_told_nowhere(processes: Processes, tmp_path: Path, way: str) -> None:
    for name, secret in SECRETS.items():
        (tmp_path / name).write_text(f"{secret}\n")
    with (
        closing(InMemoryStreamServer()) as server,
        Front(server.url("/v1")) as front,
        Mosquitto(tmp_path / "broker", users={"somebody": "else"}) as broker,
    ):
        front.rule = refuse
        settings: dict[str, Any] = {
            "gateway": {"id": GATEWAY},
            "server": {
                "url": front.base_url,
                "token": f"${{file:{tmp_path}/token}}",
                "headers": {"x-key": f"${{file:{tmp_path}/header}}"},
                **({"proxy": f"http://gw:{SECRETS['proxy']}@127.0.0.1:1"} if way == "proxy away" else {}),
            },
            "journal": {"min_free_bytes": 0},
            "status": {"token": f"${{file:{tmp_path}/status}}"},
            "health": {"enabled": True},
            "mqtt": {
                "hall": {
                    "url": broker.url,
                    "username": "gw",
                    "password": f"${{file:{tmp_path}/password}}",
                    "devices": [{"topic": "a"}],
                }
            },
        }
        gateway = GatewayProcess(processes, tmp_path, settings)
        gateway.start()
        gateway.wait_for(
            lambda status: "user" in source_of(status, "hall")["reason"], what="the broker refuses its password"
        )
        status = gateway.wait_for(
            lambda status: stream_of(status, f"health/{GATEWAY}").get("state") == "waiting",
            what="the server cannot be reached, or refuses the token",
        )
        told = {"the status": json.dumps(status)}
        assert gateway.terminate() == 0
        told["the log"] = gateway.child.output
        # And what it had to say meanwhile.
        front.rule = lambda _asked: None
        del settings["server"]["proxy" if way == "proxy away" else "headers"]
        gateway.configure(settings)
        gateway.start()
        gateway.wait_for(
            lambda status: stream_of(status, f"health/{GATEWAY}").get("in_stream", 0) > 0, what="health is told"
        )
        records = StreamReader(f"{server.url('/v1')}/health/{GATEWAY}").try_read()
    told["the stream"] = json.dumps(records)
    assert "troubles" in told["the stream"]
    found = [(name, place) for name, secret in SECRETS.items() for place, text in told.items() if secret in text]
    assert found == []
    if way == "refused":
        assert any(SECRETS["token"] in each.headers.get("authorization", "") for each in front.asked)
