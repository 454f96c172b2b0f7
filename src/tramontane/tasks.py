"""Tasks that have ended before whoever began them goes on, however that is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


async def gathered(works: Iterable[Awaitable[Result]]) -> list[Result]:
    """Results of `works`, which go on beside each other, in their order. Where one fails, or the waiting task is
    cancelled, the others are cancelled; all have ended when this returns or raises what the first to fail raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancelled(*tasks)


async def cancelled(*futures: asyncio.Future[Any]) -> None:
    """Cancel those that are not over, and wait for all as `ended` does."""
    for future in futures:
        future.cancel()
    await ended(*futures)


async def ended(*futures: asyncio.Future[Any]) -> None:
    """Wait until all are over, however often the waiting task is cancelled meanwhile. What they raise is theirs."""
    cancellation: asyncio.CancelledError | None = None
    while pending := [future for future in futures if not future.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancellation = error
    for future in futures:
        if not future.cancelled():
            future.exception()  # seen: asyncio would log it
    if cancellation is not None:
        raise cancellation
