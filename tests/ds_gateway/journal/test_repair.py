"""What a repair makes of a stream whose server lost something in its middle: the explorer's servers never do."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from ds_gateway.journal.evidence import Evidence
from ds_gateway.journal.stream_store import StreamStore
from ds_gateway.records import Record
from durable_streams import Presence
from harness.row_journal import Facts, RowsSettings, TurnWriter, Waiter, call, new_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ds_gateway.journal.survey import JournalSurvey
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

    def send_part(self, count: int) -> None:
        """The server refuses a batch of all that is open, and takes its first records."""
        call(self._waiter, self.writer, lambda store: store.next_batch(1 << 14))
        batch = call(self._waiter, self.writer, lambda store: store.reseal(count))
        self.stream += orjson.loads(batch.body)
        offset = f"{len(self.stream):04d}"
        call(self._waiter, self.writer, partial(StreamStore.resolve, batch=batch, offset=offset))
        self.writer.turn()

    def survey(self, *, expired: bool = False) -> JournalSurvey:
        """Begin a repair, and read all back. ``expired``: the server does not keep the beginning any more."""
        self._epoch += 1
        call(self._waiter, self.writer, lambda store: store.begin_repair(self._epoch))
        survey = call(self._waiter, self.writer, lambda store: store.begin_survey())
        survey.start = "-1" if survey.anchor is None or expired else survey.anchor
        survey.expired = expired
        survey.feed(orjson.dumps(self.stream))
        return survey

    def repair(self, *, adopt: bool = False, expired: bool = False) -> None:
        """Read all back, and take it as it is."""
        survey = self.survey(expired=expired)
        end = f"{len(self.stream):04d}"
        call(self._waiter, self.writer, lambda store: store.save_repair(survey, end, adopt=adopt))
        assert self.facts.check()

    def evidence(self) -> Evidence:
        """What a salvage would make of the rows."""
        evidence = Evidence("g")
        for key, row in self.writer.disk.rows.items():
            evidence.take(key, row)
        return evidence

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


class TestAServerThatExpiresTheOldest:
    def test_what_is_missing_behind_what_it_keeps_was_lost_and_is_sent_again(self, one: OneStream) -> None:
        one.accept(1)
        one.accept(2, 3)
        one.accept(4, 5)
        one.send()
        one.lose(1, 2, 4, 5)
        one.repair(expired=True)
        assert one.send() == [4, 5]
        assert one.losses() == []

    def test_where_it_keeps_nothing_everything_counts_as_expired(self, one: OneStream) -> None:
        one.accept(1)
        one.accept(2, 3)
        one.send()
        one.lose(1, 2, 3)
        one.repair(expired=True)
        assert one.send() == []

    def test_what_is_missing_behind_it_and_is_not_kept_here_is_told(self, one: OneStream) -> None:
        one.accept(1)
        one.accept(2)
        one.accept(3)
        one.send()
        one.writer.turn(full=True)
        one.accept(4)
        one.send()
        one.lose(1, 3)
        one.repair(expired=True)
        one.send()
        assert one.losses() == [("server_lost", 3, 3)]

    @pytest.mark.parametrize(("found", "undecided"), [(1, False), (None, True)])
    def test_an_unanswered_batch_is_in_doubt_only_if_nothing_before_it_is_kept(
        self, one: OneStream, *, found: int | None, undecided: bool
    ) -> None:
        one.accept(1)
        one.send()
        one.accept(2)
        call(one._waiter, one.writer, lambda store: store.next_batch(1 << 14))
        if found is None:
            one.lose(1)
        assert one.survey(expired=True).undecided == undecided


class TestABatchThatEndedWithinASegment:
    def test_proves_nothing_any_more_when_the_server_lost_it(self, one: OneStream) -> None:
        one.accept(1, 2, 3, 4)
        one.send_part(2)
        one.lose(1, 2)
        one.repair()
        (span,) = one.evidence().spans()
        assert (span.first_segment, span.skip, span.is_known) == (1, 0, True)

    def test_stays_kept_where_it_is_there(self, one: OneStream) -> None:
        one.accept(1, 2, 3, 4)
        one.send_part(2)
        one.repair()
        (span,) = one.evidence().spans()
        assert (span.first_segment, span.skip, span.is_known) == (1, 2, True)


class TestAReadBackUnderALaterIncarnation:
    def test_knows_what_a_copy_wrote_under_it(self, one: OneStream) -> None:
        one.accept(1)
        one.send()
        one.accept(2)
        one.stream.append(orjson.loads(one.facts.open[0]) | {"v": 9})
        one.repair(adopt=True)
        one.accept(3)
        batch: SealedBatch = call(one._waiter, one.writer, lambda store: store.next_batch(1 << 14))
        finder = one.writer.store().finder(batch)
        last = orjson.loads(batch.body)[-1]
        prefix, _, position = last["id"].rpartition(".")
        finder.feed(orjson.dumps([last | {"id": f"{prefix}.{int(position) + 1}"}]))
        assert finder.verdict() is Presence.FOREIGN
