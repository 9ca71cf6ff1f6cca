"""From publications to items."""

from __future__ import annotations

from ds_gateway.journal import Intake
from ds_gateway.mqtt.dedupe import DedupeGate
from ds_gateway.mqtt.publications import Publications
from ds_gateway.mqtt.tokens import Delivery, SessionStart
from ds_gateway.records import Item, Record


def delivery(mid: int, *, dup: bool, acked: int, generation: int) -> Item:
    token = Delivery(mid, dup, 1, False, b"t" * 8, mid.to_bytes(8), acked, generation)
    return Item(Record("s", "d", b"x"), token)


def test_what_two_connections_bring_never_shares_a_commit_so_r1_tells_them_apart() -> None:
    """Ids 1 to 10 come, the connection breaks before any PUBACK, and all come again in two parts."""
    queue = Intake("broker", max_items=1000, max_bytes=1_000_000, wake=lambda: None)
    gate = DedupeGate(packet_ids="unknown", learn_after=1000)
    queue.offer([Publications.marker(SessionStart(present=False, acked=0, generation=1))])
    queue.offer([delivery(mid, dup=False, acked=0, generation=1) for mid in range(1, 11)])
    queue.offer([Publications.marker(SessionStart(present=True, acked=0, generation=2))])
    queue.offer([delivery(mid, dup=True, acked=0, generation=2) for mid in range(1, 6)])
    commit, admitted = 0, 0
    while items := queue.take(1000, 1_000_000):
        commit += 1
        admitted += sum(item.payload is not None for item in gate.admit(items, commit))
    assert admitted == 10
    # The first part is acknowledged now; the rest of the copies arrives after that mark.
    late = [delivery(mid, dup=True, acked=commit, generation=2) for mid in range(6, 11)]
    assert gate.admit(late, commit + 1) == []


def test_a_very_long_topic_is_not_remembered() -> None:
    publications = Publications("broker", lambda topic, payload, _: Record("s", topic[:1], payload), lambda: 0)
    assert publications._learn(b"a" * 2000)[0] == "a" * 2000
    assert publications._topics == {}
    publications._learn(b"short")
    assert list(publications._topics) == [b"short"]
