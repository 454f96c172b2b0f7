"""Work that goes on beside other work is over before whoever waits for it goes on."""

from __future__ import annotations

import asyncio

import pytest

from tramontane.tasks import ended, gathered


class Slow:
    """Work that takes its time to end when it is cancelled."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.is_over = False

    async def run(self) -> int:
        try:
            await asyncio.sleep(0.001 if self.error else 60)
            assert self.error is not None
            raise self.error
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            self.is_over = True


async def answer(number: int) -> int:
    await asyncio.sleep(0.001 * (3 - number))
    return number


def test_results_come_in_the_order_of_the_work() -> None:
    async def main() -> list[int]:
        return await gathered(answer(number) for number in range(3))

    assert asyncio.run(main()) == [0, 1, 2]


def test_the_first_failure_is_raised_once_all_have_ended() -> None:
    works = [Slow(), Slow(ValueError("first")), Slow()]

    async def main() -> None:
        with pytest.raises(ValueError, match="first"):
            await gathered(work.run() for work in works)
        assert all(work.is_over for work in works)

    asyncio.run(main())


def test_however_often_the_waiting_task_is_cancelled_all_have_ended_before_it_goes_on() -> None:
    work = Slow()

    async def main() -> None:
        running = asyncio.ensure_future(work.run())
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(ended(running))
        await asyncio.sleep(0)
        running.cancel()
        for _ in range(5):
            waiting.cancel()
            await asyncio.sleep(0)
            assert not waiting.done()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert work.is_over

    asyncio.run(main())
