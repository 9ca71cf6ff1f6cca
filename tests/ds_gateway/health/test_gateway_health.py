"""The health stream of a whole gateway: real processes, a server behind TLS, a port that is unplugged, a kill."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from durable_streams.testing import InMemoryStreamServer
from faults.plant import GATEWAY
from harness.audit import StreamReader
from harness.gateway_process import GatewayProcess, stream_of
from harness.journal_box import covered
from harness.pty_device import PtyDevice
from harness.stream_server import Front
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.processes import Processes

TLS = Path(__file__).parent.parent / "tls"
STREAM = f"health/{GATEWAY}"


def health_of(url: str) -> list[dict[str, Any]]:
    return [record for record in StreamReader(url).try_read() if record.get("kind") == "health"]


def test_it_tells_starts_changes_and_stops_exactly_once(processes: Processes, tmp_path: Path) -> None:
    with (
        closing(InMemoryStreamServer()) as server,
        Front(server.url("/v1"), tls=(TLS / "chain.pem", TLS / "server.key")) as front,
        PtyDevice(tmp_path / "scale") as device,
    ):
        device.plug()
        settings = {
            "gateway": {"id": GATEWAY},
            "server": {"url": front.base_url, "tls": {"ca": str(TLS / "ca.pem")}},
            "journal": {"min_free_bytes": 0},
            "serial": {"scale": {"port": str(device.path), "stream": "telemetry/{gateway}/scales"}},
            "health": {"enabled": True},
        }
        url = f"{server.url('/v1')}/{STREAM}"

        def told() -> list[str]:
            return [record["info"]["reason"] for record in health_of(url)]

        gateway = GatewayProcess(processes, tmp_path, settings)
        gateway.start()
        gateway.wait_connected()
        wait_until(
            lambda: told() and health_of(url)[-1]["info"]["sources"] == {"scale": "open"},
            what="it tells that it started, and that it is well",
        )
        device.unplug()
        wait_until(lambda: health_of(url)[-1]["info"]["sources"] != {"scale": "open"}, what="the change is told")
        newest = health_of(url)[-1]["info"]
        assert newest["sources"] == {"scale": "waiting"}
        assert newest["troubles"][0].startswith("scale: ")
        assert (newest["boots"], newest["starts"]) == (1, 1)
        assert newest["certificates"] == {
            "server": "2048-01-01T00:00:00Z",
            "server.tls.ca": "2120-01-01T00:00:00Z",
        }

        gateway.kill()
        gateway.start()
        device.plug()
        status = gateway.wait_connected()
        assert {each["name"]: each["problem"] for each in status["certificates"]} == {"server.tls.ca": ""}
        wait_until(lambda: told().count("start") == 2, what="it tells that it started again")
        assert gateway.terminate() == 0
        assert told()[-1] == "stop"
        assert health_of(url)[-1]["info"]["starts"] == 2
        assert stream_of(status, STREAM)["lost"] == 0
        assert covered(health_of(url)) == list(range(1, len(told()) + 1))
