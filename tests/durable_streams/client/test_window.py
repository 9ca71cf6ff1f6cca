"""The window of an idempotent producer: batches, flights, and what each answer does to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from durable_streams import errors
from durable_streams._batches import MAX_ATTEMPTS, Flight, Flush, Taken, WindowSettings, check_epoch
from durable_streams._messages import unencoded
from durable_streams._producer import PROBE_SEQ
from durable_streams._reactions import answered, crashed
from durable_streams._types import IdempotentAppendResult
from durable_streams._window import MAX_CLAIMS, Window
from durable_streams._wire import MAX_PRODUCER_INTEGER, Answer, Failure, Reply
from harness.producer_model import ModelServer
from harness.stream_client import URL, policy

if TYPE_CHECKING:
    from collections.abc import Iterable

LOST = Failure("reset")
NEVER = 10.0**9


def window(*, epoch: int = 0, **options: Any) -> Window:
    settings = WindowSettings(
        url=URL, producer_id="p", **{"content_type": "text/plain", "linger_seconds": 0.0, **options}
    )
    return Window(settings, policy(), epoch=epoch)


def take(machine: Window, message: bytes) -> Taken:
    batch = machine.intake.take(message)
    return Taken(batch, len(batch.messages) - 1)


def add(machine: Window, *messages: str) -> list[Taken]:
    return [take(machine, f"{message}\n".encode()) for message in messages]


def flush(machine: Window) -> Flush:
    return machine.intake.flush()


def end(machine: Window, message: bytes = b"") -> Taken:
    return Taken(machine.intake.take_last(message), 0)


def failure(taken: Taken) -> errors.DurableStreamError:
    with pytest.raises(errors.DurableStreamError) as raised:
        taken.outcome()
    return raised.value


def launch(machine: Window, now: float = NEVER) -> list[Flight]:
    """Send everything that may be sent now."""
    flights: list[Flight] = []
    while (flight := machine.next_flight(now)) is not None:
        flights.append(flight)
    return flights


def land(machine: Window, flight: Flight, answer: Answer) -> None:
    answered(machine, flight, answer, 0.0)


def appended(flight: Flight, offset: str = "1") -> Reply:
    epoch, seq = str(flight.attempt.epoch), str(flight.attempt.seq)
    return Reply(200, {"producer-epoch": epoch, "producer-seq": seq, "stream-next-offset": offset})


def duplicate(epoch: int, seq: int) -> Reply:
    return Reply(204, {"producer-epoch": str(epoch), "producer-seq": str(seq)})


def fenced(epoch: int) -> Reply:
    return Reply(403, {"producer-epoch": str(epoch)})


def gap(expected: int) -> Reply:
    return Reply(409, {"producer-expected-seq": str(expected)})


def five_in_flight(**options: Any) -> tuple[Window, list[Flight]]:
    """A window in mid-flight: seq 0 is confirmed, 1 to 5 are under way."""
    machine = window(**{"max_batch_bytes": 3, **options})
    machine.epoch_known = True
    add(machine, *"abcdef")
    (first,) = launch(machine)
    land(machine, first, appended(first))
    flights = launch(machine)
    assert [flight.attempt.seq for flight in flights] == [1, 2, 3, 4, 5]
    return machine, flights


def run_to_the_end(machine: Window, server: ModelServer) -> None:
    """Send everything over a perfect network."""
    flush(machine)
    for _ in range(10_000):
        flights = launch(machine)
        if not flights:
            return
        for flight in flights:
            land(machine, flight, server.post(flight.request))
    raise AssertionError("the window never comes to rest")


def lines(messages: Iterable[bytes]) -> str:
    return b"".join(messages).decode().replace("\n", "")


class TestBatches:
    def test_linger_together(self) -> None:
        machine = window(linger_seconds=1.0)
        add(machine, "a")
        assert machine.next_flight(0.0) is None
        add(machine, "b")
        assert machine.next_flight(0.99) is None
        assert machine.wake_at(0.99) == 1.0
        flight = machine.next_flight(1.0)
        assert flight is not None
        assert flight.request.body == b"a\nb\n"

    def test_are_not_sent_because_a_request_ended(self) -> None:
        machine = window(linger_seconds=1.0)
        add(machine, "a")
        assert machine.next_flight(0.0) is None
        (flight,) = launch(machine, now=1.0)
        add(machine, "b")
        assert machine.next_flight(1.5) is None
        land(machine, flight, appended(flight))
        assert machine.next_flight(1.6) is None
        assert machine.wake_at(1.6) == 2.5

    def test_linger_longer_while_others_are_under_way(self) -> None:
        machine = window(linger_seconds=1.0)
        for message in "ab":
            add(machine, message)
            flush(machine)
            flights = launch(machine, now=0.0)
            if message == "a":
                land(machine, flights[0], appended(flights[0]))
        add(machine, "c")
        assert machine.next_flight(0.0) is None
        assert machine.wake_at(0.0) == 2.0
        assert machine.next_flight(1.9) is None
        assert machine.next_flight(2.0) is not None

    def test_never_exceed_their_size(self) -> None:
        machine = window(max_batch_bytes=5, max_in_flight=100)
        add(machine, "a", "b", "c", "dd", "e")
        server = ModelServer(max_body_bytes=5)
        run_to_the_end(machine, server)
        assert lines(server.log) == "abcdde"
        assert machine.next_seq == 3

    def test_of_json_never_exceed_their_size_either(self) -> None:
        machine = window(content_type="application/json", max_batch_bytes=9)
        for _ in range(3):
            take(machine, b"111")
        flight = machine.next_flight(NEVER)
        assert flight is not None
        assert flight.request.body == b"[111,111]"

    def test_a_message_that_can_never_fit_is_refused_alone(self) -> None:
        machine = window(max_batch_bytes=5)
        add(machine, "a")
        with pytest.raises(errors.MessageError, match="max_batch_bytes=5"):
            add(machine, "123456")
        add(machine, "b")
        assert machine.pending_count == 2

    def test_a_flush_sends_what_lingers(self) -> None:
        machine = window(linger_seconds=60.0)
        (taken,) = add(machine, "a")
        wish = flush(machine)
        flight = machine.next_flight(0.0)
        assert flight is not None
        add(machine, "b")
        assert (machine.next_flight(0.0), wish.settled) == (None, False)
        land(machine, flight, appended(flight))
        assert (taken.settled, wish.settled) == (True, True)

    def test_counts_come_back_to_nothing(self) -> None:
        machine = window()
        add(machine, "a", "b")
        assert (machine.pending_count, machine.pending_bytes, machine.in_flight_count) == (2, 4, 0)
        (flight,) = launch(machine)
        assert machine.in_flight_count == 1
        land(machine, flight, appended(flight, "9"))
        assert (machine.pending_count, machine.pending_bytes, machine.in_flight_count) == (0, 0, 0)
        assert machine.idle
        assert flight.batch.result == IdempotentAppendResult("9", duplicate=False)


class TestFlights:
    def test_the_first_of_an_epoch_flies_alone(self) -> None:
        machine = window(max_batch_bytes=2)
        add(machine, *"abc")
        assert [flight.attempt.seq for flight in launch(machine)] == [0]

    def test_then_as_many_as_were_chosen(self) -> None:
        machine, flights = five_in_flight(max_batch_bytes=2)
        add(machine, "g")
        assert launch(machine) == []
        land(machine, flights[0], appended(flights[0]))
        assert [flight.attempt.seq for flight in launch(machine)] == [6]

    @pytest.mark.parametrize("answer", [Reply(503, {}), LOST, Failure("refused", sent=False), Reply(429, {})])
    def test_an_unanswered_batch_is_sent_again_byte_for_byte(self, answer: Answer) -> None:
        machine = window()
        add(machine, "a")
        (first,) = launch(machine)
        land(machine, first, answer)
        add(machine, "b")
        again = launch(machine)[0]
        assert (again.attempt.epoch, again.attempt.seq) == (0, 0)
        assert again.request == first.request

    def test_it_waits_as_long_as_the_server_asks(self) -> None:
        machine = window()
        add(machine, "a")
        (first,) = launch(machine)
        land(machine, first, Reply(503, {"retry-after": "7"}))
        assert machine.next_flight(6.9) is None
        assert machine.wake_at(0.0) == 7.0
        assert machine.next_flight(7.0) is not None

    def test_an_append_whose_answer_was_lost_is_confirmed_by_the_duplicate(self) -> None:
        machine = window()
        (batch,) = add(machine, "a")
        land(machine, launch(machine)[0], LOST)
        land(machine, launch(machine)[0], duplicate(0, 0))
        assert batch.outcome().duplicate

    def test_requests_that_overtake_each_other_are_no_gap(self) -> None:
        machine, flights = five_in_flight()
        for flight in reversed(flights[1:]):
            land(machine, flight, gap(1))
        assert machine.error is None
        assert launch(machine) == [], "they wait for their turn"
        land(machine, flights[0], appended(flights[0]))
        assert [flight.attempt.seq for flight in launch(machine)] == [2, 3, 4, 5]

    def test_an_answer_that_is_older_than_the_confirmation_is_no_gap_either(self) -> None:
        machine, flights = five_in_flight()
        land(machine, flights[0], appended(flights[0]))
        land(machine, flights[1], gap(1))
        assert machine.error is None
        assert [flight.attempt.seq for flight in launch(machine)] == [2]

    def test_a_gap_in_turn_is_one(self) -> None:
        machine, flights = five_in_flight()
        land(machine, flights[0], gap(0))
        assert isinstance(machine.error, errors.SequenceGapError)

    def test_a_batch_fails_after_many_attempts(self) -> None:
        machine = window()
        (batch,) = add(machine, "a")
        for _ in range(MAX_ATTEMPTS):
            (flight,) = launch(machine)
            land(machine, flight, Reply(500, {}))
        assert isinstance(failure(batch), errors.FetchError)
        assert "may have been stored" in failure(batch).__notes__[0]

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (Reply(409, {"stream-closed": "true"}), errors.StreamClosedError),
            (Reply(409, {}), errors.ContentTypeMismatchError),
            (Reply(404, {}), errors.StreamNotFoundError),
            (Reply(410, {}), errors.RetentionGoneError),
            (Reply(401, {}), errors.UnauthorizedError),
            (Reply(400, {"stream-next-offset": "1"}), errors.BadRequestError),
            (Reply(413, {}), errors.PayloadTooLargeError),
            (fenced(4), errors.StaleEpochError),
            (Reply(204, {"stream-next-offset": "1"}), errors.ProducerError),
        ],
    )
    def test_a_refusal_is_final_and_has_its_own_error(self, answer: Answer, kind: type[Exception]) -> None:
        machine = window()
        (batch,) = add(machine, "a")
        land(machine, launch(machine)[0], answer)
        assert type(failure(batch)) is kind
        assert failure(batch) is machine.error
        assert failure(batch).records == (b"a\n",)
        assert machine.failures == [failure(batch)]


class TestAFailure:
    def test_takes_those_behind_along_and_leaves_those_before(self) -> None:
        machine, flights = five_in_flight()
        behind = add(machine, "g")[0]
        land(machine, flights[2], Reply(400, {"stream-next-offset": "1"}))
        assert isinstance(flights[2].batch.error, errors.BadRequestError)
        assert isinstance(failure(behind), errors.ProducerStoppedError)
        assert failure(behind).__cause__ is machine.error
        land(machine, flights[0], LOST)
        (again,) = launch(machine)
        assert again.attempt.seq == 1
        land(machine, again, appended(again))
        land(machine, flights[1], appended(flights[1]))
        for flight in flights[3:]:
            land(machine, flight, gap(3))
            assert isinstance(flight.batch.error, errors.ProducerStoppedError)
        assert machine.idle
        assert machine.pending_count == machine.pending_bytes == 0

    def test_does_not_hide_that_one_behind_it_may_have_arrived(self) -> None:
        machine, flights = five_in_flight()
        for flight in flights[:2]:
            land(machine, flight, LOST)
        (again, _) = launch(machine)
        land(machine, again, Reply(401, {}))
        land(machine, flights[2], LOST)
        land(machine, flights[3], gap(2))
        errors_told = [error for error in machine.failures if error.records]
        assert [(lines(error.records), error.in_doubt) for error in errors_told[:1]] == [("b", True)]
        assert {lines(error.records): error.in_doubt for error in errors_told[1:]} == {"d": True, "e": False}

    def test_is_waited_for_by_a_flush_after_a_restart_until_the_last_answer(self) -> None:
        machine, flights = five_in_flight()
        land(machine, flights[0], Reply(401, {}))
        machine.restart()
        wish = flush(machine)
        assert machine.next_flight(NEVER) is None
        for flight in flights[1:]:
            assert not wish.settled
            land(machine, flight, gap(1))
        assert wish.settled

    def test_does_not_hide_that_one_behind_it_arrived(self) -> None:
        machine, flights = five_in_flight()
        land(machine, flights[0], Reply(401, {}))
        land(machine, flights[1], appended(flights[1]))
        assert flights[1].batch.result == IdempotentAppendResult("1", duplicate=False)

    def test_stops_the_producer_until_it_is_restarted(self) -> None:
        machine, flights = five_in_flight()
        for flight in flights:
            land(machine, flight, Reply(401, {}))
        assert isinstance(machine.error, errors.UnauthorizedError)
        (late,) = add(machine, "g")
        machine.restart()
        assert isinstance(failure(late), errors.ProducerStoppedError)
        add(machine, "h")
        (flight,) = launch(machine)
        assert (flight.attempt.epoch, flight.attempt.seq) == (1, 0)

    def test_of_making_a_request_is_one_too(self) -> None:
        machine = window()
        (batch,) = add(machine, "a")
        crashed(machine, launch(machine)[0], errors.ProducerError("no token"))
        assert batch.settled
        assert machine.idle


class TestEpochs:
    def test_after_a_claim_all_unconfirmed_batches_are_numbered_again_in_order(self) -> None:
        machine, flights = five_in_flight(auto_claim=True)
        land(machine, flights[1], fenced(6))
        assert launch(machine) == [], "nothing is claimed while something flies"
        land(machine, flights[0], appended(flights[0]))
        for flight in flights[2:]:
            land(machine, flight, fenced(6))
        server = ModelServer(producers={"p": (6, 9)})
        run_to_the_end(machine, server)
        assert lines(server.log) == "cdef"
        assert (machine.epoch, machine.next_seq) == (7, 4)

    def test_an_epoch_that_was_used_up_is_found_out_before_anything_is_sent(self) -> None:
        machine = window(auto_claim=True)
        (batch,) = add(machine, "a")
        (probe,) = launch(machine)
        assert probe.attempt.seq == PROBE_SEQ
        server = ModelServer(producers={"p": (0, 3)})
        land(machine, probe, server.post(probe.request))
        run_to_the_end(machine, server)
        assert lines(server.log) == "a"
        assert batch.outcome().duplicate is False
        assert machine.epoch == 1

    @pytest.mark.parametrize(("known", "epoch"), [({}, 0), ({"p": (5, 2)}, 6), ({"p": (0, 0)}, 1)])
    def test_a_claim_takes_the_next_free_one(self, known: dict[str, tuple[int, int]], epoch: int) -> None:
        machine = window(auto_claim=True)
        add(machine, "a")
        run_to_the_end(machine, ModelServer(producers=known))
        assert machine.epoch == epoch
        assert machine.error is None

    def test_an_epoch_above_the_servers_is_not_raised_further(self) -> None:
        machine = window(epoch=8, auto_claim=True)
        add(machine, "a")
        server = ModelServer(producers={"p": (5, 2)})
        run_to_the_end(machine, server)
        assert machine.epoch == 8
        assert lines(server.log) == "a"

    def test_a_lost_probe_leaves_no_doubt_about_its_batch(self) -> None:
        machine = window(auto_claim=True)
        add(machine, "a")
        land(machine, launch(machine)[0], LOST)
        (probe,) = launch(machine)
        land(machine, probe, gap(0))
        (flight,) = launch(machine)
        assert flight.attempt.repeated is False

    def test_a_stranger_in_the_epoch_is_never_taken_for_an_echo(self) -> None:
        machine, flights = five_in_flight()
        land(machine, flights[0], duplicate(0, 1))
        assert isinstance(machine.error, errors.StaleEpochError)
        assert machine.error.in_doubt, "it may be our own, if something on the way has sent it twice"
        land(machine, flights[1], duplicate(0, 2))
        assert [error.in_doubt for error in machine.failures] == [True, True]

    def test_with_claims_the_strangers_numbers_are_left_behind(self) -> None:
        machine, flights = five_in_flight(auto_claim=True)
        for flight in flights:
            land(machine, flight, duplicate(0, 5))
        server = ModelServer(producers={"p": (0, 5)})
        run_to_the_end(machine, server)
        assert lines(server.log) == "bcdef"

    def test_an_epoch_that_the_caller_begins_again_is_answered_with_duplicates(self) -> None:
        machine = window()
        (batch,) = add(machine, "a")
        land(machine, launch(machine)[0], duplicate(0, 0))
        assert batch.outcome().duplicate

    def test_a_later_number_of_our_own_confirms_an_earlier_attempt(self) -> None:
        machine, flights = five_in_flight()
        land(machine, flights[0], LOST)
        land(machine, flights[1], appended(flights[1]))
        assert flights[0].batch.result == IdempotentAppendResult(None, duplicate=True)
        assert launch(machine) == [], "there is nothing left to ask"
        assert machine.error is None

    def test_so_does_a_duplicate_that_names_the_later_number(self) -> None:
        machine, flights = five_in_flight()
        land(machine, flights[0], LOST)
        (again,) = launch(machine)
        for flight in flights[1:]:
            land(machine, flight, appended(flight))
        land(machine, again, duplicate(0, 5))
        assert again.batch.result == IdempotentAppendResult(None, duplicate=True)
        assert machine.error is None

    def test_two_that_claim_from_each_other_do_not_go_on_for_ever(self) -> None:
        machine = window(auto_claim=True)
        add(machine, "a")
        for claims in range(MAX_CLAIMS + 1):
            (flight,) = launch(machine)
            land(machine, flight, fenced(2 * claims + 1))
        assert isinstance(machine.error, errors.StaleEpochError)

    def test_a_restart_sends_what_is_unconfirmed_in_the_new_epoch(self) -> None:
        machine, flights = five_in_flight()
        machine.restart()
        for flight in flights:
            land(machine, flight, Reply(429, {}))
        server = ModelServer(producers={"p": (0, 0)})
        run_to_the_end(machine, server)
        assert lines(server.log) == "bcdef"
        assert machine.epoch == 1

    def test_a_restart_first_learns_what_became_of_what_may_have_arrived(self) -> None:
        machine, server = window(max_batch_bytes=3), ModelServer()
        add(machine, "a")
        run_to_the_end(machine, server)
        add(machine, *"bcd")
        flights = launch(machine)
        server.post(flights[0].request)
        for flight in flights:
            land(machine, flight, LOST)
        machine.restart()
        run_to_the_end(machine, server)
        assert lines(server.log) == "abcd", "numbered again, b would be there twice"
        assert (machine.epoch, machine.error) == (1, None)

    def test_a_restart_asks_again_which_epoch_is_free(self) -> None:
        server = ModelServer(producers={"p": (1, 0)})
        machine = window(auto_claim=True)
        add(machine, "a")
        land(machine, launch(machine)[0], Reply(401, {}))
        machine.restart()
        (taken,) = add(machine, "b")
        for answer in (None, LOST):
            (flight,) = launch(machine)
            land(machine, flight, answer or server.post(flight.request))
        run_to_the_end(machine, server)
        assert taken.outcome().duplicate is False, "number 0 of epoch 1 is an earlier process's"
        assert lines(server.log) == "b"

    def test_before_a_restart_nothing_else_is_sent(self) -> None:
        machine, flights = five_in_flight()
        land(machine, flights[0], Reply(429, {}))
        land(machine, flights[1], LOST)
        for flight in flights[2:]:
            land(machine, flight, Reply(429, {}))
        machine.restart()
        add(machine, "g")
        assert machine.wake_at(0.0) is not None
        again = launch(machine)
        assert [(flight.attempt.epoch, flight.attempt.seq) for flight in again] == [(0, 1), (0, 2)]
        assert machine.wake_at(0.0) is None, "only answers can change anything now"
        for flight in again:
            land(machine, flight, appended(flight))
        assert [(flight.attempt.epoch, flight.attempt.seq) for flight in launch(machine)] == [(1, 0)]

    def test_an_epoch_that_a_restart_chose_is_no_excuse_for_a_stranger(self) -> None:
        machine = window()
        add(machine, "a")
        land(machine, launch(machine)[0], Reply(401, {}))
        machine.restart()
        (taken,) = add(machine, "b")
        land(machine, launch(machine)[0], duplicate(1, 7))
        assert isinstance(failure(taken), errors.StaleEpochError)

    def test_after_the_last_epoch_there_is_none(self) -> None:
        machine = window(epoch=MAX_PRODUCER_INTEGER)
        with pytest.raises(ValueError, match="epoch"):
            machine.restart()
        add(machine, "a")
        assert launch(machine)[0].attempt.epoch == MAX_PRODUCER_INTEGER

    @pytest.mark.parametrize("bad", [-1, 2**53, True, 1.0, "1"])
    def test_an_impossible_epoch_is_refused(self, bad: Any) -> None:
        with pytest.raises(ValueError, match="epoch"):
            check_epoch(bad)


class TestTheIntake:
    """What was taken, until a batch is made of it."""

    def test_grows_batches_until_something_stands_behind_them(self) -> None:
        machine = window(max_batch_bytes=4, linger_seconds=60.0, max_in_flight=9)
        add(machine, *"abcde")
        machine.epoch_established = True
        assert [flight.request.body for flight in launch(machine, now=0.0)] == [b"a\nb\n", b"c\nd\n"]
        flush(machine)
        add(machine, "f")
        assert [flight.request.body for flight in launch(machine, now=0.0)] == [b"e\n"]
        assert (machine.pending_count, machine.pending_bytes) == (6, 12)

    def test_a_batch_that_is_just_full_does_not_linger(self) -> None:
        machine = window(max_batch_bytes=4, linger_seconds=60.0)
        add(machine, *"ab")
        assert machine.next_flight(0.0) is not None

    def test_flushes_that_nobody_waited_for_do_not_gather(self) -> None:
        machine = window()
        add(machine, "a")
        launch(machine)
        add(machine, "b")
        assert len({id(flush(machine)) for _ in range(100)}) == 1

    def test_goes_on_growing_while_nothing_may_fly(self) -> None:
        machine = window()
        add(machine, "a")
        (flight,) = launch(machine)
        for message in "bcd":
            add(machine, message)
            assert machine.next_flight(NEVER) is None
        land(machine, flight, appended(flight))
        assert [flight.request.body for flight in launch(machine)] == [b"b\nc\nd\n"]

    def test_does_not_mind_a_batch_without_messages(self) -> None:
        machine = window()
        empty = machine.intake.take(b"a")
        empty.messages.clear()  # as if Ctrl-C had come before the message
        flush(machine)
        add(machine, "b")
        flush(machine)
        (flight,) = launch(machine)
        assert (flight.attempt.seq, flight.request.body) == (0, b"b\n")
        land(machine, flight, appended(flight))
        assert (machine.idle, machine.pending_count, machine.pending_bytes) == (True, 0, 0)

    @pytest.mark.parametrize(
        ("content_type", "bodies"),
        [("application/json", [b'["a",{"b":1}]']), ("text/plain", [b'"a"'])],
        ids=["json", "text"],
    )
    def test_is_encoded_when_the_content_type_is_known(self, content_type: str, bodies: list[bytes]) -> None:
        machine = window(content_type="")
        take(machine, unencoded('"a"'))
        second = take(machine, unencoded({"b": 1}))
        wish = flush(machine)
        assert machine.next_flight(NEVER) is None
        machine.learn(content_type)
        assert [flight.request.body for flight in launch(machine)] == bodies
        if content_type == "text/plain":
            assert isinstance(failure(second), errors.MessageError)
            assert "not dict" in str(failure(second))
            assert failure(second).records == (b'{"b":1}',)
            assert machine.failures == [failure(second)]
        assert not wish.settled

    def test_what_can_never_fit_is_found_out_then(self) -> None:
        machine = window(content_type="", max_batch_bytes=5)
        taken = take(machine, unencoded("[1,2]"))
        machine.learn("application/json")
        assert isinstance(failure(taken), errors.MessageError)
        assert machine.idle

    def test_is_refused_when_there_is_no_stream(self) -> None:
        machine = window(content_type="")
        taken = [take(machine, unencoded(message)) for message in ("a", "b")]
        wish, ending = flush(machine), end(machine)
        error = errors.StreamNotFoundError("gone")
        machine.refuse(error)
        assert [failure(each) for each in [*taken, ending]] == [error] * 3
        assert (error.records, machine.failures, wish.settled) == ((b"a", b"b"), [error], True)
        assert (machine.pending_count, machine.pending_bytes, machine.idle) == (0, 0, True)

    def test_fails_with_what_is_before_it(self) -> None:
        machine = window(max_batch_bytes=3)
        add(machine, "a")
        (flight,) = launch(machine)
        behind = add(machine, *"bcd")
        wish = flush(machine)
        land(machine, flight, Reply(401, {}))
        assert {type(failure(each)) for each in behind} == {errors.ProducerStoppedError}
        assert lines(record for error in machine.failures for record in error.records) == "abcd"
        assert wish.settled
        assert machine.idle

    def test_what_was_checked_before_a_failure_and_taken_after_it_fails_too(self) -> None:
        machine = window()
        add(machine, "a")
        land(machine, launch(machine)[0], Reply(401, {}))
        (late,) = add(machine, "b")
        assert machine.next_flight(NEVER) is None
        (later,) = add(machine, "c")
        machine.restart()
        assert {type(failure(each)) for each in (late, later)} == {errors.ProducerStoppedError}
        assert machine.next_flight(NEVER) is None


class TestGivingUp:
    def test_fails_what_nobody_will_send(self) -> None:
        machine = window(max_batch_bytes=3)
        taken = add(machine, *"ab")
        land(machine, launch(machine)[0], LOST)
        add(machine, "c")
        wish = flush(machine)
        machine.abandon()
        assert {type(failure(each)) for each in taken} == {errors.ProducerStoppedError}
        assert lines(record for error in machine.failures for record in error.records) == "abc"
        assert [error.in_doubt for error in machine.failures] == [True, False]
        assert wish.settled
        assert (machine.idle, machine.pending_count, machine.pending_bytes) == (True, 0, 0)

    def test_fails_nothing_after_a_flush(self) -> None:
        machine = window()
        add(machine, "a")
        run_to_the_end(machine, ModelServer())
        machine.abandon()
        assert machine.failures == []


class TestTooLarge:
    def test_a_batch_is_halved_until_it_fits(self) -> None:
        machine = window(max_in_flight=3)
        batches = add(machine, *"abcdefg")
        server = ModelServer(max_body_bytes=4)
        run_to_the_end(machine, server)
        assert lines(server.log) == "abcdefg"
        assert all(batch.settled and batch.outcome() for batch in batches)

    def test_each_message_learns_what_became_of_its_own_part(self) -> None:
        machine = window()
        taken = add(machine, "a", "b", "c", "d", "efghijk", "l", "m", "n")
        run_to_the_end(machine, ModelServer(max_body_bytes=4))
        assert [each.outcome().duplicate for each in taken[:4]] == [False] * 4
        assert isinstance(failure(taken[4]), errors.PayloadTooLargeError)
        assert failure(taken[4]).records == (b"efghijk\n",)
        assert {type(failure(each)) for each in taken[5:]} == {errors.ProducerStoppedError}

    def test_there_may_be_thousands_of_parts(self) -> None:
        machine = window()
        taken = add(machine, *["abc"] * 3000)
        wish = flush(machine)
        run_to_the_end(machine, ModelServer(max_body_bytes=4))
        assert wish.settled
        assert all(each.outcome() for each in taken)

    def test_a_message_that_is_too_large_by_itself_fails(self) -> None:
        machine = window()
        (batch,) = add(machine, "abcdefg")
        run_to_the_end(machine, ModelServer(max_body_bytes=4))
        assert isinstance(failure(batch), errors.PayloadTooLargeError)

    def test_nothing_is_numbered_again_that_may_arrive_late(self) -> None:
        machine = window()
        (batch, _) = add(machine, "a", "b")
        land(machine, launch(machine)[0], LOST)
        land(machine, launch(machine)[0], Reply(413, {"stream-next-offset": "1"}))
        assert isinstance(failure(batch), errors.PayloadTooLargeError)
        assert machine.idle


class TestClosing:
    def test_the_last_message_closes_the_stream(self) -> None:
        machine = window()
        add(machine, "a")
        batch = end(machine, b"z\n")
        server = ModelServer()
        run_to_the_end(machine, server)
        assert (lines(server.log), server.closed, batch.settled) == ("az", True, True)

    @pytest.mark.parametrize("content_type", ["text/plain", "application/json"])
    def test_or_a_request_without_a_message_in_its_turn(self, content_type: str) -> None:
        machine = window(content_type=content_type)
        take(machine, b"1")
        batch = end(machine)
        (first,) = launch(machine)
        assert first.request.body in {b"1", b"[1]"}
        land(machine, first, appended(first))
        (last,) = launch(machine)
        assert (last.request.body, last.request.headers["stream-closed"]) == (b"", "true")
        assert (last.attempt.seq, machine.pending_count) == (1, 0)
        land(machine, last, Reply(204, {"stream-closed": "true", "stream-next-offset": "7"}))
        assert batch.outcome().offset == "7"
        assert machine.idle

    def test_its_lost_answer_is_found_by_sending_it_again(self) -> None:
        machine, server = window(), ModelServer()
        batch = end(machine)
        (flight,) = launch(machine)
        server.post(flight.request)
        land(machine, flight, LOST)
        run_to_the_end(machine, server)
        assert (batch.outcome().duplicate, server.closed) == (False, True)

    def test_a_stream_that_somebody_else_closed_is_an_error_if_the_server_says_so(self) -> None:
        machine = window()
        batch = end(machine)
        run_to_the_end(machine, ModelServer(closed=True))
        assert isinstance(failure(batch), errors.StreamClosedError)

    def test_a_204_without_the_closure_is_none(self) -> None:
        machine = window()
        batch = end(machine)
        (flight,) = launch(machine)
        land(machine, flight, Reply(204, {"stream-next-offset": "7"}))
        assert isinstance(failure(batch), errors.ProducerError)

    def test_whoever_was_fenced_closes_nothing(self) -> None:
        machine, server = window(), ModelServer(producers={"p": (3, 0)})
        batch = end(machine)
        run_to_the_end(machine, server)
        assert isinstance(failure(batch), errors.StaleEpochError)
        assert not server.closed

    @pytest.mark.parametrize("known", [{}, {"p": (0, 4)}, {"p": (3, 4)}])
    def test_unless_it_may_claim_the_next_epoch(self, known: dict[str, tuple[int, int]]) -> None:
        machine, server = window(auto_claim=True), ModelServer(producers=known)
        batch = end(machine)
        run_to_the_end(machine, server)
        assert batch.outcome()
        assert server.closed

    def test_a_producer_that_stopped_closes_nothing(self) -> None:
        machine = window()
        add(machine, "a")
        (flight,) = launch(machine)
        land(machine, flight, fenced(1))
        taken = end(machine)
        assert launch(machine) == []
        assert isinstance(failure(taken), errors.ProducerStoppedError)


class TestSettings:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("max_batch_bytes", 0),
            ("max_batch_bytes", -1),
            ("max_in_flight", 0),
            ("linger_seconds", -0.1),
            ("linger_seconds", float("nan")),
        ],
    )
    def test_impossible_ones_are_refused(self, option: str, value: Any) -> None:
        with pytest.raises(ValueError, match=option.replace("seconds", "ms")):
            window(**{option: value})

    def test_a_producer_needs_a_name(self) -> None:
        with pytest.raises(ValueError, match="producer_id"):
            WindowSettings(url=URL, producer_id="", content_type="text/plain")
