"""Room for weights: how much memory is free, and a refusal with numbers before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tramontane.errors import CapacityError

RESERVE_BYTES = 256 * 2**20  # for everything that is not weights while they load


def available_bytes(device: torch.device, mapped_bytes: int = 0) -> int | None:
    """Memory that can be taken on `device` without swapping or being killed; None where it cannot be known.

    On a CPU: what the system has free, limited by the cgroups of this process, and by its address space, of which
    the mapping of a file takes `mapped_bytes`.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    address_space = _address_space_bytes()
    limits = (_meminfo_bytes(), _cgroup_bytes(), None if address_space is None else address_space - mapped_bytes)
    return min((limit for limit in limits if limit is not None), default=None)


def machine_bytes() -> int | None:
    """Memory of this machine, or what the tightest cgroup of this process may hold of it."""
    limits = (_meminfo_bytes(field="MemTotal:"), _cgroup_bytes(is_whole=True))
    return min((limit for limit in limits if limit is not None), default=None)


def process_bytes() -> int | None:
    """Memory that this process holds now."""
    return next((int(line.split()[1]) * 1024 for line in _lines(Path("/proc/self/status")) if "VmRSS:" in line), None)


def require_memory(
    needed_bytes: int, device: torch.device, what: str, remedy: str, *, beside_bytes: int = 0, mapped_bytes: int = 0
) -> None:
    """Raise CapacityError, with both numbers, if `needed_bytes`, a reserve and what is wanted beside them are not free
    on `device`."""
    free_bytes = available_bytes(device, mapped_bytes)
    all_bytes = needed_bytes + RESERVE_BYTES + beside_bytes
    if free_bytes is not None and all_bytes > free_bytes:
        beside = (
            f", {beside_bytes / 1e9:.1f} GB of it beside the weights (--kv-cache-gib)" if beside_bytes >= 10**8 else ""
        )
        raise CapacityError(
            f"{what} needs {all_bytes / 1e9:.1f} GB of memory on {device}{beside}, "
            f"but {max(free_bytes, 0) / 1e9:.1f} GB are free; {remedy}"
        )


@contextmanager
def memory_reported(what: str, device: torch.device, remedy: str) -> Iterator[None]:
    """Turn the allocators' own errors inside the block into CapacityError."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate" not in str(error):
            raise
        raise CapacityError(f"{what} did not fit into the memory of {device}; {remedy}") from None


def _meminfo_bytes(path: Path = Path("/proc/meminfo"), *, field: str = "MemAvailable:") -> int | None:
    for line in _lines(path):
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_bytes(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup"), *, is_whole: bool = False
) -> int | None:
    """What the tightest cgroup (version 2, else 1) of this process leaves, or with `is_whole` allows; file pages count
    as free."""
    limits = []
    for line in _lines(membership):
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        is_v2 = controllers == ""
        base = root if is_v2 else root / "memory"
        folder = base / place.lstrip("/")
        # in a container the files of its own group lie at the root
        for group in (folder, *folder.parents):
            limit = _number(group / ("memory.max" if is_v2 else "memory.limit_in_bytes"))
            used = _number(group / ("memory.current" if is_v2 else "memory.usage_in_bytes"))
            if limit is not None and is_whole:
                limits.append(limit)
            elif limit is not None and used is not None:
                limits.append(limit - used + _file_pages_bytes(group / "memory.stat"))
            if group == base:
                break
    return min(limits, default=None)


def _file_pages_bytes(path: Path) -> int:
    """Pages of files that the system can drop."""
    fields = dict(line.split(" ", 1) for line in _lines(path) if " " in line)
    return sum(int(fields.get(key, 0)) for key in ("active_file", "inactive_file"))


def _address_space_bytes() -> int | None:
    """What RLIMIT_AS leaves."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = _lines(Path("/proc/self/statm"))
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return limit - int(pages[0].split()[0]) * resource.getpagesize()


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except OSError:
        return []
