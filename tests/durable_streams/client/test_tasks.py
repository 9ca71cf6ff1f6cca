"""Tasks that outlive their caller, on both event loops."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from durable_streams._tasks import spawn


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
class TestBackgroundTask:
    def test_it_goes_on_when_the_call_that_started_it_is_cancelled(self, backend: str) -> None:
        reached = []

        async def main() -> None:
            gate = anyio.Event()

            async def work() -> None:
                await gate.wait()
                reached.append("end")

            with anyio.CancelScope() as scope:
                task = spawn(work, name="work")
                scope.cancel()
                await anyio.lowlevel.checkpoint()
            assert not task.done
            gate.set()
            await task.wait()
            assert task.done

        anyio.run(main, backend=backend)
        assert reached == ["end"]

    def test_it_ends_when_it_is_cancelled(self, backend: str) -> None:
        async def main() -> None:
            task = spawn(anyio.sleep_forever, name="work")
            task.cancel()
            await task.wait()

        anyio.run(main, backend=backend)

    def test_whoever_wants_to_know_is_told_of_its_end_once(self, backend: str) -> None:
        ended = []

        async def work() -> None:
            pass

        async def main() -> None:
            task = spawn(work, name="work", on_end=lambda: ended.append(1))
            await task.wait()
            cancelled = spawn(anyio.sleep_forever, name="work", on_end=lambda: ended.append(2))
            cancelled.cancel()
            await cancelled.wait()
            assert cancelled.done

        anyio.run(main, backend=backend)
        assert ended == [1, 2]

    def test_it_needs_no_care_when_its_loop_ends(self, backend: str) -> None:
        ended = []

        async def work() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.append("end")

        async def main() -> None:
            spawn(work, name="work")
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()

        anyio.run(main, backend=backend)
        assert ended == ["end"]


def test_it_needs_a_running_loop() -> None:
    async def work() -> None:
        raise AssertionError("never started")

    with pytest.raises(RuntimeError):
        spawn(work, name="work")


def test_it_has_ended_when_its_loop_cancels_it_before_it_began() -> None:
    ended = []

    async def main() -> None:
        task = spawn(anyio.sleep_forever, name="work", on_end=lambda: ended.append(1))
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
        with anyio.fail_after(20):
            await task.wait()

    asyncio.run(main())
    assert ended == [1]
