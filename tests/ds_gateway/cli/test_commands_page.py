"""docs/commands.md: its configurations are accepted, and its program works as it stands."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

import pytest

from durable_streams import DurableStream
from durable_streams.testing import InMemoryStreamServer
from harness.configuration import mistakes_in
from harness.peers import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (REPOSITORY / "docs/commands.md").read_text(encoding="utf-8")
HEAD = "gateway: {id: line-7}\ndata_dir: /d\nserver: {url: http://h}\n"
SOURCE = "serial: {another: {port: /dev/ttyUSB9}}\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_configuration_is_right(text: str, tmp_path: Path) -> None:
    more = "" if text.startswith(("mqtt", "serial")) else SOURCE
    assert mistakes_in(tmp_path, HEAD + text + more) == []


def test_the_program_prints_what_became_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = blocks("python")
    with (
        InMemoryStreamServer() as server,
        DurableStream.create(server.url("/v1/commands/line-7"), content_type="application/json") as commands,
        DurableStream.create(server.url("/v1/receipts/line-7"), content_type="application/json") as receipts,
    ):

        def answer() -> None:
            with commands.stream() as response:
                for command in response.iter_json():
                    for status in ("accepted", "published"):
                        info = {"command": command["id"], "status": status, "final": status == "published"}
                        receipts.append({"kind": "receipt", "info": info})

        gateway = threading.Thread(target=answer, name="gateway")
        gateway.start()
        try:
            exec(program.replace("https://streams.example.com/v1/stream", server.url("/v1")), {})
        finally:
            commands.close_stream()
            gateway.join(20)
    assert capsys.readouterr().out == "accepted\npublished\n"


def test_there_is_one_of_each_kind_of_example() -> None:
    assert len(blocks("yaml")) == 4
    assert len(blocks("json")) == 1
