"""One simulation of one seed, and what is said of it if it fails."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping

from tests.simulations import batches, downloads, scheduler

SIMULATIONS: Mapping[str, Callable[[int], None]] = {
    "scheduler": scheduler.run,
    "batches": batches.run,
    "downloads": downloads.run,
}
"""By name; each takes a seed and raises what is wrong."""

NUM_SEEDS = {"scheduler": 10_000, "batches": 10_000, "downloads": 1_000}
"""Of a full run."""


def failure(name: str, seed: int) -> str | None:
    try:
        SIMULATIONS[name](seed)
    except Exception:
        return f"{traceback.format_exc()}again: python -m tests.simulations {name} --first {seed} --seeds 1"
    return None
