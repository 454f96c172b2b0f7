"""A parallel map that keeps order and bounds what is in flight, so that memory does not grow with the input."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_WAITING_PER_WORKER = 2


@contextmanager
def worker_pool(num_workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes for `ordered_map`; None for one worker, which is this process."""
    if num_workers <= 1:
        yield None
        return
    # spawned, not forked: the parent may hold threads of native libraries
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever: it ends as soon as the parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], pool: ProcessPoolExecutor | None, num_workers: int = 1
) -> Iterator[R]:
    """`map(function, items)` over the processes of `pool`, a few items waiting for each. `function` and items must be
    picklable; what it raises is raised here."""
    if pool is None:
        yield from map(function, items)
        return
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > _WAITING_PER_WORKER * num_workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
