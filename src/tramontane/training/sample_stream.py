"""Batches of whole samples that belong together: preference pairs, and documents with their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tramontane.data.loader import Batch
from tramontane.data.permutation import Permutation
from tramontane.data.sample_shards import LABELS, SOURCES, read_labels
from tramontane.data.shards import ShardSet
from tramontane.errors import DataError


@dataclass(frozen=True, slots=True)
class Targets:
    """What a classifier tells apart: the labels of each target, and which of them hold for each document.

    The columns of all targets lie side by side: `columns[target]` are those of one.
    """

    labels: Mapping[str, tuple[str, ...]]
    documents: tuple[Mapping[str, tuple[int, ...]], ...]

    @property
    def columns(self) -> dict[str, slice]:
        columns, start = {}, 0
        for target, labels in self.labels.items():
            columns[target] = slice(start, start + len(labels))
            start += len(labels)
        return columns

    @property
    def num_columns(self) -> int:
        return sum(map(len, self.labels.values()))

    @property
    def single(self) -> frozenset[str]:
        """Targets of which every document that has one has exactly one label: they are told apart by softmax."""
        return frozenset(t for t in self.labels if all(len(row[t]) == 1 for row in self.documents if t in row))

    def rows(self, documents: list[int]) -> Tensor:
        """(N, C) float32: 1 where a label holds, 0 where not, NaN where the document says nothing of the target."""
        columns = self.columns
        rows_NC = torch.full((len(documents), self.num_columns), float("nan"))
        for row, document in zip(rows_NC, documents, strict=True):
            for target, places in self.documents[document].items():
                row[columns[target]] = 0.0
                row[columns[target]][list(places)] = 1.0
        return rows_NC

    def matched_to(self, other: Targets, where: Path) -> Targets:
        """These documents with the columns of `other`. Raises DataError for a label that `other` does not know."""
        places = {target: dict(zip(labels, range(len(labels)), strict=True)) for target, labels in other.labels.items()}
        for target, labels in self.labels.items():
            for label in labels:
                if label not in places.get(target, {}):
                    raise DataError(f"{where}: label {label!r} of target {target!r} does not occur in the training set")
        documents = tuple(
            {
                target: tuple(places[target][self.labels[target][place]] for place in row)
                for target, row in document.items()
            }
            for document in self.documents
        )
        return Targets(other.labels, documents)


def read_targets(folder: Path) -> Targets:
    """The labels of a classifier set. Raises DataError if the folder holds none."""
    value = read_labels(folder)
    documents = tuple({target: tuple(places) for target, places in row.items()} for row in value["documents"])
    return Targets({target: tuple(labels) for target, labels in value["targets"].items()}, documents)


@dataclass(frozen=True, slots=True)
class LabelledBatch:
    """A batch and the labels (N, C) of its documents, padding left out."""

    batch: Batch
    labels: Tensor


class SampleStream:
    """Samples in a new order each epoch, packed whole into batches, until `num_token_ids` have been given.

    A sample is document n of every source of the set: (chosen, rejected) of preferences, lying side by side in the
    batch, or one labelled document. Deterministic; the state is plain JSON. Each of `world_size` processes takes
    every `world_size`-th batch.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        batch_len: int,
        num_token_ids: int | None,
        seed: int,
        targets: Targets | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`num_token_ids` None: one epoch. Raises DataError for a batch that cannot hold the longest sample."""
        names = SOURCES["preference"] if "chosen" in shards.sources else SOURCES["classifier"]
        if set(names) != set(shards.sources):
            raise DataError(f"sources {', '.join(shards.sources)} are no preference pairs and no labelled samples")
        self._sources = [shards.sources[name] for name in names]
        self._num_samples = self._sources[0].info.num_documents
        if targets is not None and len(targets.documents) != self._num_samples:
            raise DataError(f"{LABELS} describes {len(targets.documents)} documents, the set has {self._num_samples}")
        longest = max(self._len(sample) for sample in range(self._num_samples))
        if longest > batch_len:
            raise DataError(f"microbatch_len={batch_len} cannot hold the longest sample ({longest} tokens); raise it")
        self._names, self._pad_id, self._targets = names, shards.pad_id, targets
        self._batch_len, self._seed = batch_len, seed
        self._rank, self._world_size = rank, world_size
        self._num_token_ids = num_token_ids
        self._given_len = 0
        self._num_drawn = 0  # samples, since the start
        self._order: tuple[int, Permutation] | None = None

    def __iter__(self) -> Iterator[Batch | LabelledBatch]:
        while self._num_token_ids is None or self._given_len < self._num_token_ids:
            plans = [self._plan() for _ in range(self._world_size)]
            if not plans[0]:
                return
            self._given_len += self._batch_len * self._world_size
            yield self._assemble(plans[self._rank])

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as plain JSON types."""
        return {"fingerprint": self._fingerprint(), "given_len": self._given_len, "num_drawn": self._num_drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly there. Raises DataError when the state belongs to other data, seed or packing."""
        if state["fingerprint"] != self._fingerprint():
            raise DataError("the saved state belongs to other data, seed or microbatch_len; resume with those")
        self._given_len, self._num_drawn = int(state["given_len"]), int(state["num_drawn"])

    def _fingerprint(self) -> str:
        sizes = [[each.info.num_documents, each.info.num_token_ids] for each in self._sources]
        return hashlib.sha256(repr([sizes, self._batch_len, self._seed]).encode("utf-8")).hexdigest()

    def _len(self, sample: int) -> int:
        return sum(source.document_len(sample) for source in self._sources)

    def _sample(self, number: int) -> int:
        epoch, place = divmod(number, self._num_samples)
        if self._order is None or self._order[0] != epoch:
            digest = hashlib.blake2b(f"{self._seed}/{epoch}".encode(), digest_size=8).digest()
            self._order = (epoch, Permutation(self._num_samples, int.from_bytes(digest, "little")))
        return self._order[1][place]

    def _plan(self) -> list[int]:
        """The next samples that fit into a batch."""
        plan: list[int] = []
        free = self._batch_len
        while self._num_token_ids is not None or self._num_drawn < self._num_samples:
            sample = self._sample(self._num_drawn)
            if self._len(sample) > free:
                break
            plan.append(sample)
            free -= self._len(sample)
            self._num_drawn += 1
        return plan

    def _assemble(self, plan: list[int]) -> Batch | LabelledBatch:
        token_ids = np.full(self._batch_len, self._pad_id, np.int64)
        targets = token_ids.copy()
        loss_mask = np.zeros(self._batch_len, np.bool_)
        lens: list[int] = []
        place = 0
        for sample in plan:
            for source in self._sources:
                ids, mask = source.read(sample)
                end = place + len(ids)
                token_ids[place:end] = ids
                targets[place : end - 1] = ids[1:]
                loss_mask[place : end - 1] = True if mask is None else mask[1:]
                lens.append(len(ids))
                place = end
        padding_len = self._batch_len - place
        batch = Batch(
            token_ids=torch.from_numpy(token_ids),
            targets=torch.from_numpy(targets),
            loss_mask=torch.from_numpy(loss_mask),
            document_lens=(*lens, *([padding_len] if padding_len else [])),
            document_sources=self._names * len(plan),
            padding_len=padding_len,
        )
        return batch if self._targets is None else LabelledBatch(batch, self._targets.rows(plan))
