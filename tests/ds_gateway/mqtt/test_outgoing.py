"""Orders on their way: the cases by name, and then every order of events at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ds_gateway.commands import MqttMessage, MqttReply, Order, Progress
from ds_gateway.mqtt.events import Connack, Puback
from ds_gateway.mqtt.outgoing import CONFIRM_SECONDS, MAX_IN_FLIGHT, Outgoing, Publish
from ds_gateway.mqtt.packets import Publication

if TYPE_CHECKING:
    from ds_gateway.commands import Delivery

OK = 0
NO_SUBSCRIBERS = 0x10
NOT_AUTHORIZED = 0x87
QUOTA = 0x97
ANSWERED = MqttReply(topic="d/1/out", id_pointer="", timeout_seconds=10)
TOPIC = b"d/1/out"


def order(
    command_id: str = "c-1",
    *,
    reply: MqttReply | None = None,
    delivery: Delivery = "at_least_once",
    deadline: float = 100.0,
    topic: str = "d/1/set",
) -> Order:
    return Order(command_id, "d/1", MqttMessage(topic, b"on", reply), delivery, deadline)


def answer(command_id: str = "c-1", topic: bytes = TOPIC, **fields: Any) -> Publication:
    return Publication(topic, b'"%b"' % command_id.encode(), 1, 1, False, False, b"")._replace(**fields)


class Line:
    """An `Outgoing` with packet ids and a list of what was told."""

    def __init__(self, *orders: Order, is_connected: bool = True, **limits: int) -> None:
        self.outgoing = Outgoing("ds-gateway/g/reply")
        self.told: list[Progress] = []
        self.mid = 0
        self.now = 0.0
        for each in orders:
            self.outgoing.add(each)
        if is_connected:
            self.connect(**limits)

    def connect(self, **limits: int) -> None:
        self.outgoing.connected(Connack(session_present=False, **limits))
        self.outgoing.subscribed()

    def send(self) -> list[Publish]:
        """Publish all that may be published."""
        sent = []
        while (publish := self.outgoing.next(self.now)) is not None:
            self.mid += 1
            self.outgoing.sent(publish, self.mid, self.now)
            sent.append(publish)
        return sent

    def confirm(self, code: int = OK, mid: int | None = None, reason: str = "Success") -> None:
        self.outgoing.puback(Puback(mid or self.mid, code, reason), self.now)

    def at(self, now: float) -> None:
        self.now = now
        self.outgoing.tick(now)

    def statuses(self) -> list[str]:
        """What was told since the last call; a final word has a full stop."""
        told = [progress for _, progress in self.outgoing.take_told()]
        self.told += told
        return [each.status + "." * each.is_final for each in told]

    @property
    def reason(self) -> str:
        return self.told[-1].reason


class TestAnOrder:
    def test_is_published_and_confirmed(self) -> None:
        line = Line(order())
        (publish,) = line.send()
        assert (publish.topic, publish.payload, publish.command_id) == ("d/1/set", b"on", "c-1")
        assert (publish.expires_seconds, publish.response_topic) == (100, None)
        assert line.statuses() == []
        line.confirm()
        assert line.statuses() == ["published."]
        assert len(line.outgoing) == 0

    def test_tells_the_broker_how_long_it_lives_at_least_a_second(self) -> None:
        assert Line(order(deadline=0.5)).send()[0].expires_seconds == 1
        assert Line(order(deadline=59.9)).send()[0].expires_seconds == 59
        assert Line(order(deadline=1e15)).send()[0].expires_seconds == 0xFFFFFFFF

    def test_waits_for_the_subscriptions_or_its_answer_could_be_lost(self) -> None:
        line = Line(order(reply=ANSWERED), is_connected=False)
        line.outgoing.connected(Connack(session_present=False))
        assert line.send() == []
        line.outgoing.subscribed()
        assert len(line.send()) == 1

    @pytest.mark.parametrize("topic", ["", "a/+", "a/#", "a\0b", "a" * 65536, "\ud800"])
    def test_for_what_is_no_topic_fails(self, topic: str) -> None:
        line = Line(order(topic=topic))
        assert line.send() == []
        assert line.statuses() == ["failed."]
        assert "is no topic to publish to" in line.reason

    def test_that_is_answered_on_its_own_topic_fails(self) -> None:
        line = Line(order(topic="d/1/out", reply=ANSWERED))
        assert line.statuses() == ["failed."]
        assert "could not be told from the command itself" in line.reason

    def test_that_needs_a_response_topic_fails_without_one(self) -> None:
        outgoing = Outgoing(None)
        outgoing.add(order(reply=MqttReply(topic=None)))
        ((_, progress),) = outgoing.take_told()
        assert progress.reason.startswith("there is no response topic")


class TestADeadline:
    @pytest.mark.parametrize("is_connected", [False, True])
    def test_expires_what_was_not_sent(self, *, is_connected: bool) -> None:
        line = Line(order(), is_connected=is_connected)
        assert line.outgoing.due == 100
        line.at(99.9)
        assert line.statuses() == []
        line.at(100)
        assert line.statuses() == ["expired."]
        assert line.reason == "its time was over" + ("" if is_connected else " before the broker was there")
        assert line.send() == []

    def test_holds_also_where_nobody_looked_at_the_clock(self) -> None:
        line = Line(order())
        line.now = 100.0
        assert line.send() == []
        assert line.statuses() == ["expired."]

    def test_of_what_was_sent_does_not_matter_any_more(self) -> None:
        line = Line(order(deadline=1))
        line.send()
        line.at(CONFIRM_SECONDS - 0.1)
        assert line.statuses() == []
        line.at(CONFIRM_SECONDS)
        assert line.statuses() == ["unknown."]
        assert line.reason == "the broker did not confirm it in time"

    def test_later_than_a_minute_is_waited_for(self) -> None:
        line = Line(order(deadline=100))
        line.send()
        line.at(99)
        assert line.statuses() == []
        line.at(100)
        assert line.statuses() == ["unknown."]


class TestALostConnection:
    def test_sends_again_what_is_at_least_once_with_the_same_id(self) -> None:
        line = Line(order("a"), order("b"))
        assert [each.command_id for each in line.send()] == ["a", "b"]
        line.outgoing.disconnected()
        line.outgoing.add(order("c"))
        line.connect()
        assert [each.command_id for each in line.send()] == ["a", "b", "c"]

    def test_ends_what_is_at_most_once(self) -> None:
        line = Line(order(delivery="at_most_once"))
        line.send()
        line.outgoing.disconnected()
        assert line.statuses() == ["unknown."]
        assert line.reason == "the connection was lost before the broker confirmed it"
        line.connect()
        assert line.send() == []

    def test_does_not_touch_what_was_not_sent(self) -> None:
        line = Line(order("a", delivery="at_most_once"), order("b", delivery="at_most_once"), receive_maximum=1)
        assert len(line.send()) == 1
        line.outgoing.disconnected()
        assert line.statuses() == ["unknown."]
        line.connect()
        assert [each.command_id for each in line.send()] == ["b"]

    def test_for_an_hour_ends_what_was_sent_in_a_minute_and_expires_the_rest(self) -> None:
        line = Line(order("sent", deadline=30), order("queued", deadline=30), receive_maximum=1)
        line.send()
        line.outgoing.disconnected()
        line.at(30)
        assert line.statuses() == ["expired."]
        line.at(60)
        assert line.statuses() == ["unknown."]
        line.at(3600)
        line.connect()
        assert line.send() == []

    def test_makes_packet_ids_of_the_old_one_void(self) -> None:
        line = Line(order())
        line.send()
        line.outgoing.disconnected()
        line.confirm(mid=1)
        assert line.statuses() == []

    def test_does_not_forget_an_answer(self) -> None:
        line = Line(order(reply=ANSWERED, delivery="at_most_once"))
        line.send()
        line.outgoing.received(answer())
        line.outgoing.disconnected()
        assert line.statuses() == ["acknowledged."]

    def test_does_not_end_the_waiting_for_an_answer(self) -> None:
        line = Line(order(reply=ANSWERED, delivery="at_most_once"))
        line.send()
        line.confirm()
        line.outgoing.disconnected()
        line.connect()
        line.outgoing.received(answer())
        assert line.statuses() == ["published", "acknowledged."]


class TestARefusal:
    @pytest.mark.parametrize(
        ("code", "words", "reason"),
        [
            (QUOTA, "Quota exceeded", "the broker refuses it: Quota exceeded"),
            (NOT_AUTHORIZED, "Not authorized", "the broker refuses it: Not authorized"),
            (NO_SUBSCRIBERS, "No matching subscribers", "nobody is subscribed to d/1/set"),
        ],
    )
    def test_fails_the_order(self, code: int, words: str, reason: str) -> None:
        line = Line(order(reply=ANSWERED))
        line.send()
        line.confirm(code, reason=words)
        assert line.statuses() == ["failed."]
        assert line.reason == reason

    def test_of_a_repeat_says_nothing_about_the_first_copy(self) -> None:
        line = Line(order())
        line.send()
        line.outgoing.disconnected()
        line.connect()
        line.send()
        line.confirm(NO_SUBSCRIBERS)
        assert line.statuses() == ["unknown."]
        assert (
            line.reason == "nobody is subscribed to d/1/set, but what was sent before may have reached the device"
        )

    def test_is_overruled_by_an_answer(self) -> None:
        line = Line(order(reply=ANSWERED))
        line.send()
        line.outgoing.received(answer())
        line.confirm(NO_SUBSCRIBERS)
        assert line.statuses() == ["acknowledged."]

    def test_is_foreseen_where_the_broker_told_its_limits(self) -> None:
        line = Line(order(), maximum_qos=0)
        assert line.send() == []
        assert line.statuses() == ["failed."]
        line = Line(order(), maximum_packet_bytes=100)
        assert line.send() == []
        assert line.statuses() == ["failed."]
        assert "the broker takes packets of 100 bytes at most" in line.reason


class TestTheCount:
    def test_of_what_waits_and_of_what_is_not_acknowledged(self) -> None:
        line = Line(order("a", reply=ANSWERED), order("b"), is_connected=False)

        def counts() -> tuple[int, int]:
            return line.outgoing.waiting, len(line.outgoing) - line.outgoing.waiting

        assert counts() == (2, 0)
        line.connect(receive_maximum=1)
        line.send()
        assert counts() == (1, 1)
        line.outgoing.disconnected()
        assert counts() == (2, 0)
        line.connect()
        line.send()
        assert counts() == (0, 2)
        line.confirm(mid=line.mid)
        line.outgoing.received(answer("a"))
        line.confirm(mid=line.mid - 1)
        assert counts() == (0, 0)


class TestTheWindow:
    @pytest.mark.parametrize(("limit", "window"), [(65535, MAX_IN_FLIGHT), (3, 3)])
    def test_bounds_what_is_unconfirmed(self, limit: int, window: int) -> None:
        line = Line(*(order(f"c-{number}") for number in range(10_000)), receive_maximum=limit)
        assert len(line.send()) == window
        line.confirm(mid=1)
        assert len(line.send()) == 1

    def test_counts_what_is_over_but_unconfirmed(self) -> None:
        line = Line(order("a", deadline=1), order("b", deadline=1000), receive_maximum=1)
        line.send()
        line.at(60)
        assert line.statuses() == ["unknown."]
        assert line.send() == []
        line.confirm(mid=1)
        assert [each.command_id for each in line.send()] == ["b"]

    def test_has_room_for_others_while_answers_are_waited_for(self) -> None:
        line = Line(order("a", reply=ANSWERED), order("b"), receive_maximum=1)
        line.send()
        line.confirm()
        assert [each.command_id for each in line.send()] == ["b"]

    def test_of_many_orders_that_are_over_leaves_nothing(self) -> None:
        line = Line(*(order(f"c-{number}", deadline=1e9) for number in range(5000)))
        while line.send():
            for mid in list(line.outgoing._in_flight):
                line.confirm(mid=mid)
        assert len(line.statuses()) == 5000
        assert len(line.outgoing._due) <= 1000
        assert not line.outgoing._waiting
        assert not line.outgoing._listening


class TestAnAnswer:
    def test_after_the_confirmation_ends_it(self) -> None:
        line = Line(order(reply=ANSWERED))
        line.send()
        line.confirm()
        assert line.statuses() == ["published"]
        line.outgoing.received(answer())
        assert line.statuses() == ["acknowledged."]

    def test_before_the_confirmation_waits_for_it(self) -> None:
        line = Line(order(reply=ANSWERED))
        line.send()
        line.outgoing.received(answer())
        assert line.statuses() == []
        line.confirm()
        assert line.statuses() == ["published", "acknowledged."]

    def test_before_the_command_is_none(self) -> None:
        line = Line(order(reply=ANSWERED))
        line.outgoing.received(answer())
        line.send()
        line.confirm()
        assert line.statuses() == ["published"]

    def test_of_another_id_or_on_another_topic_is_none(self) -> None:
        line = Line(order(reply=ANSWERED))
        line.send()
        line.confirm()
        line.outgoing.received(answer("c-2"))
        line.outgoing.received(answer(topic=b"d/2/out"))
        line.outgoing.received(answer(retain=True))
        assert line.statuses() == ["published"]

    def test_is_for_one_of_two_devices_on_the_response_topic(self) -> None:
        reply = MqttReply(topic=None, id_pointer="")
        line = Line(order("a", reply=reply), order("b", reply=reply))
        assert [each.response_topic for each in line.send()] == ["ds-gateway/g/reply"] * 2
        line.confirm(mid=1)
        line.confirm(mid=2)
        line.outgoing.received(answer("b", topic=b"ds-gateway/g/reply"))
        assert [(number, each.status) for number, each in line.outgoing.take_told()] == [
            (1, "published"),
            (2, "published"),
            (2, "acknowledged"),
        ]

    def test_that_does_not_come_is_unknown(self) -> None:
        line = Line(order(reply=ANSWERED, deadline=1))
        line.send()
        line.at(5)
        line.confirm()
        line.at(14.9)
        assert line.statuses() == ["published"]
        line.at(15)
        assert line.statuses() == ["unknown."]
        assert line.reason == "no answer within 10 s"

    def test_that_does_not_come_is_asked_for_again_with_the_same_id(self) -> None:
        line = Line(order(reply=MqttReply("d/1/out", id_pointer="", timeout_seconds=10, retries=2), deadline=1))
        for attempt in range(3):
            assert [each.command_id for each in line.send()] == ["c-1"]
            line.confirm()
            line.at((attempt + 1) * 10)
        assert line.send() == []
        assert line.statuses() == ["published", "unknown."]

    @pytest.mark.parametrize("filter_", ["d/1/out", "d/+/out", "d/#"])
    def test_that_cannot_come_as_the_broker_refuses_the_subscription(self, filter_: str) -> None:
        line = Line(order(reply=ANSWERED), is_connected=False)
        line.outgoing.connected(Connack(session_present=False))
        line.outgoing.subscribed({"other/#": "no", filter_: "Not authorized"})
        line.send()
        line.confirm()
        line.at(10)
        assert line.statuses() == ["published", "unknown."]
        assert line.reason == (
            f"no answer within 10 s: the broker refuses the subscription to {filter_!r}, where it would come: "
            "Not authorized"
        )

    def test_that_can_come_again_is_no_matter_of_subscriptions(self) -> None:
        line = Line(order(reply=ANSWERED), is_connected=False)
        line.outgoing.connected(Connack(session_present=False))
        line.outgoing.subscribed({"d/1/out": "Not authorized"})
        line.send()
        line.outgoing.disconnected()
        line.connect()
        line.send()
        line.confirm()
        line.at(10)
        assert line.statuses()[-1] == "unknown."
        assert line.reason == "no answer within 10 s"

    def test_is_not_asked_for_again_at_most_once(self) -> None:
        reply = MqttReply("d/1/out", timeout_seconds=10, retries=2)
        line = Line(order(reply=reply, delivery="at_most_once"))
        line.send()
        line.confirm()
        line.at(10)
        assert line.send() == []
        assert line.statuses() == ["published", "unknown."]

    def test_of_an_earlier_attempt_counts(self) -> None:
        line = Line(order(reply=MqttReply("d/1/out", timeout_seconds=10, retries=1)))
        line.send()
        line.confirm()
        line.at(10)
        line.outgoing.received(answer())
        assert line.statuses() == ["published", "acknowledged."]
        assert line.send() == []

    def test_after_the_end_is_none(self) -> None:
        line = Line(order(reply=ANSWERED))
        line.send()
        line.confirm()
        line.at(10)
        line.outgoing.received(answer())
        assert line.statuses() == ["published", "unknown."]

    def test_asked_for_again_while_the_broker_is_away_is_given_up_after_a_minute(self) -> None:
        line = Line(order(reply=MqttReply("d/1/out", timeout_seconds=10, retries=1), deadline=1))
        line.send()
        line.confirm()
        line.outgoing.disconnected()
        line.at(10)
        line.at(69.9)
        assert line.statuses() == ["published"]
        line.at(70)
        assert line.statuses() == ["unknown."]
        assert line.reason == "no answer within 10 s"


class TestStopping:
    def test_ends_every_order(self) -> None:
        line = Line(order("a", reply=ANSWERED), order("b", reply=ANSWERED), order("c"), receive_maximum=2)
        line.send()
        line.outgoing.received(answer("b"))
        line.outgoing.stop()
        assert line.statuses() == ["unknown.", "acknowledged.", "expired."]
        assert line.reason == "the gateway stops"
        assert len(line.outgoing) == 0


class AnyOrderOfEvents(RuleBasedStateMachine):
    """A broker that confirms, refuses, dies and comes back as it likes; a device that answers when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.outgoing = Outgoing("r")
        self.now = 0.0
        self.mid = 0
        self.window = 0
        self.unconfirmed: dict[int, int] = {}
        self.orders: dict[int, Order] = {}
        self.sent: dict[int, list[float]] = {}
        self.told: dict[int, list[Progress]] = {}
        self.answered: set[int] = set()

    @rule(
        delivery=st.sampled_from(["at_least_once", "at_most_once"]),
        seconds=st.sampled_from([0.0, 1.0, 30.0, 100.0]),
        retries=st.sampled_from([None, 0, 2]),
        topic=st.sampled_from(["d/1/out", None]),
    )
    def give(self, delivery: Delivery, seconds: float, retries: int | None, topic: str | None) -> None:
        reply = None if retries is None else MqttReply(topic, id_pointer="", retries=retries)
        given = order(
            f"c-{len(self.orders)}", reply=reply, delivery=delivery, deadline=self.now + seconds, topic="d/1/set"
        )
        number = self.outgoing.add(given)
        self.orders[number], self.sent[number], self.told[number] = given, [], []

    @precondition(lambda self: not self.window)
    @rule(window=st.integers(1, 3))
    def connect(self, window: int) -> None:
        self.outgoing.connected(Connack(session_present=True, receive_maximum=window))
        self.outgoing.subscribed()
        self.window = window

    @rule()
    def disconnect(self) -> None:
        self.outgoing.disconnected()
        self.unconfirmed.clear()
        self.window = 0

    @rule()
    def send(self) -> None:
        publish = self.outgoing.next(self.now)
        if publish is None:
            return
        assert self.window, "there is a connection"
        given, times = self.orders[publish.number], self.sent[publish.number]
        assert publish.command_id == given.command_id
        assert not any(each.is_final for each in self.told[publish.number])
        assert times or self.now < given.deadline, "it is not sent for the first time after its deadline"
        times.append(self.now)
        assert given.delivery == "at_least_once" or len(times) == 1, "at_most_once is sent once"
        self.mid += 1
        self.outgoing.sent(publish, self.mid, self.now)
        self.unconfirmed[self.mid] = publish.number
        assert len(self.unconfirmed) <= self.window

    @precondition(lambda self: self.unconfirmed)
    @rule(data=st.data(), code=st.sampled_from([0, 0, 0, 0x10, 0x97]))
    def confirm(self, data: st.DataObject, code: int) -> None:
        mid = data.draw(st.sampled_from(sorted(self.unconfirmed)))
        del self.unconfirmed[mid]
        self.outgoing.puback(Puback(mid, code, "reason"), self.now)

    @precondition(lambda self: self.orders)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.orders)))
        message = self.orders[number].message
        if isinstance(message, MqttMessage) and message.reply is not None:
            if self.sent[number]:
                self.answered.add(number)
            topic = (message.reply.topic or "r").encode()
            self.outgoing.received(answer(self.orders[number].command_id, topic))

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.outgoing.tick(self.now)

    @invariant()
    def tells_the_truth(self) -> None:
        for number, progress in self.outgoing.take_told():
            earlier, given, times = self.told[number], self.orders[number], self.sent[number]
            assert not any(each.is_final for each in earlier), "nothing comes after the final word"
            assert progress.status not in {each.status for each in earlier}
            earlier.append(progress)
            match progress.status:
                case "expired":
                    assert not times
                    assert self.now >= given.deadline
                case "unknown":
                    assert times
                case "acknowledged":
                    assert number in self.answered
                case "failed":
                    assert len(times) == 1
                case "published":
                    assert times

    def teardown(self) -> None:
        """Whatever was going on: once nothing happens any more, time ends every order."""
        for _ in range(8):
            self.wait(200.0)
            self.tells_the_truth()
        assert all(told and told[-1].is_final for told in self.told.values())
        assert len(self.outgoing) == 0


AnyOrderOfEvents.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
