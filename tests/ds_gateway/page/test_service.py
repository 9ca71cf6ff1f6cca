"""The page's address: taken, given back, off; whatever it is, the gateway goes on."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import httpx
import pytest

from ds_gateway.page import StatusPage, server
from ds_gateway.page.app import PageApp
from ds_gateway.page.server import LIMITS
from durable_streams.server import ServerThread
from harness.page_rig import PageRig
from harness.ports import free_port
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A port that somebody else has."""
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        yield listener


def readable(sockets: list[socket.socket]) -> list[socket.socket]:
    """Those of silent connections that were closed."""
    ready, _, _ = select.select(sockets, [], [], 0)
    return ready


class TestAPortInUse:
    def test_it_is_told_once_and_tried_until_it_is_free(
        self, taken: socket.socket, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tries: list[int] = []
        listen = ServerThread.listen

        def counted(thread: ServerThread, host: str, port: int) -> str:
            tries.append(port)
            return listen(thread, host, port)

        monkeypatch.setattr(ServerThread, "listen", counted)
        port = taken.getsockname()[1]
        with PageRig(port=port) as rig:
            summary = rig.summary()
            assert (summary["state"], summary["url"]) == ("unheard", "")
            for words in (f"cannot listen on 127.0.0.1 port {port}", "in use", "status.listen", "off"):
                assert words in summary["reason"]
            wait_until(lambda: len(tries) >= 5, what="it was tried again and again")
            told = [each for each in caplog.records if each.message == "page.unheard"]
            assert [each.levelname for each in told] == ["WARNING"]
            taken.close()
            wait_until(lambda: rig.summary()["state"] == "listening", what="the page has its port")
            assert rig.summary() == {"state": "listening", "url": f"http://127.0.0.1:{port}/", "reason": ""}
            assert httpx.get(rig.url + "healthz", trust_env=False, verify=False).text == "ok\n"

    def test_a_gateway_that_ends_meanwhile_ends(self, taken: socket.socket) -> None:
        with PageRig(port=taken.getsockname()[1]) as rig:
            assert rig.summary()["state"] == "unheard"


class TestAPageThatFails:
    def test_a_defect_at_the_start_is_told_and_tried_again(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(server, "PageApp", lambda *_: 1 / 0)
        with PageRig() as rig:
            assert "defect: ZeroDivisionError" in rig.summary()["reason"]
            assert "page.unheard" in caplog.text
            monkeypatch.setattr(server, "PageApp", PageApp)
            wait_until(lambda: rig.summary()["state"] == "listening", what="there is a page")

    def test_a_thread_that_ended_is_replaced(self) -> None:
        with PageRig() as rig:
            first = rig.server
            assert first is not None
            first.stop()
            wait_until(lambda: rig.summary()["url"] and rig.server is not first, what="there is another one")
            assert httpx.get(rig.url + "healthz", trust_env=False, verify=False).text == "ok\n"

    def test_a_crowd_that_says_nothing_does_not_take_the_boxs_descriptors(self) -> None:
        with PageRig() as rig:
            crowd = [socket.create_connection(("127.0.0.1", rig.port)) for _ in range(3 * LIMITS.max_connections)]
            try:
                surplus = len(crowd) - 2 * LIMITS.max_connections
                wait_until(lambda: len(readable(crowd)) >= surplus, what="those that are too many are closed")
                assert rig.connections >= LIMITS.max_connections
            finally:
                for each in crowd:
                    each.close()
            wait_until(lambda: rig.connections == 0, what="they are gone")
            assert httpx.get(rig.url + "healthz", trust_env=False, verify=False).text == "ok\n"


class TestOff:
    def test_nothing_listens(self) -> None:
        with PageRig(listen="off") as rig:
            assert rig.summary() == {"state": "off", "url": "", "reason": ""}
            assert isinstance(rig.page, StatusPage)
            with pytest.raises(httpx.ConnectError):
                httpx.get(rig.url, trust_env=False, verify=False)
