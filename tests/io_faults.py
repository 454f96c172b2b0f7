"""One call among those that a piece of work makes to the disk fails, as if the disk were full, or the memory."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tramontane import durable

FAULTS: dict[str, Callable[[], BaseException]] = {
    "a full disk": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "no memory": MemoryError,
}
BY_PATH = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "open", "scandir", "chmod", "truncate")
"""Functions of `os` whose first argument is a path."""


class Faulty:
    """Counts the calls that touch what lies below `root`; the one of number `fails_at`, from 0, raises `fault` instead.
    `num_calls` after a run without a fault is how many there are."""

    def __init__(self, root: Path, fault: Callable[[], BaseException], fails_at: int | None = None) -> None:
        self.root, self.fault, self.fails_at = str(root), fault, fails_at
        self.num_calls = 0

    @contextmanager
    def disk(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in BY_PATH:
                patch.setattr(os, name, self._counted(getattr(os, name)))
            patch.setattr(os, "fsync", self._counted(os.fsync))
            patch.setattr(durable, "_exchange", self._counted(durable._exchange))
            opened = self._opened(io.open)
            patch.setattr(io, "open", opened)
            patch.setattr(builtins, "open", opened)
            yield

    def _touch(self, what: Any) -> None:
        if isinstance(what, int):
            what = os.readlink(f"/proc/self/fd/{what}")
        if not os.path.abspath(os.fsdecode(what)).startswith(self.root):
            return
        self.num_calls += 1
        if self.num_calls - 1 == self.fails_at:
            raise self.fault()

    def _counted(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self._touch(arguments[0] if arguments else ".")
            return act(*arguments, **named)

        return counted

    def _opened(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            self._touch(file)
            handle = act(file, mode, *arguments, **named)
            return _Told(handle, self, file) if set(mode) & set("wax+") else handle

        return opened


class _Told:
    """A file whose writes are counted."""

    def __init__(self, file: Any, faulty: Faulty, path: Any) -> None:
        self._file, self._faulty, self._path = file, faulty, path

    def write(self, data: Any) -> Any:
        self._faulty._touch(self._path)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def __enter__(self) -> _Told:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)
