"""TLS to the stream server, with real servers: every failure names its cause, and certificates are read again."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ds_gateway import clock
from ds_gateway.config.server import ServerSettings
from ds_gateway.uplink import http_client, probe
from ds_gateway.uplink.transport import ServerTransport
from durable_streams.testing import InMemoryStreamServer
from harness.ports import free_port
from harness.stream_server import Front

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TLS = Path(__file__).parent / "tls"
CA = str(TLS / "ca.pem")
OLD_TLS = ssl.TLSVersion.TLSv1_2

pytestmark = pytest.mark.anyio


class Shown:
    """Who is told of certificates."""

    def __init__(self) -> None:
        self.chains: list[tuple[str, str, Sequence[bytes]]] = []

    def shown(self, name: str, url: str, chain: Sequence[bytes]) -> None:
        self.chains.append((name, url, chain))


@pytest.fixture
def streams() -> Iterator[InMemoryStreamServer]:
    with closing(InMemoryStreamServer()) as server:
        yield server


@contextmanager
def front(streams: InMemoryStreamServer, certificate: str = "server.pem", **more: Any) -> Iterator[Front]:
    with Front(streams.url("/v1"), tls=(TLS / certificate, TLS / "server.key"), **more) as serving:
        yield serving


def settings(url: str, **more: Any) -> ServerSettings:
    tls = {name: str(path) for name, path in {"ca": CA, **more.pop("tls", {})}.items()}
    return ServerSettings.model_validate({"url": url, "tls": tls if url.startswith("https") else {}, **more})


async def failure(server: ServerSettings) -> str:
    """Why a request fails."""
    async with http_client(server, None, Shown()) as client:
        with pytest.raises(httpx.TransportError) as caught:
            await client.head(f"{server.url}/a")
    return str(caught.value)


def client_files(name: str) -> dict[str, Path]:
    return {"cert": TLS / name, "key": TLS / "client.key"}


class TestAServersCertificate:
    async def test_that_is_accepted_carries_requests(self, streams: InMemoryStreamServer) -> None:
        with front(streams) as server:
            async with http_client(settings(server.base_url)) as client:
                assert (await client.put(f"{server.base_url}/a")).status_code == httpx.codes.CREATED

    @pytest.mark.parametrize(
        ("certificate", "files", "words"),
        [
            ("expired.pem", {}, ["has expired (it is 20", "renew it at the server"]),
            ("elsewhere.pem", {}, ["another name", "127.0.0.1", "captive portal"]),
            ("self-signed.pem", {}, ["is self-signed", "put it into server.tls.ca"]),
            ("server.pem", {"ca": TLS / "other-ca.pem"}, ["none of the authorities in server.tls.ca", "vouches"]),
        ],
    )
    async def test_that_is_not_says_why(
        self,
        streams: InMemoryStreamServer,
        monkeypatch: pytest.MonkeyPatch,
        certificate: str,
        files: dict[str, Path],
        words: list[str],
    ) -> None:
        monkeypatch.setattr(clock, "is_synchronised", lambda: True)
        with front(streams, certificate) as server:
            text = await failure(settings(server.base_url, tls=files))
        assert text.startswith("the server's certificate is not accepted: ")
        assert [word for word in words if word not in text] == []

    async def test_from_the_future_is_the_clocks_fault_if_nobody_has_set_it(
        self, streams: InMemoryStreamServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with front(streams, "future.pem") as server:
            monkeypatch.setattr(clock, "is_synchronised", lambda: False)
            unset = await failure(settings(server.base_url))
            monkeypatch.setattr(clock, "is_synchronised", lambda: True)
            sure = await failure(settings(server.base_url))
        assert "not valid yet by this machine's clock, which is not synchronised and shows 20" in unset
        assert "tried again and accepted when the time is right" in unset
        assert "see that a time service (NTP) is reached" in unset
        assert "not valid yet, and this machine's clock, which is synchronised, shows 20" in sure

    async def test_is_told_with_its_authorities_once_for_each_connection(
        self, streams: InMemoryStreamServer
    ) -> None:
        shown = Shown()
        with front(streams, "chain.pem") as server:
            async with http_client(settings(server.base_url), None, shown) as client:
                for _ in range(2):  # the front ends the connection with each answer
                    await client.head(f"{server.base_url}/a")
        [first, second] = shown.chains
        assert first == second
        assert (first[0], first[1], len(first[2])) == ("server", server.base_url, 3)


class TestAClientsCertificate:
    @pytest.mark.parametrize("newest", [OLD_TLS, ssl.TLSVersion.TLSv1_3])
    async def test_that_is_wanted_and_given(self, streams: InMemoryStreamServer, newest: ssl.TLSVersion) -> None:
        with front(streams, clients=TLS / "ca.pem", newest=newest) as server:
            given = settings(server.base_url, tls=client_files("client.pem"))
            async with http_client(given) as client:
                assert (await client.put(f"{server.base_url}/a")).is_success

    @pytest.mark.parametrize(
        ("files", "newest", "words"),
        [
            ({}, ssl.TLSVersion.TLSv1_3, "the server wants a client certificate (see server.tls.cert and"),
            ({}, OLD_TLS, "it may want a client certificate (see server.tls.cert and server.tls.key)"),
            (
                client_files("client-expired.pem"),
                ssl.TLSVersion.TLSv1_3,
                "says that the client certificate has expired: renew server.tls.cert",
            ),
            (
                client_files("client-expired.pem"),
                OLD_TLS,
                "says that the client certificate has expired: renew server.tls.cert",
            ),
            (
                client_files("client-other.pem"),
                ssl.TLSVersion.TLSv1_3,
                "does not know the authority of the client certificate in server.tls.cert",
            ),
            (
                client_files("client-other.pem"),
                OLD_TLS,
                "does not know the authority of the client certificate in server.tls.cert",
            ),
        ],
    )
    async def test_that_is_refused_says_why(
        self, streams: InMemoryStreamServer, files: dict[str, Path], newest: ssl.TLSVersion, words: str
    ) -> None:
        with front(streams, clients=TLS / "ca.pem", newest=newest) as server:
            refused = settings(server.base_url, tls=files)
            # With TLS 1.3 chance decides in what way httpx learns of it.
            told = [await failure(refused) for _ in range(5)]
            assert [text for text in told if words not in text] == []
            assert words in (await probe(refused, f"{refused.url}/a"))[1]

    async def test_that_is_renewed_counts_from_the_next_request_on(
        self, streams: InMemoryStreamServer, tmp_path: Path
    ) -> None:
        files = copied(tmp_path, TLS / "client-expired.pem")
        with front(streams, clients=TLS / "ca.pem", newest=OLD_TLS) as server:
            given = settings(server.base_url, tls=files)
            async with http_client(given, None, Shown()) as client:
                with pytest.raises(httpx.ConnectError, match="client certificate has expired"):
                    await client.head(f"{given.url}/a")
                replace(TLS / "client.pem", files["cert"])
                assert (await client.put(f"{given.url}/renewed")).is_success

    async def test_of_which_only_half_is_there_yet_leaves_the_one_before(
        self, streams: InMemoryStreamServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        files = copied(tmp_path, TLS / "client.pem")
        with front(streams, clients=TLS / "ca.pem") as server:
            given = settings(server.base_url, tls=files)
            async with http_client(given, None, Shown()) as client:
                assert (await client.put(f"{given.url}/half")).is_success
                replace(TLS / "server.pem", files["cert"])
                assert (await client.head(f"{given.url}/half")).is_success
        assert "uplink.certificates.unusable" in caplog.text

    async def test_that_cannot_be_used_at_the_start_counts_as_soon_as_it_can(
        self, streams: InMemoryStreamServer, tmp_path: Path
    ) -> None:
        files = copied(tmp_path, TLS / "client.pem")
        files["cert"].write_bytes(b"")  # as a power cut leaves what was being written
        with front(streams, clients=TLS / "ca.pem") as server:
            given = settings(server.base_url, tls=files)
            async with http_client(given, None, Shown()) as client:
                with pytest.raises(httpx.ConnectError, match="are not a certificate and its key in PEM form"):
                    await client.head(f"{given.url}/a")
                replace(TLS / "client.pem", files["cert"])
                assert (await client.put(f"{given.url}/late")).is_success

    async def test_a_key_with_a_passphrase_is_refused_and_asks_nobody(self) -> None:
        locked = {"cert": TLS / "client.pem", "key": TLS / "client-locked.key"}
        given = settings("https://127.0.0.1:1", tls=locked)
        assert "in PEM form, without a passphrase" in await failure(given)


class TestWhatIsOnTheWay:
    async def test_a_server_without_tls(self, streams: InMemoryStreamServer) -> None:
        with Front(streams.url("/v1")) as plain:
            text = await failure(settings(plain.base_url.replace("http:", "https:")))
        assert "does not speak TLS on this port: see the scheme and the port" in text
        assert "captive portal" in text

    async def test_only_old_versions_of_tls(self) -> None:
        # Debian's OpenSSL speaks none before 1.2 any more; the alert is what such a server sends.
        with answering(b"\x15\x03\x01\x00\x02\x02\x46") as port:
            text = await failure(settings(f"https://127.0.0.1:{port}"))
        assert "has no version of TLS in common with this machine" in text

    async def test_somebody_who_hangs_up_in_the_handshake(self) -> None:
        with answering(b"") as port:
            text = await failure(settings(f"https://127.0.0.1:{port}"))
        assert "in the middle of TLS" in text

    async def test_a_proxy_that_wants_credentials(self) -> None:
        head = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
        with answering(head) as port:
            server = settings("https://streams.invalid", proxy=f"http://127.0.0.1:{port}")
            text = await failure(server)
        assert text == (
            "the proxy does not let the request through: 407 Proxy Authentication Required; see server.proxy"
        )

    async def test_a_proxy_that_is_away(self) -> None:
        server = settings("https://streams.invalid", proxy=f"http://gw:s3cret@127.0.0.1:{free_port()}")
        text = await failure(server)
        assert text.startswith("the proxy in server.proxy cannot be reached: ")
        assert "s3cret" not in text

    async def test_a_proxy_that_opens_tls_shows_a_certificate_of_its_own(
        self, streams: InMemoryStreamServer
    ) -> None:
        with front(streams) as opening, tunnel(opening.base_url) as port:
            server = settings("https://127.0.0.1:1/v1", proxy=f"http://127.0.0.1:{port}")
            async with http_client(server) as client:
                assert (await client.head(f"{server.url}/nothing")).status_code == httpx.codes.NOT_FOUND
            text = await failure(settings(server.url, proxy=server.proxy, tls={"ca": TLS / "other-ca.pem"}))
        assert "something on the way that opens TLS, or a captive portal, shows one of its own, too" in text


class TestAskingWhatTheServerHasAgainstIt:
    async def test_is_not_done_again_for_each_failure(self, streams: InMemoryStreamServer) -> None:
        asked: list[str] = []
        now = [1000.0]
        with front(streams, clients=TLS / "ca.pem") as server:
            given = settings(server.base_url)
            transport = ServerTransport(given, monotonic=lambda: now[0])
            ask = transport._ask

            async def count(url: httpx.URL) -> None:
                before = transport._asked_at
                await ask(url)
                if transport._asked_at != before:
                    asked.append(str(url))

            transport._ask = count  # type: ignore[method-assign]
            async with httpx.AsyncClient(transport=transport) as client:
                for _ in range(6):
                    with pytest.raises(httpx.TransportError, match="wants a client certificate"):
                        await client.head(f"{given.url}/a")
                    now[0] += 1
        assert len(asked) <= 1


def copied(folder: Path, certificate: Path) -> dict[str, Path]:
    """A client's certificate and its key, as files that can be replaced."""
    files = {"cert": folder / "cert.pem", "key": folder / "key.pem"}
    shutil.copy(certificate, files["cert"])
    shutil.copy(TLS / "client.key", files["key"])
    return files


def replace(new: Path, old: Path) -> None:
    """As whatever renews certificates does it: never half a file."""
    fresh = old.with_suffix(".new")
    shutil.copy(new, fresh)
    fresh.replace(old)


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Somebody who gives one answer to whatever comes, and hangs up."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with closing(connection):
                    connection.recv(65536)
                    connection.sendall(answer)

        yield from _while_serving(listener, serve)


@contextmanager
def tunnel(url: str) -> Iterator[int]:
    """An HTTP proxy whose every CONNECT leads to one server."""
    target = httpx.URL(url)
    pumps: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        sockets: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                assert connection.recv(65536).startswith(b"CONNECT ")
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                onward = socket.create_connection((target.host, target.port))
                sockets.extend((connection, onward))
                for pair in ((connection, onward), (onward, connection)):
                    pumps.append(threading.Thread(target=pump, args=pair, name="pump"))
                    pumps[-1].start()

        yield from _while_serving(listener, serve)
        for each in sockets:
            each.close()
        for thread in pumps:
            thread.join()


def _while_serving(listener: socket.socket, serve: Any) -> Iterator[int]:
    thread = threading.Thread(target=serve, name="answering")
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
