"""MaskThreads: where grammars work out which tokens may come next, beside the engine's thread and in turns of requests.

llguidance lets other threads run while it computes a mask. A mask is usually a matter of microseconds, and then made
where it is needed; but some grammars take a tenth of a second for each, and here hold up their own answers alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future

from tramontane.errors import RequestError
from tramontane.fair_queue import FairQueue

MAX_MASK_S = 0.1
"""Processor time of one mask. To follow a token takes no longer than the mask before it, in which that token was
tried, and other threads stand still meanwhile."""

BURST_S, SHARE_S = 2.0, 2e-3
"""Processor time of all masks of a request: so much, and so much more for each."""

SWIFT_S = 3e-4
NUM_PROBED = 16
NUM_PROBED_PER_S = 10_000
"""A mask that takes no longer than `SWIFT_S` costs less than handing it to another thread. The engine's own makes it
once so many of a request have been that swift: after one that was not, the more the longer that took, so that on
average it waits 0.1 ms for each at most."""

QUICK_S = 1e-3  # mean processor time of a mask up to which the engine's thread may follow tokens itself


class GrammarUse:
    """What one request's grammar has cost, all its answers together."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self.num_masks = 0
        self.mean_s = 0.0  # of a mask, as of late
        self.num_to_probe = NUM_PROBED
        self.fault: RequestError | None = None

    @property
    def is_swift(self) -> bool:
        """Whether the engine's thread may make the next mask itself."""
        return self.num_to_probe == 0

    @property
    def is_quick(self) -> bool:
        return self.mean_s <= QUICK_S

    def charge(self, seconds: float) -> None:
        """Raises RequestError where that was too much; the request's other answers then end with it."""
        self.spent_s += seconds
        self.num_masks += 1
        self.mean_s += (seconds - self.mean_s) / min(self.num_masks, 8)
        self.num_to_probe = max(0, self.num_to_probe - 1, int((seconds - SWIFT_S) * NUM_PROBED_PER_S))
        if seconds > MAX_MASK_S or self.spent_s > BURST_S + SHARE_S * self.num_masks:
            raise self.fail(
                f"the format asked for is too complex: {self.spent_s:.1f} s of processor time went into what may come "
                f"next at {self.num_masks} places of the answer; use fewer parts that may be empty, repeat or overlap"
            )

    def fail(self, message: str) -> RequestError:
        self.fault = RequestError(message)
        return self.fault


class MaskThreads:
    """Each request has one mask in the making at a time, and slow requests never hold all threads."""

    def __init__(self, num_threads: int | None = None) -> None:
        self.num_threads = max(2, (os.cpu_count() or 1) // 2) if num_threads is None else num_threads
        self._wake = threading.Condition()  # guards all below
        self._waiting: FairQueue[tuple[GrammarUse, Callable[[], None], Future[None]]] = FairQueue()
        self._running: dict[str, GrammarUse] = {}
        self._of_key: dict[str, GrammarUse] = {}  # with something waiting
        self._threads: list[threading.Thread] = []

    def submit(self, use: GrammarUse, work: Callable[[], None]) -> Future[None]:
        """`work` is called on one of the threads, soon."""
        future: Future[None] = Future()
        key = str(id(use))
        with self._wake:
            if len(self._threads) < self.num_threads:
                self._threads.append(threading.Thread(target=self._run, name="tramontane-masks", daemon=True))
                self._threads[-1].start()
            self._of_key[key] = use
            self._waiting.push(key, (use, work, future), max(1e-5, use.mean_s) / QUICK_S)
            self._wake.notify()
        return future

    def _run(self) -> None:
        while True:
            with self._wake:
                while (entry := self._waiting.pop(self._may_run)) is None:
                    self._wake.wait()
                use, work, future = entry
                key = str(id(use))
                self._running[key] = use
            try:
                if future.set_running_or_notify_cancel():
                    _call(work, future)
            finally:
                with self._wake:
                    del self._running[key]
                    if not self._waiting.num_waiting(key):
                        self._of_key.pop(key, None)
                    self._wake.notify_all()
            del use, work, future, entry  # not kept while nothing is to be done

    def _may_run(self, key: str) -> bool:
        if key in self._running:
            return False
        num_slow = sum(not use.is_quick for use in self._running.values())
        return self._of_key[key].is_quick or num_slow < self.num_threads - 1


def _call(work: Callable[[], None], future: Future[None]) -> None:
    try:
        work()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(None)


THREADS = MaskThreads()
