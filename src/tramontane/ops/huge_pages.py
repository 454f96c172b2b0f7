"""Memory in pages of 2 MiB where Linux can: what a step reads from end to end would else cost the look-up of an address
every 4 KiB."""

from __future__ import annotations

import math
import mmap
import threading
from contextlib import suppress

import torch
from torch import Tensor

ARENA_BYTES = 2**25
ALIGNMENT = 64  # of the kernels' loads


def reserve(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory of its own that is not written yet; it becomes resident page by page."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # of a kernel built without
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class Arena:
    """Hands out memory for many weights: small ones side by side, so that they share pages, large ones each by itself.
    Memory goes back once nothing that shares it is in use; the stretch that small ones are being taken from stays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stretch = torch.empty(0, dtype=torch.uint8)
        self._num_used = 0

    def take(self, num_bytes: int) -> Tensor:
        """uint8 (num_bytes,), not written yet."""
        if num_bytes > ARENA_BYTES // 2:
            return reserve((num_bytes,), torch.uint8)
        with self._lock:
            start = -(-self._num_used // ALIGNMENT) * ALIGNMENT
            if start + num_bytes > len(self._stretch):
                self._stretch = reserve((ARENA_BYTES,), torch.uint8)
                start = 0
            self._num_used = start + num_bytes
            return self._stretch[start : start + num_bytes]
