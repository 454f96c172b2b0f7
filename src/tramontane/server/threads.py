"""Which threads work of the event loop is handed to: kinds that last have pools of their own, so that short work never
waits for long.

`keys` looks up who is calling, before anything else of a request; `files` reads and writes whole files. Text is encoded
in threads of `llm`; formats, documents and bodies have threads or processes of their own beside what they do. What is
left to `asyncio.to_thread` is short: single transactions of the database.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, ParamSpec, TypeVar

Pool = Literal["keys", "files"]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

NUM_THREADS: dict[Pool, int] = {"keys": 2, "files": 4}
_POOLS = {pool: ThreadPoolExecutor(count, f"tramontane-{pool}") for pool, count in NUM_THREADS.items()}


async def in_pool(
    pool: Pool, work: Callable[Parameters, Result], *arguments: Parameters.args, **options: Parameters.kwargs
) -> Result:
    """The result of `work`, as asyncio.to_thread gives it, computed in a thread of that pool."""
    context = contextvars.copy_context()
    call = functools.partial(context.run, work, *arguments, **options)
    return await asyncio.get_running_loop().run_in_executor(_POOLS[pool], call)
