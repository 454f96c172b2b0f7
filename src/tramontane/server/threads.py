"""Which threads work of the event loop is handed to: kinds that last have threads of their own, so that short work
never waits for long, and are given out in turns of owners, so that nobody's work waits for all of another's.

`keys` looks up who is calling, before anything else of a request; `models` reads adapters. A tenant's files are read,
written and checked in FairThreads of the services. Text is encoded in threads of `llm`; formats, documents and bodies
have threads or processes of their own beside what they do. What is left to `asyncio.to_thread` is short: single
transactions of the database.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, ParamSpec, TypeVar

from tramontane.server.fair_slots import FairSlots

Pool = Literal["keys", "models"]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

NUM_THREADS: dict[Pool, int] = {"keys": 2, "models": 1}
_POOLS = {pool: ThreadPoolExecutor(count, f"tramontane-{pool}") for pool, count in NUM_THREADS.items()}


async def in_pool(
    pool: Pool, work: Callable[Parameters, Result], *arguments: Parameters.args, **options: Parameters.kwargs
) -> Result:
    """The result of `work`, as asyncio.to_thread gives it, computed in a thread of that pool."""
    return await _in(_POOLS[pool], functools.partial(work, *arguments, **options))


class FairThreads(FairSlots):
    """Threads of which an owner has at most `per_owner` at a time. Used from one event loop."""

    def __init__(self, num_threads: int, name: str, *, per_owner: int) -> None:
        super().__init__(num_threads, per_owner=per_owner)
        self._executor = ThreadPoolExecutor(num_threads, f"tramontane-{name}")

    async def run(
        self,
        owner: str,
        work: Callable[Parameters, Result],
        *arguments: Parameters.args,
        **options: Parameters.kwargs,
    ) -> Result:
        """As `in_pool`, once it is the owner's turn. Work that is cancelled goes on, and holds its place until then."""
        async with self.slot(owner):
            future = _in(self._executor, functools.partial(work, *arguments, **options))
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                await asyncio.wait([future])
                raise


def _in(executor: ThreadPoolExecutor, work: Callable[[], Result]) -> asyncio.Future[Result]:
    call = functools.partial(contextvars.copy_context().run, work)
    return asyncio.get_running_loop().run_in_executor(executor, call)
