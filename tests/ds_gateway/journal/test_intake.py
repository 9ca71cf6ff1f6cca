"""The bounded queue in front of the journal."""

from __future__ import annotations

from ds_gateway.journal import Intake
from ds_gateway.records import Item, Record


def item(text: str, *, is_barrier: bool = False) -> Item:
    return Item(Record("s", "d", text.encode()), text, is_barrier=is_barrier)


def intake(max_bytes: int = 1_000_000) -> Intake:
    return Intake("source", max_items=10, max_bytes=max_bytes, wake=lambda: None)


def tokens(items: list[Item]) -> list[object]:
    return [each.token for each in items]


def test_a_barrier_begins_a_transaction_of_its_own() -> None:
    queue = intake()
    queue.offer([item("a"), item("b"), item("c", is_barrier=True), item("d"), item("e", is_barrier=True)])
    assert tokens(queue.take(10, 1_000_000)) == ["a", "b"]
    assert tokens(queue.take(10, 1_000_000)) == ["c", "d"]
    assert tokens(queue.take(10, 1_000_000)) == ["e"]


def test_empty_payloads_are_not_free() -> None:
    queue = intake(max_bytes=1000)
    assert queue.offer([item("")])
    assert not queue.offer([item(""), item("")])


def test_what_is_given_back_comes_first_again() -> None:
    queue = intake()
    queue.offer([item("a"), item("b"), item("c")])
    taken = queue.take(2, 1_000_000)
    queue.give_back(taken)
    assert tokens(queue.take(10, 1_000_000)) == ["a", "b", "c"]
    assert queue.waiting_bytes == 0


def test_what_is_taken_counts_until_its_commit_is_done() -> None:
    queue = intake()
    queue.offer([item("a"), item("b"), item("c")])
    taken = queue.take(2, 1_000_000)
    assert (len(queue), queue.uncommitted) == (1, 3)
    queue.give_back(taken)
    assert (len(queue), queue.uncommitted) == (3, 3)
    queue.settle(queue.take(2, 1_000_000))
    assert (len(queue), queue.uncommitted) == (1, 1)


def test_an_item_larger_than_the_queue_is_taken_when_it_is_empty() -> None:
    queue = intake(max_bytes=10)
    assert queue.offer([item("x" * 100)])
    assert not queue.offer([item("y")])
