"""The page of a real gateway process."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx

from durable_streams.testing import InMemoryStreamServer
from harness.gateway_process import GatewayProcess
from harness.ports import free_port
from harness.pty_device import PtyDevice

if TYPE_CHECKING:
    from pathlib import Path

    from harness.processes import Processes

SECRETS = ("the-servers-token", "the-pages-token")
STREAM = "telemetry/line-7"


def test_it_has_its_port_as_soon_as_that_is_free_and_tells_all_but_secrets(
    processes: Processes, tmp_path: Path
) -> None:
    port = free_port()
    with (
        closing(InMemoryStreamServer()) as server,
        PtyDevice(tmp_path / "usb-scale") as device,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False) as client,
    ):
        device.plug()
        gateway = GatewayProcess(
            processes,
            tmp_path,
            {
                "gateway": {"id": "line-7"},
                "server": {"url": server.url("/v1"), "token": SECRETS[0]},
                "journal": {"min_free_bytes": 0},
                "serial": {"scale": {"port": str(device.path)}},
                "status": {"listen": f"127.0.0.1:{port}", "token": SECRETS[1]},
            },
        )
        with socket.create_server(("127.0.0.1", port)):
            gateway.start()
            gateway.wait_connected()
            device.send(b"\n12.5\n")
            status = gateway.wait_delivered(1)
            assert status["page"]["state"] == "unheard"
            (told,) = gateway.events("page.unheard")
            assert told["level"] == "warning"
            assert told["reason"] == status["page"]["reason"]
        gateway.wait_for(lambda status: status["page"]["state"] == "listening", what="there is a page")

        assert [client.get(path).text for path in ("/healthz", "/readyz")] == ["ok\n", "ok\n"]
        client.headers["authorization"] = f"Bearer {SECRETS[1]}"
        shown: dict[str, Any] = client.get("/status.json").json()
        assert shown.keys() == status.keys()
        assert [each["last_data"] for each in shown["devices"]] == [{"value": "12.5"}]
        metrics = client.get("/metrics").text
        assert f'ds_gateway_stream_sent_total{{stream="{STREAM}"}} 1.0' in metrics
        gateway.wait_for(
            lambda status: status["streams"][0]["sent_per_second"] is not None, what="the stream has a rate"
        )
        texts = [client.get(path).text for path in ("/", "/status.json", "/metrics")]
        for secret in SECRETS:
            assert not any(secret in text for text in texts)
            assert secret not in gateway.child.output
        # The client's connection is open still: it must not hold the gateway up.
        assert gateway.terminate() == 0
