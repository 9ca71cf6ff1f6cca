from __future__ import annotations

from ds_gateway.mqtt.retained import MAX_TOPICS, SLACK, LastValues


def topic(number: int) -> bytes:
    return number.to_bytes(8, "big")


VALUES = [bytes([65 + number]) * 8 for number in range(4)]


class Kept:
    """Last values with their rows."""

    def __init__(self, max_topics: int = MAX_TOPICS) -> None:
        self.values = LastValues(max_topics)
        self.rows: dict[str, bytes] = {}
        self.commit = 0

    def take(self, *messages: tuple[int, bytes]) -> None:
        self.commit += 1
        for number, value in messages:
            self.values.record(topic(number), value, self.commit)
        for name, row in self.values.changes():
            if row is None:
                del self.rows[name]
            else:
                self.rows[name] = row

    def restored(self) -> LastValues:
        values = LastValues()
        values.restore(self.rows)
        return values


class TestLastValues:
    def test_are_of_each_topic(self) -> None:
        kept = Kept()
        kept.take((1, VALUES[0]), (2, VALUES[1]), (1, VALUES[2]))
        for values in (kept.values, kept.restored()):
            assert values.is_last(topic(1), VALUES[2])
            assert not values.is_last(topic(1), VALUES[0])
            assert values.is_last(topic(2), VALUES[1])
            assert not values.is_last(topic(3), VALUES[1])

    def test_that_do_not_change_are_not_written_again(self) -> None:
        kept = Kept()
        kept.take((1, VALUES[0]))
        kept.take((1, VALUES[0]))
        assert len(kept.rows) == 1

    def test_of_a_quiet_topic_are_kept_however_busy_another_one_is(self) -> None:
        kept = Kept()
        kept.take((1, VALUES[0]), (2, VALUES[0]))
        for number in range(3 * SLACK):
            kept.take((2, VALUES[number % 4]))
        for values in (kept.values, kept.restored()):
            assert values.is_last(topic(1), VALUES[0])
            assert values.is_last(topic(2), VALUES[(3 * SLACK - 1) % 4])
        assert len(kept.rows) <= SLACK + 10

    def test_of_too_many_topics_are_forgotten_oldest_first(self) -> None:
        kept = Kept(max_topics=3)
        for number in range(5):
            kept.take((number, VALUES[0]))
        for values in (kept.values, kept.restored()):
            assert [values.is_last(topic(number), VALUES[0]) for number in range(5)] == [False] * 2 + [True] * 3
        assert len(kept.rows) == 3
