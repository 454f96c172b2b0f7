"""Held-out loss during a run: of every source in nats per token and bits per byte of text, or of pairs and labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch

from tramontane.data.loader import Batch, Loader
from tramontane.data.shards import PhaseInfo, ShardSet
from tramontane.training.sample_stream import LabelledBatch, SampleStream, Targets
from tramontane.training.tasks import Objective

Score = Callable[[Batch | LabelledBatch], Objective]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The mean loss (nats) and accuracy over `weight` learned tokens, pairs or documents of one source.
    `bits_per_byte` counts the UTF-8 bytes of the text behind the predicted tokens; None where nothing is predicted.
    """

    source: str
    loss: float
    accuracy: float
    bits_per_byte: float | None
    weight: int


class Evaluator(Protocol):
    def evaluate(self, score: Score) -> list[HeldOut]:
        """`score(batch)` computes a batch with the model as it is."""
        ...


class TextEvaluator:
    """Every source of `shards`, over all of it or the first `max_batches` microbatches."""

    def __init__(self, shards: ShardSet, *, batch_len: int, max_batches: int | None) -> None:
        self.shards = shards
        self.batch_len = batch_len
        self.max_batches = max_batches

    def evaluate(self, score: Score) -> list[HeldOut]:
        results = []
        for name, source in self.shards.sources.items():
            result = _mean(name, self._batches(name), score)
            if result is not None:
                num_bytes = result.weight * source.info.num_text_bytes / max(1, source.info.num_learned)
                bits = result.loss * result.weight / math.log(2)
                bits_per_byte = bits / num_bytes if num_bytes else None
                results.append(HeldOut(name, result.loss, result.accuracy, bits_per_byte, result.weight))
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


class SampleEvaluator:
    """Pairs or labelled documents, over all of them or the first `max_batches` microbatches."""

    def __init__(
        self, shards: ShardSet, *, batch_len: int, max_batches: int | None, targets: Targets | None = None
    ) -> None:
        self.shards = shards
        self.batch_len = batch_len
        self.max_batches = max_batches
        self.targets = targets

    def evaluate(self, score: Score) -> list[HeldOut]:
        stream = SampleStream(self.shards, batch_len=self.batch_len, epochs=1, seed=0, targets=self.targets)
        name = "pairs" if self.targets is None else "samples"
        result = _mean(name, islice(stream, self.max_batches), score)
        return [] if result is None else [result]


@torch.no_grad()
def _mean(name: str, batches: Iterable[Batch | LabelledBatch], score: Score) -> HeldOut | None:
    """None if nothing in the batches counts."""
    objectives = [score(batch) for batch in batches]
    weight = sum(float(each.weight) for each in objectives)
    if not weight:
        return None
    loss, accuracy = (sum(float(each.sums[key]) for each in objectives) / weight for key in ("loss", "accuracy"))
    return HeldOut(name, loss, accuracy, None, round(weight))
