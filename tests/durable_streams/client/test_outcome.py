"""What a thread will say, and calls that an interrupt does not reach."""

from __future__ import annotations

import _thread
import threading
from concurrent.futures import CancelledError

import pytest

from durable_streams._outcome import Outcome, undisturbed


class TestAnOutcome:
    def test_is_what_was_said_first(self) -> None:
        outcome: Outcome[int] = Outcome()
        outcome.set_result(1)
        outcome.set_result(2)
        outcome.cancel()
        assert outcome.result() == 1
        assert not outcome.cancelled()
        assert outcome.exception() is None

    def test_is_cancelled_for_all_who_wait(self) -> None:
        outcome: Outcome[int] = Outcome()
        outcome.cancel()
        assert outcome.cancelled()
        with pytest.raises(CancelledError):
            outcome.result()

    def test_wakes_all_who_wait(self) -> None:
        outcome: Outcome[int] = Outcome()
        heard: list[int] = []
        threads = [threading.Thread(target=lambda: heard.append(outcome.result(20))) for _ in range(5)]
        for thread in threads:
            thread.start()
        outcome.set_result(1)
        for thread in threads:
            thread.join()
        assert heard == [1] * 5

    def test_is_not_waited_for_longer_than_asked(self) -> None:
        outcome: Outcome[int] = Outcome()
        assert not outcome.wait(0)
        with pytest.raises(TimeoutError):
            outcome.result(-1)
        outcome.set_result(1)  # whoever gave up is not called
        assert outcome.wait(0)


class TestAnUndisturbedCall:
    def test_is_made_in_another_thread(self) -> None:
        assert undisturbed(threading.get_ident, name="other") != threading.get_ident()

    def test_raises_what_it_raises(self) -> None:
        with pytest.raises(ZeroDivisionError):
            undisturbed(lambda: 1 / 0, name="failing")

    def test_is_made_here_when_there_can_be_no_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            assert undisturbed(lambda: 1, name="none") == 1
            patched.setattr(_thread, "start_new_thread", refuse)
            assert undisturbed(threading.get_ident, name="none") == threading.get_ident()
