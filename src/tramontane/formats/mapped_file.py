"""A file mapped into memory, read only through ranges that were proved to lie inside it."""

from __future__ import annotations

import mmap
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tramontane.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

# The mapping is private and writable, so that tensors can be changed in memory but never the file. Without
# MAP_NORESERVE (absent from Python's mmap) Linux would want free memory for the whole file in advance.
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0


class MappedFile:
    """`tensor` gives views of the file's bytes: no copy, pages are read when touched.

    Views stay valid after `close`; the mapping goes with the last of them.
    """

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError if `path` is not a readable, non-empty regular file."""
        self.path = path
        try:
            # O_NONBLOCK: a named pipe in place of a checkpoint must not hang
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path} is not a regular file")
            if status.st_size == 0:
                raise CheckpointError(f"{path} is empty; download it again")
            self.size_bytes = status.st_size
            self._map: mmap.mmap | None = _map_private(descriptor)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be mapped: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def view(self) -> memoryview:
        """All bytes of the file."""
        return memoryview(self._open_map())

    def tensor(self, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """A view of the bytes from `offset` on. The caller has proved the range; a wrong one raises CheckpointError."""
        count = 1
        for length in shape:
            count *= length
        size_bytes = count * dtype.itemsize
        if not 0 <= offset <= self.size_bytes - size_bytes:
            raise CheckpointError(f"{self.path}: {size_bytes} bytes at {offset} lie outside the file")
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        if offset % dtype.itemsize:  # safetensors allows odd offsets, torch's kernels do not
            raw = torch.frombuffer(self._open_map(), dtype=torch.uint8, count=size_bytes, offset=offset)
            return raw.clone().view(dtype).reshape(shape)
        return torch.frombuffer(self._open_map(), dtype=dtype, count=count, offset=offset).reshape(shape)

    def release(self, offset: int, size_bytes: int) -> None:
        """Let the system take back the memory behind these bytes; views of them stay valid and re-read the file.

        Only whole pages inside the range go. Changes made through a view are lost: for tensors that were copied.
        """
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = (offset + size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if stop > start:
            self._open_map().madvise(mmap.MADV_DONTNEED, start, stop - start)

    def close(self) -> None:
        self._map = None

    def _open_map(self) -> mmap.mmap:
        if self._map is None:
            raise ValueError(f"{self.path} was closed")
        return self._map


def _map_private(descriptor: int) -> mmap.mmap:
    if hasattr(mmap, "MAP_PRIVATE"):
        flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
        return mmap.mmap(descriptor, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
