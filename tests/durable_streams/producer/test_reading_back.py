"""What a read-back that fails means: the way is broken, the server refuses it, or a page cannot be read here."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway.journal.finder import IdFinder
from durable_streams import _pull
from durable_streams._drain import MAX_PAGE_BYTES, Ask, BeginSurvey, Drain
from durable_streams._exchange import RetryPolicy
from durable_streams._producer import PROBE_SEQ
from durable_streams._pull import Policy, Pull, Stage, Stop
from durable_streams._store import Presence, ProducerState, SealedBatch
from durable_streams._wire import Failure, Reply

if TYPE_CHECKING:
    from durable_streams._store import Finder

EPOCH, SEQ = 3, 7
BATCH = SealedBatch(EPOCH, SEQ, b'[{"id":"g.i.1"}]', 1)
STORED = ProducerState("p", EPOCH, claimed=True, anchor="0005", resolved_seq=SEQ - 1, batch=BATCH)
REPAIRING = ProducerState("p", EPOCH, claimed=False, anchor="0005", resolved_seq=0, batch=None, repairing=True)
TAIL = Reply(200, {"stream-next-offset": "0009", "content-type": "application/json"})
NO_BATCH_YET = Reply(409, {"producer-expected-seq": str(SEQ), "producer-received-seq": "9"})
CLAIMED = Reply(409, {"producer-expected-seq": "1", "producer-received-seq": "9"})
ITSELF = Policy(recover=True)


def in_doubt(stage: Stage = Stage.HEAD, policy: Policy = ITSELF, **changes: Any) -> Pull:
    """A batch that was not answered."""
    return replace(Pull(stage, STORED, policy, batch=BATCH, repeated=True, late=True, tail="0009"), **changes)


def repairing(stage: Stage = Stage.TAIL, policy: Policy = ITSELF) -> Pull:
    """A repair of which the claim was confirmed."""
    return Pull(stage, REPAIRING, policy, tail="0009")


def tell(state: Pull, answer: Reply | Failure, at: float = 0.0) -> _pull.Step:
    return _pull.react(state, _pull.Answered(answer, at))


def refuse(state: Pull, answer: Reply, ats: tuple[float, ...] = (0.0, 30.0, 60.0)) -> _pull.Step:
    """Refusals; a look at the stream's end in between, if it comes first, succeeds."""
    reading = state.stage
    for at in ats:
        if state.stage is not reading:
            state, _ = tell(state, TAIL)
        assert state.stage is reading
        state, command = tell(state, answer, at)
        if isinstance(command, _pull.Wait):
            state, _ = _pull.react(state, _pull.Done())
    return state, command


READING = [in_doubt(Stage.HEAD), in_doubt(Stage.READ), repairing(Stage.TAIL), repairing(Stage.SURVEY)]


def stage_of(state: Pull) -> str:
    return state.stage.name


@pytest.mark.parametrize("status", [403, 405, 501])
@pytest.mark.parametrize("state", READING, ids=stage_of)
class TestReadingIsRefused:
    def test_by_nobody_knows_whom_three_times_in_a_minute_leads_to_a_probe(self, state: Pull, status: int) -> None:
        for ats in ((0.0,), (0.0, 60.0), (0.0, 1.0, 59.9)):
            _, command = refuse(state, Reply(status, {}), ats)
            assert isinstance(command, _pull.Wait)
            assert command.renew_credentials is (status == 403)
        after, command = refuse(state, Reply(status, {}))
        assert isinstance(command, _pull.PostProbe)
        assert (command.attempt.epoch, command.attempt.seq) == (EPOCH, PROBE_SEQ)
        assert after.stored == state.stored

    def test_and_counts_if_the_server_answers_the_probe_and_refuses_once_more(
        self, state: Pull, status: int
    ) -> None:
        after, _ = refuse(state, Reply(status, {}))
        after, command = tell(after, CLAIMED if state.stored.repairing else NO_BATCH_YET)
        assert command == _pull.Head()
        if state.stage in {Stage.READ, Stage.SURVEY}:
            after, _ = tell(after, TAIL)
        after, command = tell(after, Reply(status, {}))
        if state.stored.repairing:
            assert isinstance(command, _pull.Halt)
            assert command.stop is Stop.UNREADABLE
            return
        assert isinstance(command, _pull.PostBatch)
        again, _ = tell(after, Failure("timed out"))
        again, _ = _pull.react(again, _pull.Done())
        assert isinstance(tell(again, Reply(status, {}))[1], _pull.PostBatch), "what is known is not asked again"

    @pytest.mark.parametrize("answer", [Failure("timed out"), Reply(405, {}), Reply(200, {}), Reply(401, {})])
    def test_and_does_not_count_if_the_probe_is_not_answered_by_the_server(
        self, state: Pull, status: int, answer: Reply | Failure
    ) -> None:
        after, _ = refuse(state, Reply(status, {}))
        after, command = tell(after, answer, 60.0)
        assert isinstance(command, _pull.Wait)
        after, command = _pull.react(after, _pull.Done())
        assert command == _pull.Head()
        if state.stage in {Stage.READ, Stage.SURVEY}:
            after, _ = tell(after, TAIL)
        after, command = tell(after, Reply(status, {}), 61.0)
        assert isinstance(command, _pull.Wait), "it is counted from the beginning"

    def test_and_does_not_count_if_the_way_broke_after_the_probe(self, state: Pull, status: int) -> None:
        after, _ = refuse(state, Reply(status, {}))
        after, _ = tell(after, CLAIMED if state.stored.repairing else NO_BATCH_YET)
        after, _ = tell(after, Failure("timed out"), 61.0)
        after, _ = _pull.react(after, _pull.Done())
        _, command = tell(after, Reply(status, {}), 62.0)
        assert isinstance(command, _pull.Wait)

    def test_by_the_server_itself_counts_at_once(self, state: Pull, status: int) -> None:
        _, command = tell(state, Reply(status, {"stream-next-offset": "0009"}))
        assert isinstance(command, _pull.Halt if state.stored.repairing else _pull.PostBatch)


def test_a_server_that_was_read_since_is_not_taken_to_refuse_it() -> None:
    reading = in_doubt(Stage.READ, vouched=True)
    state, command = _pull.react(reading, _pull.Found(Presence.ABSENT, "0009"))
    assert isinstance(command, _pull.PostBatch)
    state, _ = tell(state, Failure("timed out"))
    state, _ = _pull.react(state, _pull.Done())
    assert isinstance(tell(state, Reply(405, {}))[1], _pull.Wait)


class TestWhatWasKnownOfOneBatch:
    """That the server refuses reading: of the next one anybody on the way may say so."""

    REFUSED = Reply(405, {})

    def known(self, **changes: Any) -> Pull:
        """The batch is sent again without a look, as the server refuses it."""
        state, command = tell(in_doubt(vouched=True, **changes), self.REFUSED)
        assert isinstance(command, _pull.PostBatch)
        return state

    def test_says_nothing_of_the_next_one(self) -> None:
        appended = {"producer-epoch": str(EPOCH), "producer-seq": str(SEQ), "stream-next-offset": "0010"}
        state, command = tell(self.known(), Reply(200, appended))
        assert isinstance(command, _pull.Resolve)
        state, _ = _pull.react(state, _pull.Done())
        state, _ = _pull.react(state, _pull.Sealed(replace(BATCH, seq=SEQ + 1)))
        state, _ = tell(state, Failure("timed out"))
        state, _ = _pull.react(state, _pull.Done())
        assert isinstance(tell(state, self.REFUSED)[1], _pull.Wait)

    def test_says_nothing_of_a_repair(self) -> None:
        state, command = tell(
            self.known(), Reply(409, {"producer-expected-seq": "0", "producer-received-seq": "7"})
        )
        assert isinstance(command, _pull.BeginRepair)
        state, _ = _pull.react(state, _pull.Done())
        state, _ = tell(state, TAIL)
        claimed = {"producer-epoch": str(EPOCH + 1), "producer-seq": "0", "stream-next-offset": "0010"}
        state, command = tell(state, Reply(200, claimed))
        assert (state.stage, command) == (Stage.TAIL, _pull.Head())
        assert isinstance(tell(state, self.REFUSED)[1], _pull.Wait)


class TestTheProbe:
    def test_of_a_server_that_forgot_leads_to_a_repair(self) -> None:
        forgot = Reply(409, {"producer-expected-seq": "0", "producer-received-seq": "9"})
        for begun in (in_doubt(), repairing()):
            state, _ = refuse(begun, Reply(405, {}))
            _, command = tell(state, forgot)
            assert isinstance(command, _pull.BeginRepair)

    def test_takes_it_that_a_batch_of_this_process_has_arrived(self) -> None:
        has_it = Reply(409, {"producer-expected-seq": str(SEQ + 1), "producer-received-seq": "9"})
        state, _ = refuse(in_doubt(stored=replace(STORED, batch=None)), Reply(405, {}))
        _, command = tell(state, has_it)
        assert command == _pull.Head()

    def test_on_a_closed_stream_decides_nothing_that_cannot_be_read(self) -> None:
        state, _ = refuse(in_doubt(), Reply(405, {}))
        state, command = tell(state, Reply(409, {"stream-closed": "true"}))
        assert command == _pull.Head()
        _, command = tell(state, Reply(405, {}))
        assert isinstance(command, _pull.Halt)
        assert command.stop is Stop.CLOSED

    def test_of_a_fenced_producer_stops_it(self) -> None:
        state, _ = refuse(in_doubt(), Reply(405, {}))
        _, command = tell(state, Reply(403, {"producer-epoch": "9"}))
        assert isinstance(command, _pull.Halt)
        assert command.stop is Stop.FENCED


class TestWhatIsNotKept:
    """HTTP 410 to a read."""

    NOBODYS, SERVERS = Reply(410, {}), Reply(410, {"stream-next-offset": "0009"})

    def test_the_servers_own_word_counts_at_once(self) -> None:
        _, command = tell(in_doubt(Stage.READ), self.SERVERS)
        assert isinstance(command, _pull.BeginRepair)
        _, command = tell(repairing(Stage.SURVEY), self.SERVERS)
        assert command == _pull.ReadAllBack("0009", expired=True)

    def test_anybody_elses_after_a_minute_and_a_look_at_something_else(self) -> None:
        for state in (in_doubt(Stage.READ), repairing(Stage.SURVEY)):
            after, command = refuse(state, self.NOBODYS)
            assert command == _pull.ConfirmPath()
            _, command = _pull.react(after, _pull.PathConfirmed(confirmed=True))
            if state.stage is Stage.READ:
                assert isinstance(command, _pull.BeginRepair)
            else:
                assert command == _pull.ReadAllBack("0009", expired=True)
            waiting, command = _pull.react(after, _pull.PathConfirmed(confirmed=False))
            assert isinstance(command, _pull.Wait)
            assert _pull.react(waiting, _pull.Done())[1] == _pull.Head()

    def test_what_is_left_is_not_asked_for_twice_in_a_row(self) -> None:
        expired, _ = tell(repairing(Stage.SURVEY), self.SERVERS)
        _, command = tell(expired, self.SERVERS)
        assert isinstance(command, _pull.Wait)


class TestPagesThatCannotBeRead:
    """The server gives them, as it always will: somebody else's message, or a page without end."""

    WHY = "a read from 0005 is not a JSON array: it is nested too deeply"

    @pytest.mark.parametrize("state", [in_doubt(Stage.READ), repairing(Stage.SURVEY)], ids=stage_of)
    def test_three_times_in_a_minute_for_the_same_reason_stop_the_stream(self, state: Pull) -> None:
        for at in (0.0, 30.0, 59.0):
            state, command = _pull.react(state, _pull.Unreadable(self.WHY, at))
            assert isinstance(command, _pull.Wait)
            assert self.WHY in state.trouble
            state, _ = _pull.react(state, _pull.Done())
            state, _ = tell(state, TAIL)
        _, command = _pull.react(state, _pull.Unreadable(self.WHY, 60.0))
        assert isinstance(command, _pull.Halt)
        assert command.stop is Stop.UNREADABLE_PAGE
        assert self.WHY in command.reason

    def test_for_another_reason_each_time_do_not(self) -> None:
        state = in_doubt(Stage.READ)
        for number in range(9):
            state, command = _pull.react(state, _pull.Unreadable(f"cut at {number}", 60.0 * number))
            assert isinstance(command, _pull.Wait)
            state, _ = _pull.react(state, _pull.Done())
            state, _ = tell(state, TAIL)

    def test_an_operators_claim_steps_over_them(self) -> None:
        _, command = tell(repairing(policy=Policy(recover=True, claim=True)), TAIL)
        assert command == _pull.ReadAllBack("0009", leniently=True)


class Survey:
    """Remembers the pages; those that are not ``[1]`` are no JSON."""

    def __init__(self) -> None:
        self.anchor, self.start, self.expired = "0005", "", False
        self.foreign = self.incomplete = self.undecided = False
        self.pages: list[bytes] = []

    def feed(self, page: bytes) -> None:
        if page != b"[1]":
            raise ValueError("no JSON")
        self.pages.append(page)


class Bodies:
    def claim_body(self, epoch: int) -> bytes:
        raise AssertionError("nothing is claimed here")

    def probe_body(self) -> bytes:
        raise AssertionError("nothing is probed here")

    def finder(self, batch: SealedBatch) -> Finder:
        return IdFinder("g.i.", batch.body, 1)


class TestReading:
    """The flow that reads, with answers by hand."""

    def read(self, command: _pull.Command, answers: list[Reply]) -> tuple[_pull.Event, list[str], list[Survey]]:
        """What became of it, from which offsets was read, and the surveys."""
        retry = RetryPolicy(random=Random(0), utc_now=lambda: datetime.now(UTC), monotonic=lambda: 8.0)
        drain = Drain("http://s.test/s", Bodies(), ITSELF, 1000, retry, lambda _state, _command: None)
        flow = drain._execute(in_doubt(Stage.READ), command)
        outcome: Any = None
        offsets, surveys = [], []
        try:
            while True:
                match flow.send(outcome):
                    case Ask(request):
                        offsets.append(dict(request.params)["offset"])
                        outcome = answers.pop(0)
                    case BeginSurvey():
                        outcome = Survey()
                        surveys.append(outcome)
                    case effect:
                        raise AssertionError(effect)
        except StopIteration as done:
            return done.value, offsets, surveys

    def page(self, end: str, body: bytes = b"[1]") -> Reply:
        return Reply(200, {"stream-next-offset": end}, body)

    def test_what_others_nested_too_deeply_is_told(self) -> None:
        deep = b"[" * 100_000 + b"]" * 100_000
        event, _, _ = self.read(_pull.ReadBack(BATCH, "0005", "0009"), [self.page("0009", b"[%b]" % deep)])
        assert event == _pull.Unreadable("a read from 0005 is not a JSON array: it is nested too deeply", 8.0)

    def test_a_page_beyond_the_limit_is_told(self) -> None:
        event, _, _ = self.read(_pull.ReadBack(BATCH, "0005", "0009"), [self.page("0009", bytes(MAX_PAGE_BYTES))])
        assert event == _pull.Unreadable(f"a read from 0005 has more than {MAX_PAGE_BYTES} bytes", 8.0)

    @pytest.mark.parametrize("headers", [{}, {"stream-next-offset": "0005"}, {"content-type": "text/html"}])
    @pytest.mark.parametrize("body", [b"<html>", bytes(MAX_PAGE_BYTES)], ids=len)
    def test_a_page_of_nobody_knows_whom_is_a_broken_way(self, headers: dict[str, str], body: bytes) -> None:
        event, _, _ = self.read(_pull.ReadBack(BATCH, "0005", "0009"), [Reply(200, headers, body)])
        assert isinstance(event, _pull.Answered)
        assert isinstance(event.answer, Failure)

    def test_so_is_one_at_the_beginning_without_an_end(self) -> None:
        event, _, _ = self.read(_pull.ReadAllBack("0009", expired=True), [Reply(200, {}, b"<html>")])
        assert isinstance(event, _pull.Answered)
        assert event.answer == Failure("a read from -1 ended at ''")

    def test_leniently_it_is_stepped_over(self) -> None:
        pages = [self.page("0006"), self.page("0008", b"?"), self.page("0009")]
        event, offsets, (survey,) = self.read(_pull.ReadAllBack("0009", leniently=True), list(pages))
        assert isinstance(event, _pull.Surveyed)
        assert offsets == ["0005", "0006", "0008"]
        assert survey.pages == [b"[1]", b"[1]"]
        event, _, _ = self.read(_pull.ReadAllBack("0009"), list(pages))
        assert event == _pull.Unreadable("a read from 0006 is not a JSON array: no JSON", 8.0)

    def test_what_has_expired_is_read_from_the_oldest_message(self) -> None:
        event, offsets, (survey,) = self.read(_pull.ReadAllBack("0009", expired=True), [self.page("0009")])
        assert isinstance(event, _pull.Surveyed)
        assert (offsets, survey.start, survey.expired) == (["-1"], "-1", True)

    def test_whoever_says_410_it_is_the_machine_that_decides(self) -> None:
        event, offsets, _ = self.read(_pull.ReadAllBack("0009"), [Reply(410, {})])
        assert event == _pull.Answered(Reply(410, {}), 8.0)
        assert offsets == ["0005"]


def test_a_batch_that_is_refused_and_said_to_be_there_in_turn_is_asked_about_less_and_less() -> None:
    state = Pull(Stage.SEND, STORED, ITSELF, batch=BATCH)
    has_it = Reply(409, {"producer-expected-seq": str(SEQ + 1), "producer-received-seq": "9"})
    at_the_anchor = Reply(200, {**TAIL.headers, "stream-next-offset": "0005"})
    waits = []
    for _ in range(5):
        state, _ = tell(state, Reply(400, {"stream-error": "refused"}))
        state, command = tell(state, has_it)
        assert isinstance(command, _pull.Wait)
        waits.append(command.failures)
        state, _ = _pull.react(state, _pull.Done())
        state, command = tell(state, at_the_anchor)
        assert isinstance(command, _pull.PostBatch)
    assert waits == sorted(set(waits))


class TestAStreamThatHasEnded:
    """Each start looks first: a claim would only use up an epoch."""

    @pytest.mark.parametrize(
        ("answer", "stop"),
        [
            (Reply(200, {**TAIL.headers, "stream-closed": "true"}), Stop.CLOSED),
            (Reply(410, {"stream-next-offset": "0009"}), Stop.GONE),
            (Reply(404, {"stream-next-offset": "0009"}), Stop.MISSING),
        ],
    )
    @pytest.mark.parametrize(
        ("stored", "policy"),
        [(REPAIRING, ITSELF), (STORED, Policy(recover=True, fence_on_start=True))],
        ids=["an unfinished repair", "a claim at each start"],
    )
    def test_takes_no_repair(self, stored: ProducerState, policy: Policy, answer: Reply, stop: Stop) -> None:
        state, command = _pull.start(stored, policy)
        assert command == _pull.Head()
        state, command = tell(state, answer)
        assert isinstance(command, _pull.Halt)
        assert (command.stop, state.stored) == (stop, stored)

    def test_one_that_goes_on_is_repaired_after_the_look(self) -> None:
        state, _ = _pull.start(REPAIRING, ITSELF)
        state, command = tell(state, TAIL)
        assert command == _pull.BeginRepair(EPOCH + 1, "a repair was begun and not finished")
        state, command = _pull.react(state, _pull.Done())
        assert command == _pull.Head()
        _, command = tell(state, TAIL)
        assert isinstance(command, _pull.PostClaim)
