"""Uplinks over a scripted server: which state an operator sees, why, and when it changes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import pytest

from ds_gateway.config.credential import Credential
from ds_gateway.config.models import BatchSettings, ExactlyOnceSettings
from ds_gateway.config.server import ServerSettings
from ds_gateway.errors import JournalClosedError, JournalDamagedError, JournalError, UplinkError
from ds_gateway.journal.skipping import Skipped
from ds_gateway.uplink import Uplinks, UplinkSnapshot, http_client, request_headers
from durable_streams import Presence, ProducerState, SealedBatch, Survey
from harness.ports import free_port
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

BASE = "http://streams.test/v1"
PROBE_SEQ = 2**53 - 1

pytestmark = pytest.mark.anyio


class Store:
    """A producer's store in memory; `seal` gives it a batch to hand out."""

    def __init__(self, *, claimed: bool = False, anchor: str | None = None) -> None:
        self.claimed = claimed
        self.anchor = anchor
        self.resolved: list[int] = []
        self.failure: BaseException | None = None
        self.repairing = False
        self.unresolved: SealedBatch | None = None
        """A batch of an earlier process."""
        self.moves: list[tuple[str, bool]] = []
        self.skips = 0
        self.may_skip = asyncio.Event()
        self._batches: asyncio.Queue[SealedBatch] = asyncio.Queue()
        self._sealed = 0

    def seal(self) -> None:
        self._sealed += 1
        self._batches.put_nowait(SealedBatch(0, self._sealed, b'[{"n":%d}]' % self._sealed, 1))

    async def load(self) -> ProducerState:
        if self.failure is not None:
            raise self.failure
        return ProducerState(
            "p",
            0,
            self.claimed,
            self.anchor,
            len(self.resolved),
            self.unresolved,
            repairing=self.repairing,
        )

    async def save_anchor(self, offset: str) -> None:
        self.anchor = offset

    async def save_epoch(self, epoch: int) -> None:
        raise AssertionError("no epoch is taken over here")

    async def save_claim(self, epoch: int) -> None:
        self.claimed = True

    async def begin_repair(self, epoch: int) -> None:
        raise AssertionError("nothing is repaired here")

    async def mark_for_repair(self) -> None:
        raise AssertionError("nothing is repaired here")

    async def begin_survey(self) -> Survey:
        raise AssertionError("nothing is repaired here")

    async def save_repair(self, survey: Survey, end: str, *, adopt: bool) -> None:
        raise AssertionError("nothing is repaired here")

    async def reseal(self, max_records: int) -> SealedBatch:
        raise AssertionError("nothing is repaired here")

    async def set_aside(self, reason: str) -> SealedBatch:
        raise AssertionError("nothing is repaired here")

    async def skip_to(self, position: int | None) -> Skipped:
        self.skips += 1
        await self.may_skip.wait()
        if self.failure is not None:
            raise self.failure
        return Skipped(1, (Path("skipped/file"),))

    async def next_batch(self, max_bytes: int) -> SealedBatch:
        return await self._batches.get()

    async def resolve(self, batch: SealedBatch, offset: str) -> None:
        self.anchor = offset
        self.unresolved = None
        self.resolved.append(batch.seq)

    async def move(self, url: str, *, give_up: bool = False) -> bool:
        self.moves.append((url, give_up))
        if give_up:
            self.unresolved = None
        if self.unresolved is not None:
            return False
        self.claimed, self.anchor = False, None
        return True

    async def drained(self) -> None:
        raise AssertionError("nobody waits for it here")

    @property
    def pending_count(self) -> int:
        return self._sealed - len(self.resolved)

    def claim_body(self, epoch: int) -> bytes:
        return b'[{"kind":"birth"}]'

    def probe_body(self) -> bytes:
        return b'[{"kind":"probe"}]'

    def finder(self, batch: SealedBatch) -> Store:
        return self

    def feed(self, page: bytes) -> None:
        raise AssertionError("nothing is read back here")

    def verdict(self) -> Presence:
        raise AssertionError("nothing is read back here")


class Server:
    """Answers as a conforming server does, unless ``rule`` answers first."""

    def __init__(self) -> None:
        self.rule: Callable[[httpx.Request], httpx.Response | None] = lambda _request: None
        self.requests: list[httpx.Request] = []
        self.posted: dict[str, int] = {}
        """For each path, how many messages it has."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.rule(request)
        if answer is not None:
            return answer
        path = request.url.path
        end = f"{self.posted.get(path, 0):016d}"
        if request.method in {"HEAD", "PUT"}:
            return httpx.Response(200, headers={"content-type": "application/json", "stream-next-offset": end})
        epoch, seq = request.headers["producer-epoch"], int(request.headers["producer-seq"])
        if seq == PROBE_SEQ:
            return httpx.Response(409, headers={"producer-expected-seq": str(self.posted.get(path, 0))})
        self.posted[path] = self.posted.get(path, 0) + 1
        return httpx.Response(
            200,
            headers={
                "producer-epoch": epoch,
                "producer-seq": str(seq),
                "stream-next-offset": f"{self.posted[path]:016d}",
            },
        )


class Bench:
    """Uplinks under test, with their server."""

    def __init__(self, **settings: Any) -> None:
        self.server = Server()
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.server))
        self.uplinks = Uplinks(
            ServerSettings.model_validate({"url": BASE, **settings.get("server", {})}),
            BatchSettings.model_validate(settings.get("batch", {})),
            ExactlyOnceSettings(recover="halt"),
            client,
            gateway="g",
            **settings.get("uplinks", {}),
        )

    def add(self, store: Store, number: int = 1, *, url: str = BASE) -> None:
        self.uplinks.add(number, f"telemetry/{number}", url, store)

    def snapshot(self, number: int = 1) -> UplinkSnapshot:
        return self.uplinks.snapshots()[number]

    async def wait(self, state: str, number: int = 1) -> UplinkSnapshot:
        await await_until(
            lambda: self.snapshot(number).state == state, what=f"{state}; it is {self.snapshot(number)}"
        )
        return self.snapshot(number)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.uplinks.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench() as bench:
        yield bench


def is_batch(request: httpx.Request) -> bool:
    return request.method == "POST" and 0 < int(request.headers["producer-seq"]) < PROBE_SEQ


class TestStates:
    async def test_idle_when_everything_is_in_the_stream(self, bench: Bench) -> None:
        store = Store()
        bench.add(store)
        store.seal()
        store.seal()
        await await_until(lambda: store.resolved == [1, 2], what="both batches are resolved")
        snapshot = await bench.wait("idle")
        assert (snapshot.reason, snapshot.last_error, snapshot.failures) == ("", "", 0)
        assert snapshot.last_ok_time is not None
        assert snapshot.url == f"{BASE}/telemetry/1"
        assert bench.uplinks.is_sending(1)

    async def test_nothing_was_ever_sent_before_the_first_batch(self, bench: Bench) -> None:
        bench.add(Store())
        snapshot = await bench.wait("idle")
        assert snapshot.last_ok_time is None
        assert not any(map(is_batch, bench.server.requests))

    async def test_waiting_while_the_server_cannot_be_reached_and_idle_again_afterwards(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("nobody is there", request=request)

        store = Store()
        bench.add(store)
        await bench.wait("idle")
        bench.server.rule = refuse
        store.seal()
        with caplog.at_level(logging.INFO, logger="ds_gateway.uplink"):
            snapshot = await bench.wait("waiting")
            assert "nobody is there" in snapshot.reason
            assert snapshot.failures > 0
            assert not bench.uplinks.is_sending(1)
            bench.server.rule = lambda _request: None
            snapshot = await bench.wait("idle")
        assert store.resolved == [1]
        assert (snapshot.reason, snapshot.failures) == ("", 0)
        assert "nobody is there" in snapshot.last_error, "what it was remains to be seen"
        assert [record.message for record in caplog.records] == ["uplink.waiting", "uplink.recovered"]

    async def test_each_cause_is_logged_once_until_it_is_over(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        answers = iter([503, 401, 503, 429])
        causes: list[int] = []

        def rule(request: httpx.Request) -> httpx.Response | None:
            if not is_batch(request) or (status := next(answers, None)) is None:
                return None
            causes.append(status)
            return httpx.Response(status, headers={"retry-after": "0"})

        store = Store()
        bench.add(store)
        await bench.wait("idle")
        bench.server.rule = rule
        with caplog.at_level(logging.INFO, logger="ds_gateway.uplink"):
            store.seal()
            await await_until(lambda: store.resolved == [1], what="it is sent at last")
        told = [
            vars(record)["event_values"]["reason"]
            for record in caplog.records
            if record.message == "uplink.waiting"
        ]
        assert causes == [503, 401, 503, 429]
        assert [reason.partition(":")[0] for reason in told] == ["not now", "the credentials were refused"]

    async def test_a_journal_that_is_closed_is_no_defect(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = Store()
        store.failure = JournalClosedError("the journal is closed")
        bench.add(store)
        await bench.wait("waiting")
        assert [record.message for record in caplog.records if record.levelno > logging.INFO] == []

    @pytest.mark.parametrize(
        ("answer", "state", "words"),
        [
            (httpx.Response(403, headers={"producer-epoch": "7"}), "halted", "a higher epoch was claimed"),
            (httpx.Response(409, headers={"stream-closed": "true"}), "parked", "closed"),
            (httpx.Response(410, headers={"stream-next-offset": "9"}), "parked", "deleted"),
            (
                httpx.Response(409, headers={"producer-expected-seq": "9", "producer-received-seq": "1"}),
                "halted",
                "somebody else wrote with our identity",
            ),
            (
                httpx.Response(200, headers={"stream-next-offset": "9"}),
                "halted",
                "the server ignores producers",
            ),
        ],
    )
    async def test_what_ends_a_stream_is_told_with_its_reason(
        self, bench: Bench, answer: httpx.Response, state: str, words: str
    ) -> None:
        store = Store()
        bench.add(store)
        bench.add(Store(), 2)
        await bench.wait("idle")
        bench.server.rule = lambda request: answer if is_batch(request) else None
        store.seal()
        snapshot = await bench.wait(state)
        assert words in snapshot.reason
        assert snapshot.last_error == snapshot.reason
        assert store.resolved == []
        await bench.wait("idle", 2)
        requests = len(bench.server.requests)
        assert (await bench.wait(state)).reason == snapshot.reason
        assert len(bench.server.requests) == requests, "a stream that stopped asks nothing more"

    async def test_a_stream_that_has_ended_is_not_repaired_at_each_start(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = Store(anchor=f"{0:016d}")
        store.repairing = True
        closed = {"content-type": "application/json", "stream-next-offset": f"{0:016d}", "stream-closed": "true"}
        bench.server.rule = lambda _request: httpx.Response(200, headers=closed)
        with caplog.at_level(logging.INFO, logger="ds_gateway.uplink"):
            bench.add(store)
            await bench.wait("parked")
            await bench.uplinks.restart(1)
            await bench.wait("parked")
        told = [record.message for record in caplog.records]
        assert told == ["uplink.stream.parked", "uplink.stream.resolved", "uplink.stream.parked"]
        assert [request.method for request in bench.server.requests] == ["HEAD", "HEAD"]

    async def test_a_damaged_journal_halts_its_stream_only(self, bench: Bench) -> None:
        damaged, sound = Store(), Store()
        damaged.failure = JournalDamagedError("journal row s/1 is damaged")
        bench.add(damaged)
        bench.add(sound, 2)
        sound.seal()
        snapshot = await bench.wait("halted")
        assert "journal row s/1 is damaged" in snapshot.reason
        assert snapshot.stop == "damaged"
        await await_until(lambda: sound.resolved == [1], what="the other stream goes on")

    async def test_a_defect_makes_one_stream_wait_and_is_told(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken, sound = Store(), Store()
        broken.failure = ZeroDivisionError("a defect")
        bench.add(broken)
        bench.add(sound, 2)
        sound.seal()
        snapshot = await bench.wait("waiting")
        assert snapshot.last_error == "defect: ZeroDivisionError('a defect')"
        assert "uplink.defect" in [record.message for record in caplog.records]
        await await_until(lambda: sound.resolved == [1], what="the other stream goes on")


class TestStreams:
    async def test_a_stream_that_is_added_twice_is_sent_once(self, bench: Bench) -> None:
        store = Store()
        bench.add(store)
        bench.add(store)
        store.seal()
        await await_until(lambda: store.resolved, what="the batch is resolved")
        assert len(bench.uplinks.snapshots()) == 1
        assert sum(map(is_batch, bench.server.requests)) == 1

    async def test_a_stream_of_another_server_halts_without_a_request(self, bench: Bench) -> None:
        bench.add(Store(), url="http://old.test/v1")
        snapshot = bench.snapshot()
        assert snapshot.state == "halted"
        assert "a batch is unresolved at http://old.test/v1" in snapshot.reason
        assert "`ds-gateway resolve telemetry/1 --retarget`" in snapshot.reason
        assert "or set server.url back" in snapshot.reason
        assert bench.server.requests == []

    async def test_no_more_streams_send_at_once_than_allowed(self) -> None:
        now, most = 0, 0
        gate = asyncio.Event()

        async def slow(request: httpx.Request) -> httpx.Response:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await gate.wait()
            now -= 1
            return server(request)

        server = Server()
        client = httpx.AsyncClient(transport=httpx.MockTransport(slow))
        batch = BatchSettings(parallel=2)
        uplinks = Uplinks(ServerSettings(url=BASE), batch, ExactlyOnceSettings(), client, gateway="g")
        stores = [Store() for _ in range(5)]
        for number, store in enumerate(stores):
            store.seal()
            uplinks.add(number, f"telemetry/{number}", BASE, store)
        await await_until(lambda: now == 2, what="two requests are on their way")
        gate.set()
        await await_until(lambda: all(store.resolved for store in stores), what="all batches are resolved")
        await uplinks.close()
        assert most == 2

    async def test_the_journal_is_told_which_stream_stopped_and_which_goes_on(self) -> None:
        told: list[tuple[int, str]] = []
        client = httpx.AsyncClient(transport=httpx.MockTransport(Server()))
        uplinks = Uplinks(
            ServerSettings(url=BASE),
            BatchSettings(),
            ExactlyOnceSettings(),
            client,
            gateway="g",
            on_stopped=lambda number, reason: told.append((number, reason.split(":")[0])),
        )
        uplinks.add(1, "telemetry/1", "http://elsewhere", Store())
        uplinks.add(2, "telemetry/2", BASE, Store())
        await uplinks.give_up(1)
        await uplinks.close()
        assert told == [(1, "halted"), (2, ""), (1, "")]

    async def test_closing_ends_what_is_on_its_way_and_resolves_nothing(self) -> None:
        server, asked = Server(), asyncio.Event()

        async def never(request: httpx.Request) -> httpx.Response:
            if is_batch(request):
                asked.set()
                await asyncio.Event().wait()
            return server(request)

        client = httpx.AsyncClient(transport=httpx.MockTransport(never))
        uplinks = Uplinks(ServerSettings(url=BASE), BatchSettings(), ExactlyOnceSettings(), client, gateway="g")
        store = Store()
        store.seal()
        uplinks.add(1, "telemetry/1", BASE, store)
        await asyncio.wait_for(asked.wait(), 20)
        assert uplinks.snapshots()[1].state == "sending"
        await uplinks.close()
        assert client.is_closed
        assert store.resolved == []


class TestMoving:
    """The last batch is unresolved at another server: `settle` finds out there, and goes on here."""

    OLD = "http://old.test/v1"

    @staticmethod
    def stranded(bench: Bench) -> Store:
        store = Store(claimed=True, anchor=f"{0:016d}")
        store.unresolved = SealedBatch(0, 1, b'[{"n":1}]', 1)
        bench.add(store, url=TestMoving.OLD)
        return store

    @staticmethod
    async def settle(bench: Bench, rule: Callable[[httpx.Request], httpx.Response], seconds: float = 20.0) -> None:
        old = ServerSettings(url=TestMoving.OLD)
        async with httpx.AsyncClient(transport=httpx.MockTransport(rule)) as client:
            await bench.uplinks.settle(1, old, client, timeout_seconds=seconds)

    async def test_it_is_sent_to_the_old_server_and_what_comes_later_to_the_new_one(self, bench: Bench) -> None:
        store, old_server = self.stranded(bench), Server()
        old_server.posted["/v1/telemetry/1"] = 0
        old_server.rule = lambda request: (
            httpx.Response(409, headers={"producer-expected-seq": "1", "producer-received-seq": "9"})
            if request.headers.get("producer-seq") == str(PROBE_SEQ)
            else None
        )
        assert set(bench.uplinks.stranded) == {1}
        assert bench.uplinks.snapshots()[1].stop == "stranded"
        await self.settle(bench, old_server)
        assert store.resolved == [1]
        assert store.moves == [(BASE, False)]
        assert bench.uplinks.stranded == {}
        assert [request.method for request in old_server.requests] == ["POST", "HEAD", "POST"], "no PUT, no claim"
        snapshot = await bench.wait("idle")
        assert snapshot.url == f"{BASE}/telemetry/1"
        assert snapshot.reason == ""
        with pytest.raises(UplinkError, match="being moved already"):
            await bench.uplinks.give_up(1)

    async def test_a_server_that_is_away_changes_nothing(self, bench: Bench) -> None:
        def refuse(request: httpx.Request) -> httpx.Response:
            assert bench.snapshot().state == "settling"
            raise httpx.ConnectError("nobody is there", request=request)

        store = self.stranded(bench)
        before = bench.snapshot()
        with pytest.raises(
            UplinkError, match=r"http://old\.test/v1 did not settle it within 0\.1 s: .*nobody is there"
        ):
            await self.settle(bench, refuse, 0.1)
        assert store.moves == []
        assert (bench.snapshot().state, bench.snapshot().reason) == ("halted", before.reason)
        assert set(bench.uplinks.stranded) == {1}, "it can be tried again"

    async def test_a_server_that_knows_better_changes_nothing(self, bench: Bench) -> None:
        fenced = httpx.Response(403, headers={"producer-epoch": "7"})
        store = self.stranded(bench)
        with pytest.raises(UplinkError, match=r"does not settle it: .*a higher epoch was claimed"):
            await self.settle(bench, lambda _request: fenced)
        assert store.moves == []
        assert bench.snapshot().state == "halted"

    async def test_giving_up_asks_nobody(self, bench: Bench) -> None:
        store = self.stranded(bench)
        await bench.uplinks.give_up(1)
        assert store.moves == [(BASE, True)]
        assert store.resolved == []
        await await_until(lambda: bench.snapshot().state != "halted", what="it goes on")


class TestDecisions:
    """What an operator decides about a stream, and what is refused meanwhile."""

    GONE = httpx.Response(410, headers={"stream-next-offset": "9"})

    async def parked(self, bench: Bench) -> Store:
        store = Store()
        bench.add(store)
        await bench.wait("idle")
        bench.server.rule = lambda request: self.GONE if is_batch(request) else None
        store.seal()
        await bench.wait("parked")
        bench.server.rule = lambda _request: None
        return store

    async def test_while_records_are_skipped_nothing_else_is_decided(self, bench: Bench) -> None:
        store = await self.parked(bench)
        skipping = asyncio.create_task(bench.uplinks.skip(1, None))
        await await_until(lambda: store.skips == 1, what="records are being set aside")
        requests = len(bench.server.requests)
        assert (bench.snapshot().state, bench.snapshot().stop) == ("skipping", "")
        for decision in (
            bench.uplinks.restart(1),
            bench.uplinks.restart(1, claim=True),
            bench.uplinks.restart(1, bisect=True),
            bench.uplinks.skip(1, 5),
        ):
            with pytest.raises(UplinkError, match="it is skipping, not halted"):
                await decision
        assert store.skips == 1
        assert len(bench.server.requests) == requests, "nothing is sent meanwhile"
        store.may_skip.set()
        assert (await skipping).count == 1
        await bench.wait("idle")

    async def test_what_cannot_be_skipped_leaves_the_stream_as_it_stood(self, bench: Bench) -> None:
        store = await self.parked(bench)
        before = bench.snapshot()
        store.failure = JournalError("no room")
        store.may_skip.set()
        with pytest.raises(JournalError):
            await bench.uplinks.skip(1, None)
        assert bench.snapshot() == before

    async def test_one_that_waits_looks_again_at_once(self, bench: Bench) -> None:
        def refuse(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("nobody is there", request=request)

        bench.server.rule = refuse
        store = Store()
        store.seal()
        bench.add(store)
        await bench.wait("waiting")
        bench.server.rule = lambda _request: None
        with pytest.raises(UplinkError, match="it is waiting, not halted"):
            await bench.uplinks.restart(1, claim=True)
        await bench.uplinks.restart(1)
        await bench.wait("idle")
        assert store.resolved == [1]

    async def test_two_that_look_again_at_once_start_one_producer(self, bench: Bench) -> None:
        store = Store()
        bench.add(store)
        await bench.wait("idle")
        told = await asyncio.gather(bench.uplinks.restart(1), bench.uplinks.restart(1), return_exceptions=True)
        assert [str(each) for each in told if each is not None] == ["it is starting, not halted"]
        store.seal()
        await await_until(lambda: store.resolved == [1], what="it goes on")
        assert sum(map(is_batch, bench.server.requests)) == 1


class TestTheWayToTheServer:
    """What anybody on the way could have said counts only when the server answers for another stream."""

    @staticmethod
    def answering_reads(request: httpx.Request) -> httpx.Response | None:
        if request.method != "GET":
            return None
        assert request.url.params["offset"] == "now", "nothing that is there is read for it"
        headers = {
            "content-type": "application/json",
            "stream-next-offset": "0001",
            "stream-up-to-date": "true",
        }
        return httpx.Response(200, headers=headers, content=b"[]")

    @pytest.mark.parametrize("refused", ["HEAD", "GET"])
    async def test_is_right_when_looks_and_reads_are_answered(self, bench: Bench, refused: str) -> None:
        for number in (1, 2):
            bench.add(Store(), number)
            await bench.wait("idle", number)
        asking = bench.uplinks._uplinks[1]
        bench.server.rule = self.answering_reads
        assert await bench.uplinks._confirm_path(asking)
        gone = httpx.Response(410, headers={"content-type": "text/html"}, content=b"<html>gone")
        bench.server.rule = lambda request: gone if request.method == refused else self.answering_reads(request)
        assert not await bench.uplinks._confirm_path(asking)


class TestLookingAgain:
    """A server that was put back to a copy is noticed although no device sends."""

    async def test_an_idle_stream_is_looked_at(self) -> None:
        async with Bench(uplinks={"look_again_seconds": 0.05}) as bench:
            store = Store()
            store.seal()
            bench.add(store)
            await await_until(lambda: store.resolved == [1], what="the batch is resolved")
            bench.server.rule = lambda request: (
                httpx.Response(409, headers={"producer-expected-seq": "0", "producer-received-seq": "9"})
                if request.headers.get("producer-seq") == str(PROBE_SEQ)
                else None
            )
            snapshot = await bench.wait("halted")
            assert "the server forgot this producer" in snapshot.reason

    async def test_one_that_stopped_is_not(self) -> None:
        async with Bench(uplinks={"look_again_seconds": 0.05}) as bench:
            bench.server.rule = lambda request: TestDecisions.GONE if is_batch(request) else None
            store, sound = Store(), Store()
            store.seal()
            bench.add(store)
            bench.add(sound, 2)
            await bench.wait("parked")

            def looked_at() -> int:
                return sum(
                    request.headers.get("producer-seq") == str(PROBE_SEQ) for request in bench.server.requests
                )

            await await_until(lambda: looked_at() >= 3, what="the other stream is looked at three times")
            assert bench.snapshot().state == "parked"
            paths = {
                request.url.path
                for request in bench.server.requests
                if request.headers.get("producer-seq") == str(PROBE_SEQ)
            }
            assert paths == {"/v1/telemetry/2"}


class TestCredentials:
    async def test_they_are_read_for_each_request(self) -> None:
        words = iter(["one", "two", "three"])
        token = Credential("zero", lambda: next(words))
        headers = request_headers(ServerSettings.model_construct(url=BASE, token=token, headers={}))
        assert [headers["authorization"]() for _ in range(2)] == ["Bearer one", "Bearer two"]

    async def test_refused_ones_make_the_stream_wait_until_they_are_right(self) -> None:
        token = Credential("old")
        async with Bench(server={"token": token, "headers": {"x-site": Credential("hall")}}) as bench:
            bench.server.rule = lambda request: (
                None if request.headers["authorization"] == "Bearer new" else httpx.Response(401)
            )
            store = Store()
            store.seal()
            bench.add(store)
            snapshot = await bench.wait("waiting")
            assert "credentials were refused" in snapshot.reason
            assert "old" not in snapshot.reason
            token._secret_value = "new"
            await bench.wait("idle")
            assert store.resolved == [1]
            assert bench.server.requests[-1].headers["x-site"] == "hall"


class TestClient:
    async def test_certificates_that_cannot_be_used_are_named(self, tmp_path: Path) -> None:
        absent = str(tmp_path / "ca.pem")
        settings = ServerSettings.model_validate({"url": "https://streams.test", "tls": {"ca": absent}})
        with pytest.raises(UplinkError, match=r"server\.tls: cannot read .*ca\.pem: No such file"):
            http_client(settings)

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    async def test_a_server_that_is_not_there_is_named_with_what_the_system_says(self, host: str) -> None:
        port = free_port()
        settings = ServerSettings.model_validate({"url": f"http://{host}:{port}/v1"})
        async with http_client(settings) as client:
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(settings.url)
        assert str(caught.value) == (
            f"{host}:{port} cannot be reached (Connection refused): "
            "start the server, or see that server.url leads to it"
        )

    async def test_the_environments_proxies_do_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        client = http_client(ServerSettings(url=BASE))
        assert client.trust_env is False
        assert client.follow_redirects is False
        await client.aclose()
