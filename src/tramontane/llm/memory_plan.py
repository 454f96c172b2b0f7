"""How much memory keys and values may take: planned by what is free before weights are read, and held to after.

On a CPU their pages are reserved at once and become resident as they are used, so that a cache which does not fit shows
hours later, as a process that the kernel kills.
"""

from __future__ import annotations

import weakref

import torch

from tramontane.config import ModelConfig
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.kv_cache import DEFAULT_CPU_BYTES, page_bytes
from tramontane.errors import CapacityError
from tramontane.loading.memory import available_bytes
from tramontane.model.transformer import Transformer

KV_SHARE = 0.5
"""Of what is left, unless it is told: the rest is for bodies, documents and the like."""
FEED_FORWARD_ROWS, HIDDEN_ROWS, LOGITS_COPIES = 3, 8, 2
"""Of a step's largest batch, in float32, that are in memory at once."""


class MemoryPlan:
    """Of one model on `device`. `kv_cache_bytes`: as asked for, or None."""

    def __init__(self, config: ModelConfig, device: torch.device, kv_cache_bytes: int | None) -> None:
        self._device = device
        self._asked_bytes = kv_cache_bytes
        self._free_bytes = _free_bytes(device)
        self._step_bytes = step_bytes(config, EngineConfig())
        self._least_bytes = sum(page_bytes(config, EngineConfig().page_size, torch.float16))

    @property
    def beside_weights_bytes(self) -> int:
        """That must be free before the weights are read: what a step takes, and what is asked for, else a page."""
        return self._step_bytes + (self._asked_bytes or self._least_bytes)

    def kv_cache_bytes(self, *models: Transformer) -> int | None:
        """With the weights in memory: what is asked for, else what there is room for; on a GPU None, since there the
        engine takes its share at once. Raises CapacityError, with both numbers."""
        if self._device.type != "cpu":
            return self._asked_bytes
        free_bytes = _free_bytes(self._device)
        if free_bytes is None or self._free_bytes is None:
            return self._asked_bytes
        # weights that are mapped from a file count as free to the system, and are needed all the same
        left_bytes = min(free_bytes, self._free_bytes - sum(model.weights_bytes for model in models)) - self._step_bytes
        if self._asked_bytes is None:
            return max(1, min(DEFAULT_CPU_BYTES, int(left_bytes * KV_SHARE)))
        if self._asked_bytes > left_bytes:
            raise CapacityError(
                f"a KV cache of {self._asked_bytes / 1e9:.1f} GB does not fit: weights and computing leave "
                f"{max(left_bytes, 0) / 1e9:.1f} GB of memory; free some, or make kv_cache_gib (--kv-cache-gib) smaller"
            )
        return self._asked_bytes


def step_bytes(config: ModelConfig, sizes: EngineConfig) -> int:
    """Of what computing one step of the largest batch holds at once."""
    widths = FEED_FORWARD_ROWS * config.hidden_dim + HIDDEN_ROWS * config.dim
    logits_bytes = min(sizes.max_logits_bytes, 4 * sizes.max_batch_tokens * config.vocab_size)
    return 4 * sizes.max_batch_tokens * widths + LOGITS_COPIES * logits_bytes


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def promise(engine: Engine) -> None:
    """Leave room for the pages that `engine` has reserved, from now on."""
    _engines.add(engine)


def _free_bytes(device: torch.device) -> int | None:
    """Without what was promised to other engines of this process."""
    free_bytes = available_bytes(device)
    if free_bytes is None or device.type != "cpu":
        return free_bytes
    return free_bytes - sum(map(_untouched_bytes, _engines))


def _untouched_bytes(engine: Engine) -> int:
    if engine.model.device.type != "cpu":
        return 0
    return sum((group.num_pages - group.num_touched) * group.page_bytes for group in engine.stats().groups)
