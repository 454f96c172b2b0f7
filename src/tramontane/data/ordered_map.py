"""A parallel map that keeps order and bounds what is in flight, so that memory does not grow with the input."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(function: Callable[[T], R], items: Iterable[T], num_workers: int) -> Iterator[R]:
    """`map(function, items)` over `num_workers` processes, at most two items per process waiting. One worker runs in
    this process. `function` and items must be picklable; what it raises is raised here."""
    if num_workers <= 1:
        yield from map(function, items)
        return
    # spawned, not forked: the parent may hold threads of native libraries
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
