"""When to end a run early: a signal, or the time that was given."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """While active, Ctrl-C and SIGTERM ask for a stop after the current update; a second Ctrl-C interrupts at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.reason: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


class Deadline:
    """`max_seconds` from now, with room kept for one more of everything that was seen, as slow as it last was.

    The last and not the slowest: the first update may include minutes of compilation. Before any save was seen, 2 %
    of the time or 10 seconds are kept for it, whichever is less.
    """

    def __init__(self, max_seconds: float | None) -> None:
        self._end = None if max_seconds is None else time.monotonic() + max_seconds
        self._seconds: dict[str, float] = {} if max_seconds is None else {"save": min(10.0, 0.02 * max_seconds)}

    def saw(self, what: str, seconds: float) -> None:
        self._seconds[what] = seconds

    @property
    def is_near(self) -> bool:
        return self._end is not None and time.monotonic() + 1.1 * sum(self._seconds.values()) >= self._end
