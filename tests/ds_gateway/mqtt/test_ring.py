from __future__ import annotations

from ds_gateway.mqtt.ring import RING_ENTRIES, Ring, row_name


def digest(number: int) -> bytes:
    return number.to_bytes(8, "big")


def changes(ring: Ring, session: int = 1) -> dict[str, bytes | None]:
    return dict(ring.changes(session=session, newest_mid=7, run=3))


def apply(rows: dict[str, bytes], changed: dict[str, bytes | None]) -> None:
    for name, row in changed.items():
        if row is None:
            rows.pop(name, None)
        else:
            rows[name] = row


class TestARing:
    def test_finds_the_last_delivery_of_an_id(self) -> None:
        ring = Ring()
        ring.record(5, digest(1), 10)
        ring.record(5, digest(2), 11)
        assert ring.find(5) == (digest(2), 11)
        assert ring.find(6) is None

    def test_writes_one_row_a_commit(self) -> None:
        ring = Ring()
        for mid in range(1, 101):
            ring.record(mid, digest(mid), 10)
        (name,) = changes(ring)
        assert name == row_name(10)
        assert changes(ring) == {}

    def test_is_the_same_after_a_restore(self) -> None:
        ring, rows = Ring(), dict[str, bytes]()
        for commit in range(1, 20):
            for mid in range(commit, commit + 5):
                ring.record(mid, digest(commit), commit)
            apply(rows, changes(ring))
        restored = Ring()
        assert restored.restore(rows, 1) == (1, 7, 3)
        assert [restored.find(mid) for mid in range(1, 30)] == [ring.find(mid) for mid in range(1, 30)]
        assert changes(restored) == {}

    def test_ignores_rows_of_another_session(self) -> None:
        ring, rows = Ring(), dict[str, bytes]()
        ring.record(1, digest(1), 1)
        apply(rows, changes(ring, session=1))
        restored = Ring()
        assert restored.restore(rows, 2) is None
        assert restored.find(1) is None

    def test_deletes_a_row_when_all_of_it_is_too_old(self) -> None:
        ring, rows = Ring(max_entries=10), dict[str, bytes]()
        for commit in range(1, 6):
            for mid in range(commit * 10, commit * 10 + 4):
                ring.record(mid, digest(mid), commit)
            apply(rows, changes(ring))
        # 10 of 20 are the last; the row that holds the tenth is kept whole.
        assert sorted(rows) == [row_name(3), row_name(4), row_name(5)]
        assert ring.find(23) is None
        assert ring.find(30) is not None
        restored = Ring(max_entries=10)
        restored.restore(rows, 1)
        assert len(restored) == len(ring) == 12

    def test_keeps_an_id_whose_newer_delivery_is_still_among_the_last(self) -> None:
        ring = Ring(max_entries=3)
        ring.record(1, digest(1), 1)
        ring.record(1, digest(2), 2)
        for mid in (2, 3):
            ring.record(mid, digest(mid), mid + 1)
        assert changes(ring)[row_name(1)] is None
        assert ring.find(1) == (digest(2), 2)

    def test_what_is_delivered_again_and_again_pushes_nothing_out(self) -> None:
        # A gateway that is killed each time when half of what is unacknowledged has come again.
        ring, rows = Ring(max_entries=10), dict[str, bytes]()
        for mid in range(1, 9):
            ring.record(mid, digest(mid), mid)
            apply(rows, changes(ring))
        for commit in range(100, 200):
            for mid in range(1, 5):
                ring.record(mid, digest(mid), commit)
            apply(rows, changes(ring))
            assert [ring.find(mid) is not None for mid in range(1, 9)] == [True] * 8
        assert sorted(rows) == [*map(row_name, range(5, 9)), row_name(199)], "one row for each that is known"
        restored = Ring(max_entries=10)
        restored.restore(rows, 1)
        assert [restored.find(mid) for mid in range(1, 9)] == [ring.find(mid) for mid in range(1, 9)]
        assert len(restored) == len(ring) == 8

    def test_forgets_rows_too(self) -> None:
        ring = Ring()
        ring.record(1, digest(1), 1)
        changes(ring)
        ring.clear()
        assert changes(ring) == {row_name(1): None}
        assert ring.find(1) is None

    def test_after_forgetting_begins_again_in_the_same_commit(self) -> None:
        ring, rows = Ring(), dict[str, bytes]()
        ring.record(1, digest(1), 1)
        ring.clear()
        ring.record(2, digest(2), 1)
        apply(rows, changes(ring))
        restored = Ring()
        restored.restore(rows, 1)
        assert (restored.find(1), restored.find(2)) == (None, (digest(2), 1))

    def test_never_spans_more_than_half_of_all_ids(self) -> None:
        assert RING_ENTRIES == 32_768
