"""What the machine can do at most, measured: every speed we print stands beside one of these."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STREAM_BYTES = 512 << 20  # far beyond any cache
RUNS = 5


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second that all threads together read from memory: the ceiling of decoding one sequence."""
    import torch

    # written to, not just allocated: untouched pages all map to one page of zeros, which stays in the cache
    values = torch.ones(STREAM_BYTES // 8, dtype=torch.int64, device=device)
    return STREAM_BYTES / best_time(values.sum, device)


def cache_bytes(device: torch.device) -> int:
    """Size of the processor's last-level cache; 0 where the system does not say, and for a GPU."""
    if device.type != "cpu" or "SC_LEVEL3_CACHE_SIZE" not in os.sysconf_names:
        return 0
    return max(0, os.sysconf("SC_LEVEL3_CACHE_SIZE"))


def multiply_add_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations per second of a large square matrix product in `dtype`: the ceiling of prefill."""
    import torch

    size = 1024 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / best_time(lambda: a @ a, device)


def best_time(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of a few runs, after one to warm up."""
    timed(work, device)
    return min(timed(work, device) for _ in range(RUNS))


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until `work` is done, on the GPU too."""
    import torch

    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
