"""docs/tls.md: its certificates are good for strict peers, and failures say what the page says they do."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest

from harness.command import Command
from harness.mosquitto import Mosquitto
from harness.pages import blocks
from harness.peers import REPOSITORY
from harness.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

PAGE: Final = (REPOSITORY / "docs/tls.md").read_text(encoding="utf-8")
NAME: Final = "broker.plant"
"""What the page calls the broker."""


def recipe(folder: Path, name: str = NAME) -> Path:
    """Run the page's commands for a broker of this name."""
    commands = next(block.text for block in blocks(REPOSITORY / "docs/tls.md") if "openssl" in block.text)
    folder.mkdir()
    subprocess.run(["sh", "-ec", commands.replace(NAME, name)], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for a broker that has the name of this machine."""
    return recipe(tmp_path_factory.mktemp("tls") / "plant", "localhost")


def shake_hands(one: ssl.SSLObject, other: ssl.SSLObject, pipes: tuple[ssl.MemoryBIO, ...]) -> None:
    """Until both are through. Raises `ssl.SSLError`."""
    to_one, from_one, to_other, from_other = pipes
    waiting = {one, other}
    while waiting:
        for side in (one, other):
            try:
                side.do_handshake()
                waiting.discard(side)
            except ssl.SSLWantReadError:
                pass
            to_other.write(from_one.read())
            to_one.write(from_other.read())


@pytest.mark.parametrize("flags", [ssl.VERIFY_DEFAULT, ssl.VERIFY_X509_STRICT], ids=["usual", "strict"])
def test_its_certificates_are_accepted_by_both_sides(plant: Path, flags: ssl.VerifyFlags) -> None:
    """Strict is what Python 3.13 is of itself."""
    client = ssl.create_default_context(cafile=str(plant / "ca.pem"))
    client.load_cert_chain(plant / "client.pem", plant / "client.key")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(plant / "ca.pem"))
    server.load_cert_chain(plant / "broker.pem", plant / "broker.key")
    server.verify_mode = ssl.CERT_REQUIRED
    client.verify_flags |= flags
    server.verify_flags |= flags
    pipes = tuple(ssl.MemoryBIO() for _ in range(4))
    shake_hands(
        client.wrap_bio(pipes[0], pipes[1], server_hostname="localhost"),
        server.wrap_bio(pipes[2], pipes[3], server_side=True),
        pipes,
    )


def test_failures_say_what_the_page_says(
    plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = recipe(tmp_path / "other")

    def of(folder: Path) -> tuple[Path, Path, Path]:
        return folder / "ca.pem", folder / "broker.pem", folder / "broker.key"

    def source(port: int, ca: Path, **more: Any) -> dict[str, Any]:
        scheme = "mqtts" if more.pop("tls", True) else "mqtt"
        tls = {"ca": str(ca / "ca.pem"), **more.pop("client", {})} if scheme == "mqtts" else {}
        return {"url": f"{scheme}://localhost:{port}", "devices": [{"topic": "a"}], "tls": tls, **more}

    with (
        Mosquitto(
            tmp_path / "1", tls=of(plant), users={"gw": "right"}, extra=["require_certificate true"]
        ) as broker,
        Mosquitto(tmp_path / "2", tls=of(other)) as misnamed,
    ):
        client = {"cert": str(plant / "client.pem"), "key": str(plant / "client.key")}
        sources = [
            source(broker.port, other),
            source(misnamed.port, other),
            source(broker.port, plant),
            source(broker.port, plant, client=client, username="gw", password="wrong"),
            source(free_port(), plant, tls=False),
        ]
        settings = {
            "gateway": {"id": "workshop"},
            "data_dir": str(tmp_path / "data"),
            "server": {"url": "embedded"},
            "mqtt": {f"b{n}": {**each, "client_id": f"c{n}"} for n, each in enumerate(sources)},
        }
        file = tmp_path / "gateway.yaml"
        file.write_text(json.dumps(settings))
        done = Command(monkeypatch, capsys)("check", "--live", "--seconds", "0.3", "--config", file)
    assert done.code == 1, done.stderr
    said = [line.split("): ", 1)[1] for line in done.stdout.splitlines() if line.startswith("failed: broker")]
    said = [each.replace("'localhost'", "'broker.other'").replace("localhost", NAME) for each in said]
    rows = re.findall(r"^\| `(.+?)` \| ", PAGE.partition("## What a failure says")[2], re.MULTILINE)
    assert len(rows) == len(said)
    for row, printed in zip(rows, said, strict=True):
        pattern = ".*".join(map(re.escape, re.sub(r":\d+", "", row).split("...")))
        assert re.fullmatch(pattern, re.sub(r":\d+", "", printed)), (row, printed)
