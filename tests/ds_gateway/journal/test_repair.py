"""What a repair makes of a stream whose server lost something in its middle: the explorer's servers never do."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from ds_gateway.journal.stream_store import StreamStore
from ds_gateway.records import Record
from harness.row_journal import Facts, RowsSettings, TurnWriter, Waiter, call, new_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_streams import SealedBatch


class OneStream:
    """A journal and what its server has of its records."""

    def __init__(self, waiter: Waiter) -> None:
        self.writer = TurnWriter(new_rows(), RowsSettings())
        self.stream: list[dict[str, Any]] = []
        self._waiter = waiter
        self._epoch = 0

    @property
    def facts(self) -> Facts:
        return Facts(self.writer.disk.rows)

    def accept(self, *values: int) -> None:
        """As one segment."""
        self.writer.turn(records=[Record("s", "d", b'"v":%d}' % value) for value in values])

    def send(self) -> list[int]:
        """Send everything that is open; return its values."""
        sent: list[dict[str, Any]] = []
        while self.writer.book.open_records:
            batch: SealedBatch = call(self._waiter, self.writer, lambda store: store.next_batch(1 << 14))
            sent += orjson.loads(batch.body)
            offset = f"{len(self.stream) + len(sent):04d}"
            call(self._waiter, self.writer, partial(StreamStore.resolve, batch=batch, offset=offset))
            self.writer.turn()
        self.stream += sent
        return [message["v"] for message in sent if "v" in message]

    def lose(self, *values: int) -> None:
        """The server loses records."""
        self.stream = [message for message in self.stream if message.get("v") not in values]

    def repair(self, *, adopt: bool = False) -> None:
        """Read all back."""
        self._epoch += 1
        call(self._waiter, self.writer, lambda store: store.begin_repair(self._epoch))
        survey = call(self._waiter, self.writer, lambda store: store.begin_survey())
        survey.start = "-1" if survey.anchor is None else survey.anchor
        survey.feed(orjson.dumps(self.stream))
        end = f"{len(self.stream):04d}"
        call(self._waiter, self.writer, lambda store: store.save_repair(survey, end, adopt=adopt))
        assert self.facts.check()

    def losses(self) -> list[tuple[str, int, int]]:
        """Cause, first and last position of each loss record in the stream."""
        infos = [message["info"] for message in self.stream if message.get("kind") == "loss"]
        return [(info["cause"], info["first_position"], info["last_position"]) for info in infos]


@pytest.fixture
def one() -> Iterator[OneStream]:
    waiter = Waiter()
    yield OneStream(waiter)
    waiter.close()


class TestWhatIsFoundBeforeTheFirstMissingRecord:
    def test_stays_kept_and_is_sent_again_when_it_is_lost_later(self, one: OneStream) -> None:
        one.accept(1)
        one.accept(2, 3, 4)
        one.send()
        one.lose(3, 4)
        one.repair()
        assert one.send() == [3, 4]
        one.lose(2, 3, 4)
        one.repair()
        assert one.send() == [2, 3, 4]
        assert one.losses() == []

    def test_it_is_not_sent_while_it_is_there(self, one: OneStream) -> None:
        one.accept(1, 2, 3, 4)
        one.send()
        one.lose(2, 4)
        one.repair()
        assert one.send() == [2, 4]
        one.repair()
        assert one.send() == []


class TestWhatIsFoundBehindIt:
    def test_a_later_loss_of_it_is_told_once(self, one: OneStream) -> None:
        one.accept(1)
        one.accept(2, 3)
        one.accept(4)
        one.accept(5)
        one.send()
        one.lose(2)
        one.repair()
        assert one.send() == [2]
        one.lose(4, 5)
        one.repair()
        assert one.send() == []
        assert one.losses() == [("server_lost", 4, 5)]
        one.repair()
        one.send()
        assert one.losses() == [("server_lost", 4, 5)]

    def test_nothing_is_told_while_it_is_there(self, one: OneStream) -> None:
        one.accept(1)
        one.accept(2, 3)
        one.send()
        one.lose(1)
        one.repair()
        assert one.send() == [1]
        one.accept(6)
        one.repair()
        assert one.send() == [6]
        assert one.losses() == []

    def test_what_a_copy_of_the_journal_sent_is_not_told_as_lost(self, one: OneStream) -> None:
        one.accept(1)
        one.send()
        one.accept(2)
        one.accept(3)
        one.stream.append(orjson.loads(one.facts.open[1]))
        one.repair(adopt=True)
        assert one.send() == [2]
        one.accept(4)
        assert one.send() == [4]
        one.repair()
        assert one.send() == []
        assert one.losses() == []
