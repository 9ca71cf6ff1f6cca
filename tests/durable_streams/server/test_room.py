"""Full: by the store's own limit, by what must stay free on the disk, and by the number of streams."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from durable_streams.server import Limits, MemoryStore, ServerThread, SqliteStore, StoreFullError, StreamApp
from durable_streams.server._requests import offset
from durable_streams.server._room import RESERVED_BYTES, FullNotice, Room, Space, SpaceLimits
from durable_streams.testing import InProcessTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXT = {"content-type": "text/plain"}
MIB = 1024 * 1024


class TestWhatIsLeft:
    @pytest.mark.parametrize(
        ("space", "limits", "left"),
        [
            (Space(10 * MIB, 2 * MIB, 50 * MIB), SpaceLimits(), 52 * MIB),
            (Space(10 * MIB, 0, 50 * MIB), SpaceLimits(max_bytes=30 * MIB), 20 * MIB - RESERVED_BYTES),
            (Space(10 * MIB, 2 * MIB, 50 * MIB), SpaceLimits(max_bytes=10 * MIB), 2 * MIB - RESERVED_BYTES),
            (Space(10 * MIB, 0, 50 * MIB), SpaceLimits(max_bytes=5 * MIB), -5 * MIB - RESERVED_BYTES),
            (Space(10 * MIB, 0, 50 * MIB), SpaceLimits(min_free_bytes=20 * MIB), 30 * MIB),
            (Space(10 * MIB, 2 * MIB, 10 * MIB), SpaceLimits(min_free_bytes=20 * MIB), 2 * MIB),
            (Space(10 * MIB, 0, 10 * MIB), SpaceLimits(min_free_bytes=20 * MIB), 0),
            (Space(10 * MIB, 0, 50 * MIB), SpaceLimits(max_bytes=99 * MIB, min_free_bytes=49 * MIB), 1 * MIB),
        ],
    )
    def test_the_nearest_limit_counts(self, space: Space, limits: SpaceLimits, left: int) -> None:
        assert space.left(limits) == left

    def test_room_is_used_up(self) -> None:
        room = Room(20_000)
        room.take(10_000)
        with pytest.raises(StoreFullError):
            room.take(10_000)
        Room(None).take(10**12)


class FullDisk:
    """What `os.statvfs` says of a disk whose free space the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_bytes = 100 * MIB
        real = os.statvfs

        def statvfs(path: Any) -> os.statvfs_result:
            values = list(real(path))
            values[0], values[1], values[4] = 4096, 4096, self.free_bytes // 4096
            return os.statvfs_result(values)

        monkeypatch.setattr(os, "statvfs", statvfs)


class TestWhyItIsFull:
    def test_it_names_the_limit_the_numbers_and_the_way_out(self) -> None:
        space = Space(10 * MIB, 2 * MIB, 50 * MIB)
        own = space.why_full(SpaceLimits(max_bytes=10 * MIB), Path("/d"))
        assert own.startswith("/d has 8,388,608 of its 10,485,760 bytes (max_bytes): delete streams, ")
        disk = space.why_full(SpaceLimits(min_free_bytes=60 * MIB), Path("/d"))
        assert disk.startswith(
            "the disk of /d has 52,428,800 bytes free, and 62,914,560 must stay free (min_free_bytes): free space"
        )
        assert space.why_full(SpaceLimits(), Path("/d")).startswith(
            "the disk of /d has 52,428,800 bytes free: free"
        )

    def test_a_file_that_cannot_grow_says_the_same(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        server = ServerThread(StreamApp(SqliteStore(tmp_path / "data", max_bytes=MIB)))
        server.start()
        with httpx.Client(transport=InProcessTransport(server), base_url="http://x") as client:
            client.put("/s", headers=TEXT)
            assert client.post("/s", headers=TEXT, content=b"x" * 2 * MIB).status_code == 507
        server.stop()
        (told,) = caplog.messages
        assert told.startswith(f"store.full: no room for 2,097,152 more bytes: {tmp_path / 'data'} has ")


class TestTheNotice:
    def test_it_is_told_once_and_again_every_ten_minutes_and_when_it_is_over(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)  # `durable-streams serve` shows no less
        now = 0.0
        notice = FullNotice(logging.getLogger("durable_streams.server"), lambda: now)
        notice.stored()
        for seconds in (0, 1, 599):
            now = float(seconds)
            notice.refused(StoreFullError("full"))
            notice.stored()  # a small one that has found room
        assert caplog.messages == ["store.full: full"]
        now = 600.0
        notice.refused(StoreFullError("still full"))
        now = 660.0
        notice.stored()
        notice.stored()
        now = 661.0
        notice.refused(StoreFullError("full again"))
        assert caplog.messages[1:] == [
            "store.full: still full",
            "store.has_room: data are stored again",
            "store.full: full again",
        ]


class TestLimitsThatMakeNoSense:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("long_poll_timeout_seconds", -1),
            ("sse_seconds", -1),
            ("max_body_bytes", 1023),
            ("max_streams", 0),
            ("retain_bytes", 0),
            ("retain_bytes", -1),
            ("retain_seconds", 0.5),
            ("compress_bytes", -1),
            ("page_bytes", 0),
            ("body_idle_seconds", float("nan")),
        ],
    )
    def test_are_refused(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=f"^{name} must be .* or more, not {value}$"):
            Limits(**{name: value})  # type: ignore[arg-type]

    @pytest.mark.parametrize(("name", "value"), [("max_bytes", MIB - 1), ("min_free_bytes", -1)])
    def test_a_store_refuses_its_own_and_makes_nothing(self, tmp_path: Path, name: str, value: int) -> None:
        with pytest.raises(ValueError, match=f"^{name} must be .* or more, not {value}$"):
            SqliteStore(tmp_path / "data", **{name: value})
        assert not (tmp_path / "data").exists()


class TestTheDisk:
    @pytest.fixture
    def disk(self, monkeypatch: pytest.MonkeyPatch) -> FullDisk:
        return FullDisk(monkeypatch)

    @pytest.fixture
    def client(self, disk: FullDisk, tmp_path: Path) -> Iterator[httpx.Client]:
        del disk  # it must be there before the store
        server = ServerThread(StreamApp(SqliteStore(tmp_path / "data", min_free_bytes=50 * MIB)))
        server.start()
        with httpx.Client(transport=InProcessTransport(server), base_url="http://x") as made:
            yield made
        server.stop()

    def test_what_adds_data_is_refused_and_the_rest_goes_on(self, client: httpx.Client, disk: FullDisk) -> None:
        client.put("/old", headers=TEXT, content=b"x" * 200_000)
        client.put("/s", headers=TEXT, content=b"first ")
        mark = {"producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
        disk.free_bytes = 49 * MIB
        refused = client.post("/s", headers={**TEXT, **mark}, content=b"second")
        assert (refused.status_code, refused.text) == (507, "no space left: nothing was stored\n")
        proof = refused.headers["stream-next-offset"], refused.headers["stream-full"]
        assert proof == (offset(1), "true"), "a producer must know that no proxy says so"
        refused = client.put("/new", headers=TEXT)
        assert (refused.status_code, refused.headers["stream-full"]) == (507, "true")
        assert client.get("/s").content == b"first "
        assert client.head("/new").status_code == 404
        assert client.delete("/old").status_code == 204
        disk.free_bytes = 60 * MIB
        assert client.post("/s", headers={**TEXT, **mark}, content=b"second").status_code == 200
        assert client.get("/s").content == b"first second"

    def test_closing_is_always_possible(self, client: httpx.Client, disk: FullDisk) -> None:
        client.put("/s", headers=TEXT)
        disk.free_bytes = 0
        assert client.post("/s", headers={"stream-closed": "true"}).status_code == 204
        assert client.head("/s").headers["stream-closed"] == "true"

    def test_one_that_does_not_fit_does_not_hinder_another(self, client: httpx.Client, disk: FullDisk) -> None:
        client.put("/s", headers=TEXT)
        disk.free_bytes = 51 * MIB
        assert client.post("/s", headers=TEXT, content=b"x" * 2 * MIB).status_code == 507
        assert client.post("/s", headers=TEXT, content=b"small").status_code == 204


class TestStreams:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(max_streams=2)

    def test_one_too_many_is_refused_until_another_goes(
        self, client: httpx.Client, create: Callable[..., str], store: MemoryStore | SqliteStore
    ) -> None:
        del store
        create(path="/a")
        create(path="/b")
        refused = client.put("/c", headers=TEXT)
        assert (refused.status_code, refused.headers["stream-full"]) == (507, "true")
        assert refused.text == "the server has 2 streams and takes no more: delete some, or raise its limit\n"
        assert client.put("/b", headers=TEXT).status_code == 200, "it is there already"
        client.delete("/a")
        create(path="/c")
