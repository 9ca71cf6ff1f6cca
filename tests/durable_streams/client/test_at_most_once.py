"""What a write promises, against servers and networks that fail in every way, while others write, too.

After a return it is stored once. After an error that is not in doubt it is not stored. It is never stored twice.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_streams import DurableStream, DurableStreamError, FetchError, _operations, stream
from durable_streams._wire import Answer, Failure, Reply, Request
from durable_streams.testing import DropAfter, DropBefore, Status
from harness.stream_client import URL, Front, Refusing, Script, Wire, policy

if TYPE_CHECKING:
    from durable_streams._effects import Flow
    from harness.reference_server import ReferenceServer

T = TypeVar("T")

MINE = b"mine"
OTHERS = b"others"

FATES = [
    "answered",
    "refused",
    "429",
    "503 later",
    "500 before storing",
    "500 after storing",
    "503 before storing",
    "503 after storing",
    "504 before storing",
    "504 after storing",
    "504 and travelling",
    "lost before storing",
    "lost after storing",
    "lost and travelling",
]


@dataclass
class Model:
    """A stream whose server obeys the protocol, behind a network that does as it is told."""

    fates: deque[str]
    gaps: deque[str]
    """What others do between two of our requests."""
    messages: list[bytes] = field(default_factory=list)
    closed: bool = False
    last_seq: str = ""
    travelling: list[Request] = field(default_factory=list)

    @property
    def tail(self) -> str:
        return f"{len(self.messages):06}"

    def run(self, flow: Flow[T]) -> T:
        """Perform a flow; then let everything arrive that is still on its way."""
        try:
            return _Network(self).run(flow)
        finally:
            self.arrive()

    def arrive(self) -> None:
        while self.travelling:
            self.handle(self.travelling.pop())

    def others(self, gap: str) -> None:
        match gap:
            case "append" if not self.closed:
                self.messages.append(OTHERS)
            case "close":
                self.closed = True
            case "arrive":
                self.arrive()

    def answer(self, request: Request) -> Answer:
        """Do with one request what its fate says."""
        self.others(self.gaps.popleft() if self.gaps else "")
        fate, _, when = (self.fates.popleft() if self.fates else "answered").partition(" ")
        match fate:
            case "refused":
                return Failure("ConnectError", sent=False)
            case "429":
                return Reply(429, {})
            case "503" if when == "later":
                return Reply(503, {"retry-after": "1"})
        stored = self.handle(request) if when in {"", "after storing"} else None
        if when == "and travelling":
            self.travelling.append(request)
        match fate:
            case "answered":
                assert stored is not None
                return stored
            case "lost":
                return Failure("ReadTimeout")
            case _:
                return Reply(int(fate), {})

    def handle(self, request: Request) -> Reply:
        """What the server does, as in PROTOCOL sections 5.2, 5.3 and 5.5."""
        headers = {"stream-next-offset": self.tail, **({"stream-closed": "true"} if self.closed else {})}
        if request.method == "HEAD":
            return Reply(200, headers)
        closing = "stream-closed" in request.headers
        if self.closed and (request.body or not closing):
            return Reply(409, headers)
        seq = request.headers.get("stream-seq")
        if seq is not None and seq <= self.last_seq:
            return Reply(409, {})
        self.last_seq = seq or self.last_seq
        self.messages += [request.body] if request.body else []
        self.closed = self.closed or closing
        return Reply(204, {"stream-next-offset": self.tail})


class _Network(Script):
    """A script that is written while it is performed."""

    def __init__(self, model: Model) -> None:
        super().__init__(answers=[])
        self._model = model

    def _perform(self, effect: Any) -> Any:
        if isinstance(effect, Request):
            self.answers.append(self._model.answer(effect))
        return super()._perform(effect)


def models() -> st.SearchStrategy[Model]:
    gaps = ["", "", "", "append", "close", "arrive"]
    return st.builds(
        Model,
        fates=st.lists(st.sampled_from(FATES), max_size=12).map(deque),
        gaps=st.lists(st.sampled_from(gaps), max_size=12).map(deque),
        messages=st.lists(st.just(OTHERS), max_size=2),
    )


def check(model: Model, flow: Flow[Any]) -> DurableStreamError | None:
    """Perform a write; check what it promises; return its error."""
    error = None
    try:
        model.run(flow)
    except DurableStreamError as raised:
        error = raised
    stored = model.messages.count(MINE)
    if error is None:
        assert stored == 1
    elif error.in_doubt:
        assert stored <= 1
    else:
        assert stored == 0
    return error


class TestAgainstAModel:
    @settings(max_examples=400, deadline=None)
    @given(model=models(), known=st.sampled_from(["tail", "old tail", None]))
    def test_a_plain_append(self, model: Model, known: str | None) -> None:
        tail = model.tail if known else None
        if known == "old tail":
            model.messages.append(OTHERS)
        check(model, _operations.append(URL, policy(), [MINE], content_type="a/b", seq=None, tail=tail))

    @settings(max_examples=200, deadline=None)
    @given(model=models())
    def test_an_append_with_the_callers_own_order(self, model: Model) -> None:
        check(model, _operations.append(URL, policy(), [MINE], content_type="a/b", seq="01"))

    @settings(max_examples=300, deadline=None)
    @given(model=models(), known=st.booleans())
    def test_a_closure_with_a_message(self, model: Model, known: bool) -> None:  # noqa: FBT001
        tail = model.tail if known else None
        error = check(model, _operations.close(URL, policy(), MINE, content_type="a/b", tail=tail))
        if error is None:
            assert model.closed
            assert model.messages[-1] == MINE

    @pytest.mark.parametrize("fate", ["500 before storing", "503 before storing", "429", "refused", "503 later"])
    def test_a_plain_append_survives_what_stored_nothing(self, fate: str) -> None:
        model = Model(fates=deque([fate, "answered", fate, "answered"]), gaps=deque())
        flow = _operations.append(URL, policy(), [MINE], content_type="a/b", seq=None, tail=model.tail)
        assert check(model, flow) is None


class TestWithRealServers:
    def test_a_writer_among_others_with_every_fault(self, url: str, wire: Wire) -> None:
        chance = random.Random(7)
        faults: list[Any] = [
            None,
            None,
            "refused",
            DropBefore(),
            DropAfter(),
            Status(500, after=True),
            Status(500),
            Status(503),
            Status(504),
            Status(429),
        ]
        planned = chance.choices(faults, k=400)
        refusing = Refusing(wire.transport, "POST", [fault == "refused" for fault in planned])
        wire.inject(
            *(fault for fault in planned if fault != "refused"),
            where=lambda request: "x-foreign" not in request.headers,
        )
        wire.inject(
            *chance.choices([None, None, Status(500)], k=400),
            method="HEAD",
            where=lambda request: "x-foreign" not in request.headers,
        )
        outcomes: dict[int, FetchError | None] = {}
        enough = threading.Event()

        def write_too() -> None:
            with DurableStream(url, content_type="application/json", headers={"X-Foreign": "yes"}) as other:
                while not enough.is_set():
                    other.append("[]")

        with httpx.Client(transport=refusing) as client:
            handle = DurableStream.create(url, content_type="application/json", client=client)
            foreign = threading.Thread(target=write_too)
            for number in range(80):
                if number == 40:
                    foreign.start()
                try:
                    handle.append(number)
                    outcomes[number] = None
                except FetchError as error:
                    outcomes[number] = error
            enough.set()
            foreign.join(20)
        with stream(url, live=False) as response:
            stored = Counter(each for each in response.read_json() if each != [])
        assert max(stored.values()) == 1
        for number, outcome in outcomes.items():
            if outcome is None:
                assert stored[number] == 1
            elif not outcome.in_doubt:
                assert stored[number] == 0
        doubts = [each for each in outcomes.values() if each is not None]
        assert 0 < len(doubts) < 60, "the faults were neither absent nor everywhere"

    @pytest.mark.parametrize("status", [500, 503])
    def test_an_append_goes_through_where_a_server_fails_twice(
        self, front: Front, reference_server: ReferenceServer, status: int
    ) -> None:
        name = str(uuid.uuid4())
        url = reference_server.stream_url(name)
        handle = front.run(front.handle.create(url, content_type="text/plain"))
        for message in "xy":  # the tail is known from the creation, then from the append before
            reference_server.inject_fault(name, status=status, count=2, method="POST")
            front.run(handle.append(message))
        front.run(handle.close())
        with stream(url, live=False) as response:
            assert response.read_text() == "xy"

    def test_a_closure_goes_through_where_connections_drop(
        self, front: Front, reference_server: ReferenceServer
    ) -> None:
        name = str(uuid.uuid4())
        url = reference_server.stream_url(name)
        handle = front.run(front.handle.create(url, content_type="text/plain"))
        reference_server.inject_fault(name, dropConnection=True, count=2, method="POST")
        final = front.run(handle.close_stream("bye")).final_offset
        assert final == front.run(handle.head()).offset
        front.run(handle.close())
        with stream(url, live=False) as response:
            assert response.read_text() == "bye"

    def test_a_500_after_somebody_elses_append_is_in_doubt(
        self, front: Front, reference_server: ReferenceServer
    ) -> None:
        name = str(uuid.uuid4())
        url = reference_server.stream_url(name)
        handle = front.run(front.handle.create(url, content_type="text/plain"))
        with DurableStream(url) as other:
            other.append("others")
        reference_server.inject_fault(name, status=500, count=1, method="POST")
        with pytest.raises(FetchError) as raised:
            front.run(handle.append("x"))
        assert raised.value.in_doubt
        assert "has grown" in raised.value.__notes__[0]
        front.run(handle.head())
        reference_server.inject_fault(name, status=500, count=1, method="POST")
        front.run(handle.append("y"))
        front.run(handle.close())
        with stream(url, live=False) as response:
            assert response.read_text() == "othersy"

    def test_an_answer_that_is_lost_is_reported_as_it_is(self, front: Front, url: str, wire: Wire) -> None:
        wire.inject(Status(429), DropAfter())
        refusing = Refusing(wire.transport, "POST")
        client = front.client(refusing)
        handle = front.run(front.handle.create(url, content_type="application/json", client=client))
        with pytest.raises(FetchError) as raised:
            front.run(handle.append(1))
        assert raised.value.in_doubt
        assert (wire.count("POST"), refusing.turns) == (2, [])
        front.close(client)
        with stream(url, live=False) as response:
            assert response.read_json() == [1]

    def test_a_500_after_storing_is_never_answered_with_a_second_append(
        self, front: Front, url: str, wire: Wire
    ) -> None:
        wire.inject(None, Status(500, after=True))
        client = front.client(wire.transport)
        handle = front.run(front.handle.create(url, content_type="application/json", client=client))
        front.run(handle.append(1))
        with pytest.raises(FetchError) as raised:
            front.run(handle.append(2))
        assert raised.value.in_doubt
        front.close(client)
        with stream(url, live=False) as response:
            assert response.read_json() == [1, 2]

    def test_a_stream_that_was_deleted_and_made_anew_is_another_one(
        self, front: Front, url: str, wire: Wire
    ) -> None:
        wire.inject(None, Status(500, after=True))
        client = front.client(wire.transport)
        handle = front.run(front.handle.create(url, content_type="application/json", client=client))
        front.run(handle.append(1))
        front.run(handle.delete())
        with DurableStream.create(url, content_type="application/json"):
            pass
        with pytest.raises(FetchError) as raised:
            front.run(handle.append(2))
        assert raised.value.in_doubt
        front.close(client)
        with stream(url, live=False) as response:
            assert response.read_json() == [2]
