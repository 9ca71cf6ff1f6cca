"""Orders between threads, and a connection whose socket is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds_gateway.mqtt.events import Connack
from ds_gateway.mqtt.sending import Sender
from harness.mqtt_device import Fate, order

if TYPE_CHECKING:
    from ds_gateway.commands import Delivery
    from ds_gateway.mqtt.outgoing import Publish


class SlowLink:
    """Its socket takes nothing after so many messages."""

    def __init__(self, takes: int) -> None:
        self.ended: str | None = None
        self.published: list[str] = []
        self._takes = takes

    @property
    def wants_write(self) -> bool:
        return len(self.published) > self._takes

    def publish(self, message: Publish) -> int:
        self.published.append(message.command_id)
        return len(self.published)

    def write(self) -> None:
        pass


def given(sender: Sender, *names: str, delivery: Delivery = "at_most_once") -> list[Fate]:
    fates = [Fate(order(name, delivery=delivery)) for name in names]
    for fate in fates:
        sender.give(fate.order, fate.told.append)
    return fates


def test_an_order_ends_the_network_threads_wait() -> None:
    woken: list[bool] = []
    sender = Sender(None, lambda: woken.append(True))
    given(sender, "a")
    assert woken == [True]
    sender.close()


def test_at_most_one_order_is_in_doubt_when_a_slow_connection_breaks() -> None:
    sender, link = Sender(None, lambda: None), SlowLink(takes=1)
    fates = given(sender, "a", "b", "c", "d")
    sender.connected(Connack(session_present=True))
    sender.subscribed()
    sender.turn(link)
    assert link.published == ["a", "b"]
    sender.disconnected()
    assert [fate.statuses for fate in fates] == [["unknown"], ["unknown"], [], []]
    again = SlowLink(takes=9)
    sender.connected(Connack(session_present=True))
    sender.subscribed()
    sender.turn(again)
    assert again.published == ["c", "d"]
    sender.close()


def test_nothing_is_given_to_a_connection_that_is_over() -> None:
    sender, link = Sender(None, lambda: None), SlowLink(takes=9)
    link.ended = "lost"
    (fate,) = given(sender, "a")
    sender.connected(Connack(session_present=True))
    sender.subscribed()
    sender.turn(link)
    assert link.published == []
    sender.close()
    assert fate.statuses == ["expired"]


def test_what_is_given_after_the_end_ends_at_once() -> None:
    sender = Sender(None, lambda: None)
    (early,) = given(sender, "early")
    sender.close()
    (late,) = given(sender, "late")
    assert [early.told, late.told] == [early.told, early.told]
    assert late.told[0].reason == "the gateway stops"
