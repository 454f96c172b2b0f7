"""Watchdog: says where every thread stands when the event loop or an engine has not moved for long.

`/health` is red then, but a blocked loop cannot answer even that: what blocks it is in the log.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

log = logging.getLogger(__name__)
LOOP_STALL_S = 10.0


class Watchdog:
    """A thread that asks `loop` to answer once every `LOOP_STALL_S / 10`, and `stuck` for names of engines that do not
    move. All stacks are written once for each standstill."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stuck: Callable[[], Iterator[str]],
        *,
        stall_s: float = LOOP_STALL_S,
        file: TextIO | None = None,
    ) -> None:
        self._loop = loop
        self._stuck = stuck
        self._stall_s = stall_s
        self._file = file
        self._answered = time.monotonic()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        told: set[str] = set()
        while not self._is_over.wait(self._stall_s / 10):
            found = {f"the engine of {name}" for name in self._stuck()}
            if time.monotonic() - self._answered > self._stall_s:
                found.add("the event loop")
            if found - told:
                log.critical("no progress for long: %s; every thread's stack follows", ", ".join(sorted(found)))
                faulthandler.dump_traceback(self._file or sys.stderr, all_threads=True)
            told = found
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # it is closed
                return

    def _answer(self) -> None:
        self._answered = time.monotonic()
