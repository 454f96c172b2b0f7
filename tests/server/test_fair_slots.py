"""FairSlots: nobody holds all places, everybody gets a turn, and no place is lost."""

from __future__ import annotations

import asyncio
import random

from tramontane.server.fair_slots import FairSlots


def test_one_owner_cannot_hold_all_places() -> None:
    async def scenario() -> None:
        slots = FairSlots(3, per_owner=2)
        for _ in range(2):
            await slots.acquire("alice")
        third = asyncio.create_task(slots.acquire("alice"))
        await asyncio.sleep(0)
        assert not third.done()
        await asyncio.wait_for(slots.acquire("bob"), 5)
        slots.release("alice")
        await asyncio.wait_for(third, 5)

    asyncio.run(scenario())


def test_places_are_given_out_in_turns() -> None:
    async def scenario() -> list[str]:
        slots, served = FairSlots(1), list[str]()

        async def work(owner: str) -> None:
            async with slots.slot(owner):
                served.append(owner)
                await asyncio.sleep(0)

        await asyncio.gather(*(work("alice") for _ in range(50)), work("bob"), work("carol"))
        return served

    served = asyncio.run(scenario())
    assert max(served.index("bob"), served.index("carol")) <= 3
    assert len(served) == 52


def test_who_is_cancelled_at_any_moment_loses_no_place() -> None:
    async def scenario() -> None:
        chance = random.Random(0)
        slots = FairSlots(2, per_owner=1)
        num_inside = dict.fromkeys("abc", 0)

        async def work(owner: str) -> None:
            async with slots.slot(owner):
                num_inside[owner] += 1
                assert num_inside[owner] == 1
                try:
                    for _ in range(chance.randrange(3)):
                        await asyncio.sleep(0)
                finally:
                    num_inside[owner] -= 1

        for _ in range(200):
            tasks = [asyncio.create_task(work(chance.choice("abc"))) for _ in range(6)]
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            for task in chance.sample(tasks, 3):
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError), result
        async with asyncio.timeout(5):
            await slots.acquire("a")
            await slots.acquire("b")

    asyncio.run(scenario())
