"""``ds-gateway check --live``: real brokers, ports and servers, and what it says of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from ds_gateway.cli.live import judge_sample
from ds_gateway.cli.steps import Tally
from ds_gateway.config.server import ServerSettings
from ds_gateway.uplink.probe import judge
from durable_streams.testing import InMemoryStreamServer
from harness.mosquitto import Mosquitto
from harness.ports import free_port
from harness.pty_device import PtyDevice
from harness.publisher import Publisher
from harness.stream_server import Front, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.command import Command, Ended

TLS: Final = Path(__file__).parent.parent / "mqtt" / "tls"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PtyDevice]:
    with PtyDevice(tmp_path / "scale") as simulated:
        simulated.plug()
        yield simulated


@pytest.fixture(scope="module")
def server() -> Iterator[InMemoryStreamServer]:
    with InMemoryStreamServer() as running:
        running.url()  # listens from here on
        yield running


class Box:
    """One configuration, and checking it."""

    def __init__(self, folder: Path, command: Command, url: str) -> None:
        self._folder = folder
        self._command = command
        self.settings: dict[str, Any] = {
            "gateway": {"id": "line-7"},
            "data_dir": str(folder / "data"),
            "server": {"url": url},
            "journal": {"min_free_bytes": 0},
        }

    def check(self, *more: str, seconds: str = "0.3") -> Ended:
        file = self._folder / "gateway.yaml"
        file.write_text(json.dumps(self.settings))
        return self._command("check", "--live", "--seconds", seconds, "--config", file, *more)

    def lines(self, **more: str) -> tuple[object, list[str]]:
        """The exit status, and what is said of each."""
        done = self.check(**more)
        return done.code, [line for line in done.stdout.splitlines()[1:] if line.startswith(("ok", "failed"))]


@pytest.fixture
def box(tmp_path: Path, command: Command, server: InMemoryStreamServer) -> Box:
    return Box(tmp_path, command, server.url())


def broker_of(broker: Mosquitto, **more: Any) -> dict[str, Any]:
    return {"url": broker.url, "devices": [{"topic": "s/{hall}", "stream": "halls/{hall}"}], **more}


def test_what_would_be_sent_is_shown_and_nothing_is_sent(
    box: Box, tmp_path: Path, server: InMemoryStreamServer, device: PtyDevice
) -> None:
    asked = len(server.requests)
    with Mosquitto(tmp_path / "broker") as broker:
        with Publisher(broker.port) as publisher:
            publisher.publish([("s/a", b'{"t": 1}')], retain=True)
        box.settings["mqtt"] = {"hall": broker_of(broker)}
        box.settings["serial"] = {"scale": {"port": str(device.path)}}
        done = box.check("--json", seconds="0.5")
    assert (done.code, done.stderr) == (0, "")
    hall, scale, told = json.loads(done.stdout)["live"]
    assert hall["ok"], hall
    assert hall["sample"][0]["frames"][0]["record"]["data"] == {"t": 1}
    assert scale["message"].startswith("open; not a byte within 0.5 s")
    assert told == {
        "kind": "server",
        "name": "halls/a",
        "at": server.url(),
        "ok": True,
        "message": "the stream is not there yet: the first record makes it (server.create)",
        "sample": [],
    }
    assert [each.method for each in server.requests[asked:]] == ["HEAD"]
    assert not (tmp_path / "data").exists()


def test_what_is_wrong_with_sources_is_told_with_its_reason(box: Box, tmp_path: Path, device: PtyDevice) -> None:
    (tmp_path / "acl").write_text("user me\ntopic read t/#\n")
    with (
        Mosquitto(tmp_path / "broker", users={"me": "right"}, extra=[f"acl_file {tmp_path / 'acl'}"]) as broker,
        Mosquitto(tmp_path / "open") as other,
    ):
        with Publisher(other.port) as publisher:
            publisher.publish([("s/a", b"no JSON")], retain=True)
        box.settings["mqtt"] = {
            "away": {**broker_of(broker), "url": f"mqtt://127.0.0.1:{free_port()}"},
            "wrong": broker_of(broker, username="me", password="no"),
            "unreadable": broker_of(other),
        }
        box.settings["serial"] = {
            "gone": {"port": str(tmp_path / "no")},
            "mute": {
                "port": str(device.path),
                "poll": {"write": "?\r\n", "interval_seconds": 0.1, "timeout_seconds": 0.05},
            },
        }
        code, lines = box.lines(seconds="0.6")
    assert code == 1
    assert [line.partition("): ")[2] for line in lines[:4]] == [
        "no connection to 127.0.0.1:" + lines[0].split("127.0.0.1:")[2].split(":")[0] + ": Connection refused",
        "the broker refuses the connection: Not authorized (see username and password)",
        "nothing of it can be read (1 payload): see decode, with ds-gateway try",
        f"{tmp_path}/no is not there: unplugged, or it has another name (see /dev/serial/by-id)",
    ]
    assert lines[4].startswith(f"failed: port mute ({device.path}): mute, ?: no answer within 0.05 s")
    assert all(line.startswith("failed") for line in lines[:5])
    assert lines[5].startswith("ok: server")


def test_bytes_without_a_frame_are_a_failure_and_refusals_beside_records_are_none() -> None:
    is_ok, message = judge_sample(Tally(bytes=512), 5.0, is_broker=False)
    assert not is_ok
    assert message.startswith("512 bytes and no frame within 5 s: framing, baud rate or parity do not fit")
    assert judge_sample(Tally(bytes=9, frames=2, records=1, refused=1), 5.0, is_broker=False)[0]
    assert not judge_sample(Tally(bytes=9, frames=2, refused=2), 5.0, is_broker=False)[0]


def test_tls_of_a_broker_and_its_session(box: Box, tmp_path: Path) -> None:
    certificates = (TLS / "ca.pem", TLS / "server.pem", TLS / "server.key")
    with Mosquitto(tmp_path / "broker", tls=certificates) as broker:
        url = f"mqtts://localhost:{broker.port}"
        box.settings["mqtt"] = {
            "trusted": {**broker_of(broker), "url": url, "client_id": "other", "tls": {"ca": str(TLS / "ca.pem")}},
            "untrusted": {**broker_of(broker), "url": url},
        }
        done = box.check()
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines()[1:] if line.startswith(("ok", "failed"))]
    assert done.code == 1
    assert lines[0].endswith("connected and subscribed; no message within 0.3 s")
    assert "the broker's certificate is not accepted" in lines[1]


class TestTheServer:
    def test_that_is_away(self, box: Box, device: PtyDevice) -> None:
        box.settings["server"]["url"] = f"http://127.0.0.1:{free_port()}/v1"
        box.settings["serial"] = {"scale": {"port": str(device.path)}}
        code, lines = box.lines(seconds="0.1")
        assert code == 1
        assert "cannot be reached (Connection refused): start the server" in lines[1]

    def test_that_is_a_portal(self, box: Box, device: PtyDevice, server: InMemoryStreamServer) -> None:
        box.settings["serial"] = {"scale": {"port": str(device.path)}}
        with Front(server.url()) as front:
            front.rule = lambda _asked: Reply(302, {"location": "http://login.example/"})
            box.settings["server"]["url"] = front.base_url
            code, lines = box.lines(seconds="0.1")
        assert code == 1
        assert "HTTP 302 leads to 'http://login.example/'" in lines[1]
        assert "a captive portal" in lines[1]

    def test_that_is_embedded_and_not_started(self, box: Box, device: PtyDevice) -> None:
        box.settings["server"]["url"] = "embedded"
        box.settings["serial"] = {"scale": {"port": str(device.path)}}
        code, lines = box.lines(seconds="0.1")
        assert code == 0
        assert lines[1].endswith("it starts with the gateway")

    @pytest.mark.parametrize(
        ("status", "headers", "is_ok", "told"),
        [
            (200, {"stream-next-offset": "5", "content-type": "application/json"}, True, "ends at 5"),
            (200, {"stream-next-offset": "5", "content-type": "text/plain"}, False, "holds text/plain"),
            (200, {"content-type": "text/html"}, False, "no stream server but a captive portal"),
            (404, {"content-type": "text/html; charset=x"}, False, "no stream server but a captive portal"),
            (404, {}, True, "the first record makes it"),
            (401, {}, False, "refuses the credentials (HTTP 401): see server.token"),
            (407, {}, False, "the proxy wants credentials"),
            (503, {}, False, "fails (HTTP 503)"),
            (418, {}, False, "HTTP 418: what answers is no stream server"),
        ],
    )
    def test_answers(self, status: int, headers: dict[str, str], is_ok: bool, told: str) -> None:  # noqa: FBT001
        found, message = judge(status, headers, ServerSettings(url="http://h/v1"))
        assert (found, told in message) == (is_ok, True), message

    def test_a_stream_that_is_not_there_and_may_not_be_made(self) -> None:
        found, message = judge(404, {}, ServerSettings(url="http://h/v1", create=False))
        assert not found
        assert "server.create is false: create it" in message


def test_an_invalid_file_tries_nothing(box: Box) -> None:
    box.settings["serial"] = {"scale": {}}
    done = box.check()
    assert done.code == 2
    assert "has no port" in done.stderr
    assert json.loads(box.check("--json").stdout)["ok"] is False
