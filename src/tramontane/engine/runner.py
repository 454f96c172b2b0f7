"""Runner: computes a StepPlan with the model."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from tramontane.engine.batch import build_batch
from tramontane.engine.kv_cache import KvCache
from tramontane.engine.step_plan import StepPlan
from tramontane.model.transformer import Transformer


class Runner:
    def __init__(self, model: Transformer, cache: KvCache) -> None:
        self.model = model
        self.cache = cache

    def run(self, plan: StepPlan) -> Tensor:
        """Compute the plan's tokens and store their keys and values.

        Returns (N, D): for each chunk that has samples, in plan order, the final hidden state of its last token, or,
        where it ends with a draft, of the token before it and of every guess.
        Collectors are handed the states they want.
        """
        self.cache.copy_pages(plan.copies)
        hidden_TD: Tensor = self.model(build_batch(plan, self.model, self.cache))
        if plan.is_decoding:
            return hidden_TD
        starts = list(accumulate((chunk.end - chunk.start for chunk in plan.chunks), initial=0))
        for chunk, row in zip(plan.chunks, starts, strict=False):
            collector = chunk.sequence.request.collector
            if collector is not None:
                first = max(chunk.start, collector.num_collected)
                last = min(chunk.end, chunk.sequence.num_prompt_tokens)
                if first < last:
                    collector.collect(hidden_TD[row + first - chunk.start : row + last - chunk.start])
        rows: list[int] = []
        for chunk, end in zip(plan.chunks, starts[1:], strict=True):
            if chunk.samples:
                rows += range(end - 1 - len(chunk.draft), end)
        return hidden_TD[torch.tensor(rows, dtype=torch.int64, device=hidden_TD.device)]
