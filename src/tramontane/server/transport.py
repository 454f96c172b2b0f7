"""Transport: a socket's, that knows how much the other end has taken and closes so that the last answer arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Transport(asyncio.Transport):
    """Around the event loop's own. A socket that is closed while bytes still come in resets the connection, and the
    other end loses the answer that it has not read: where `is_sending` says so, only our direction is closed (RFC 9112,
    9.6), and `is_lingering` from then on until the owner aborts or the other end closes."""

    def __init__(self, inner: asyncio.Transport, is_sending: Callable[[], bool]) -> None:
        super().__init__()
        self._inner = inner
        self._is_sending = is_sending
        self._num_written = 0
        self.is_lingering = False

    @property
    def num_taken(self) -> int:
        """Bytes that have left this process."""
        return self._num_written - self._inner.get_write_buffer_size()

    @property
    def num_waiting(self) -> int:
        """Bytes that the other end does not take."""
        return self._inner.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._inner.is_closing():  # uvloop's raises then; that nobody reads is told otherwise
            self._num_written += len(data)
            self._inner.write(data)

    def close(self) -> None:
        if self.is_lingering or self._inner.is_closing():
            return
        if self._is_sending() and self._inner.can_write_eof():
            self.is_lingering = True
            self._inner.resume_reading()
            self._inner.write_eof()
        else:
            self._inner.close()

    def finish(self) -> None:
        """Close once everything is written, whether the other end still sends or not."""
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()

    def is_closing(self) -> bool:
        return self.is_lingering or self._inner.is_closing()

    def pause_reading(self) -> None:
        if not self.is_lingering:
            self._inner.pause_reading()

    def resume_reading(self) -> None:
        if not self._inner.is_closing():
            self._inner.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)
