"""The window of an idempotent producer: batches, flights, and what each answer does to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from durable_streams import errors
from durable_streams._batches import MAX_ATTEMPTS, Batch, Flight, WindowSettings, check_epoch
from durable_streams._producer import PROBE_SEQ
from durable_streams._reactions import answered, crashed
from durable_streams._window import MAX_CLAIMS, Window
from durable_streams._wire import Answer, Failure, Reply
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


def add(machine: Window, *messages: str, now: float = 0.0) -> list[Batch]:
    return [machine.add(f"{message}\n".encode(), now) for message in messages]


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
    machine.flush()
    for _ in range(1000):
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
        add(machine, "a", now=0.0)
        add(machine, "b", now=0.9)
        assert machine.next_flight(0.99) is None
        assert machine.wake_at(0.99) == 1.0
        flight = machine.next_flight(1.0)
        assert flight is not None
        assert flight.request.body == b"a\nb\n"

    def test_are_not_sent_because_a_request_ended(self) -> None:
        machine = window(linger_seconds=1.0)
        add(machine, "a", now=0.0)
        (flight,) = launch(machine, now=1.0)
        add(machine, "b", now=1.5)
        land(machine, flight, appended(flight))
        assert machine.next_flight(1.6) is None
        assert machine.wake_at(1.6) == 2.5

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
            machine.add(b"111", 0.0)
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
        batches = add(machine, "a")
        assert list(machine.flush()) == batches
        assert machine.next_flight(0.0) is not None

    def test_counts_come_back_to_nothing(self) -> None:
        machine = window()
        add(machine, "a", "b")
        assert (machine.pending_count, machine.pending_bytes, machine.in_flight_count) == (2, 4, 0)
        (flight,) = launch(machine)
        assert machine.in_flight_count == 1
        land(machine, flight, appended(flight, "9"))
        assert (machine.pending_count, machine.pending_bytes, machine.in_flight_count) == (0, 0, 0)
        assert machine.idle
        assert (flight.batch.outcome().offset, flight.batch.outcome().duplicate) == ("9", False)


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
        assert isinstance(batch.error, errors.FetchError)
        assert "may have been stored" in batch.error.__notes__[0]

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
        assert type(batch.error) is kind
        assert batch.error is machine.error
        assert batch.error.records == (b"a\n",)
        assert machine.failures == [batch.error]


class TestAFailure:
    def test_takes_those_behind_along_and_leaves_those_before(self) -> None:
        machine, flights = five_in_flight()
        behind = add(machine, "g")[0]
        land(machine, flights[2], Reply(400, {"stream-next-offset": "1"}))
        assert isinstance(flights[2].batch.error, errors.BadRequestError)
        assert isinstance(behind.error, errors.ProducerStoppedError)
        assert behind.error.__cause__ is machine.error
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

    def test_does_not_hide_that_one_behind_it_arrived(self) -> None:
        machine, flights = five_in_flight()
        land(machine, flights[0], Reply(401, {}))
        land(machine, flights[1], appended(flights[1]))
        assert flights[1].batch.outcome().duplicate is False

    def test_stops_the_producer_until_it_is_restarted(self) -> None:
        machine, flights = five_in_flight()
        for flight in flights:
            land(machine, flight, Reply(401, {}))
        with pytest.raises(errors.ProducerStoppedError):
            add(machine, "h")
        machine.restart()
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
        for flight in flights[1:]:
            land(machine, flight, appended(flight))
        (again,) = launch(machine)
        land(machine, again, duplicate(0, 5))
        assert again.batch.outcome().duplicate
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

    @pytest.mark.parametrize("bad", [-1, 2**53, True, 1.0, "1"])
    def test_an_impossible_epoch_is_refused(self, bad: Any) -> None:
        with pytest.raises(ValueError, match="epoch"):
            check_epoch(bad)


class TestTooLarge:
    def test_a_batch_is_halved_until_it_fits(self) -> None:
        machine = window(max_in_flight=3)
        batches = add(machine, *"abcdefg")
        server = ModelServer(max_body_bytes=4)
        run_to_the_end(machine, server)
        assert lines(server.log) == "abcdefg"
        assert all(batch.settled and batch.outcome() for batch in batches)

    def test_a_message_that_is_too_large_by_itself_fails(self) -> None:
        machine = window()
        (batch,) = add(machine, "abcdefg")
        run_to_the_end(machine, ModelServer(max_body_bytes=4))
        assert isinstance(batch.error, errors.PayloadTooLargeError)

    def test_nothing_is_numbered_again_that_may_arrive_late(self) -> None:
        machine = window()
        (batch, _) = add(machine, "a", "b")
        land(machine, launch(machine)[0], LOST)
        land(machine, launch(machine)[0], Reply(413, {"stream-next-offset": "1"}))
        assert isinstance(batch.error, errors.PayloadTooLargeError)
        assert machine.idle


class TestClosing:
    def test_the_last_message_closes_the_stream(self) -> None:
        machine = window()
        add(machine, "a")
        batch = machine.add(b"z\n", 0.0, closing=True)
        server = ModelServer()
        run_to_the_end(machine, server)
        assert (lines(server.log), server.closed, batch.settled) == ("az", True, True)

    @pytest.mark.parametrize("content_type", ["text/plain", "application/json"])
    def test_or_a_request_without_a_message_in_its_turn(self, content_type: str) -> None:
        machine = window(content_type=content_type)
        machine.add(b"1", 0.0)
        batch = machine.end(0.0)
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
        batch = machine.end(0.0)
        (flight,) = launch(machine)
        server.post(flight.request)
        land(machine, flight, LOST)
        run_to_the_end(machine, server)
        assert (batch.outcome().duplicate, server.closed) == (False, True)

    def test_a_stream_that_somebody_else_closed_is_an_error_if_the_server_says_so(self) -> None:
        machine = window()
        batch = machine.end(0.0)
        run_to_the_end(machine, ModelServer(closed=True))
        assert isinstance(batch.error, errors.StreamClosedError)

    def test_a_204_without_the_closure_is_none(self) -> None:
        machine = window()
        batch = machine.end(0.0)
        (flight,) = launch(machine)
        land(machine, flight, Reply(204, {"stream-next-offset": "7"}))
        assert isinstance(batch.error, errors.ProducerError)

    def test_whoever_was_fenced_closes_nothing(self) -> None:
        machine, server = window(), ModelServer(producers={"p": (3, 0)})
        batch = machine.end(0.0)
        run_to_the_end(machine, server)
        assert isinstance(batch.error, errors.StaleEpochError)
        assert not server.closed

    @pytest.mark.parametrize("known", [{}, {"p": (0, 4)}, {"p": (3, 4)}])
    def test_unless_it_may_claim_the_next_epoch(self, known: dict[str, tuple[int, int]]) -> None:
        machine, server = window(auto_claim=True), ModelServer(producers=known)
        batch = machine.end(0.0)
        run_to_the_end(machine, server)
        assert batch.outcome()
        assert server.closed

    def test_a_producer_that_stopped_closes_nothing(self) -> None:
        machine = window()
        add(machine, "a")
        (flight,) = launch(machine)
        land(machine, flight, fenced(1))
        with pytest.raises(errors.ProducerStoppedError):
            machine.end(0.0)


class TestSettings:
    @pytest.mark.parametrize(
        ("option", "value"),
        [("max_batch_bytes", 0), ("max_batch_bytes", -1), ("max_in_flight", 0), ("linger_seconds", -0.1)],
    )
    def test_impossible_ones_are_refused(self, option: str, value: Any) -> None:
        with pytest.raises(ValueError, match=option.replace("seconds", "ms")):
            window(**{option: value})

    def test_a_producer_needs_a_name(self) -> None:
        with pytest.raises(ValueError, match="producer_id"):
            WindowSettings(url=URL, producer_id="", content_type="text/plain")
