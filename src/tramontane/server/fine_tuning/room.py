"""Room for jobs: the memory one may take by default, and the disk that is left to others."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from tramontane.loading.memory import machine_bytes, process_bytes
from tramontane.server.models import ModelRegistry
from tramontane.server.settings import ServerSettings
from tramontane.server.store.errors import DiskFullError

SHARE = 0.8
"""Of the memory that the served models leave, what jobs may take together."""
LEAST_BYTES = 2**30
KV_BYTES = 2**30
"""What an engine reserves for keys and values on a CPU unless it is told otherwise, and takes as it is used."""
RESERVE_BYTES, RESERVE_SHARE = 2**30, 0.05
"""Of a disk, whichever is less: what jobs leave free."""
SAMPLES_FACTOR = 5
"""A job takes its files once as they are, and up to 4 times their size as tokens of 4 bytes with masks."""
BESIDE_BYTES = 64 * 2**20


def memory_limit_bytes(settings: ServerSettings, registry: ModelRegistry) -> int | None:
    """That one job may take: `fine_tuning_memory_gib`, or an equal share of what the served models leave of the
    machine; None where that cannot be known."""
    if settings.fine_tuning_memory_gib is not None:
        return int(settings.fine_tuning_memory_gib * 2**30)
    machine, served = machine_bytes(), process_bytes()
    if machine is None or served is None:
        return None
    kv_bytes = KV_BYTES if settings.kv_cache_gib is None else int(settings.kv_cache_gib * 2**30)
    engines = {id(model.llm) for model in registry if model.llm.device.type == "cpu"}
    left = machine - served - kv_bytes * len(engines)
    return max(LEAST_BYTES, math.floor(SHARE * left / max(1, settings.fine_tuning_jobs)))


def is_disk_low(folder: Path) -> bool:
    """Whether less is free than jobs should leave."""
    return _spare_bytes(folder) < 0


def require_disk(folder: Path, file_bytes: Sequence[int]) -> None:
    """Raise DiskFullError, with both numbers, where a job of such files would leave others no room."""
    needed, spare = SAMPLES_FACTOR * sum(file_bytes) + BESIDE_BYTES, _spare_bytes(folder)
    if needed > spare:
        raise DiskFullError(
            f"the job may take {needed / 1e6:,.0f} MB of the server's disk, where {max(0, spare) / 1e6:,.0f} MB are "
            "left to jobs; it was not made"
        )


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _spare_bytes(folder: Path) -> int:
    usage = shutil.disk_usage(folder)
    return usage.free - min(RESERVE_BYTES, int(RESERVE_SHARE * usage.total))
