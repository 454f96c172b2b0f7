"""Held-out loss during a run: nats per token and bits per byte of text, per source."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from tramontane.data.loader import Batch, Loader
from tramontane.data.shards import PhaseInfo, ShardSet


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Of one source. `bits_per_byte` counts the UTF-8 bytes of the text behind the tokens that were predicted."""

    source: str
    loss: float  # nats per learned token
    bits_per_byte: float
    num_token_ids: int


class Evaluator:
    """The loss of each source of `shards`, over all of it or the first `max_batches` microbatches."""

    def __init__(self, shards: ShardSet, *, batch_len: int, max_batches: int | None) -> None:
        self.shards = shards
        self.batch_len = batch_len
        self.max_batches = max_batches

    @torch.no_grad()
    def evaluate(self, sums: Callable[[Batch], tuple[Tensor, Tensor]]) -> list[HeldOutLoss]:
        """`sums(batch)` gives the summed negative log-likelihood of a batch and the number of its learned tokens."""
        results = []
        for name, source in self.shards.sources.items():
            totals = [sums(batch) for batch in self._batches(name)]
            nll = sum(float(nll) for nll, _ in totals)
            num_learned = round(sum(float(weight) for _, weight in totals))
            if not num_learned:
                continue
            bytes_per_token = source.info.num_text_bytes / max(1, source.info.num_learned)
            loss = nll / num_learned
            bits_per_byte = loss / math.log(2) / bytes_per_token if bytes_per_token else math.nan
            results.append(HeldOutLoss(name, loss, bits_per_byte, num_learned))
        return results

    def _batches(self, source: str) -> Iterator[Batch]:
        fits = self.batch_len >= self.shards.max_document_len
        loader = Loader(
            self.shards,
            batch_len=self.batch_len,
            policy="whole" if fits else "cut",
            phases=[PhaseInfo(name="held-out", epochs={source: 1.0})],
        )
        return islice(loader, self.max_batches)
