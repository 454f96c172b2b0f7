"""Batches of whole samples, each as often as was asked for: conversations, preference pairs, documents with labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from tramontane.data.loader import Batch, Segment, assemble
from tramontane.data.packing import pack
from tramontane.data.permutation import Permutation
from tramontane.data.sample_shards import LABELS, SOURCES, read_labels
from tramontane.data.shards import ShardSet
from tramontane.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


@dataclass(frozen=True, slots=True)
class SampleCount:
    """What a stretch of a stream holds, of all processes together; padding is not counted."""

    num_batches: int
    num_samples: int
    num_token_ids: int


class Repeated(Sequence[int]):
    """`values` in stretches, each seen whole as often as it says before the next, without a copy of any.

    `repeats` (R, 2): number of values, the next in order, and times.
    """

    def __init__(self, values: Sequence[int], repeats: NDArray[np.int64]) -> None:
        self.values = values
        self._num_values, times = repeats[:, 0], repeats[:, 1]
        self._first_value = np.cumsum(self._num_values) - self._num_values
        self._ends = np.cumsum(self._num_values * times)
        self._starts = self._ends - self._num_values * times

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> list[int]: ...
    def __getitem__(self, place: int | slice) -> int | list[int]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        return self.values[self.original(place)]

    def original(self, place: int) -> int:
        """Which of the values stands at `place`, 0..len-1."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        stretch = int(np.searchsorted(self._ends, place, side="right"))
        return int(self._first_value[stretch] + (place - self._starts[stretch]) % self._num_values[stretch])


class Samples:
    """The samples of a set, by number: of preferences document n of `chosen` and of `rejected` together, else each
    document of every source; where the set says so a document stands for several samples."""

    def __init__(self, shards: ShardSet) -> None:
        """Raises DataError for a set that holds no documents."""
        self.shards = shards
        pairs = SOURCES["preference"]
        self.is_paired = set(pairs) == set(shards.sources)
        self._names = pairs if self.is_paired else tuple(shards.sources)
        lens = [shards.sources[name].document_lens() for name in self._names]
        if self.is_paired and len(lens[0]) != len(lens[1]):
            raise DataError(f"{len(lens[0])} chosen and {len(lens[1])} rejected answers are no pairs; build them again")
        self.document_lens: list[int] = (lens[0] + lens[1] if self.is_paired else np.concatenate(lens)).tolist()
        """Tokens of each, a pair's taken together."""
        self._first = np.cumsum([0, *map(len, lens)]).tolist()
        if not self.document_lens:
            raise DataError("the set holds no samples; build it again")
        repeats = [shards.sources[name].repeats for name in self._names if len(shards.sources[name].document_lens())]
        self.repeats: NDArray[np.int64] = repeats[0] if self.is_paired else np.concatenate(repeats)
        self._repeated = None if np.all(self.repeats[:, 1] == 1) else Repeated(self.document_lens, self.repeats)
        self.lens: Sequence[int] = self._repeated or self.document_lens
        """Tokens of each sample."""

    @property
    def is_repeated(self) -> bool:
        return self._repeated is not None

    @property
    def longest(self) -> int:
        return max(self.document_lens)

    @property
    def num_token_ids(self) -> int:
        """Of all samples, those that are one document counted each."""
        return sum(self.shards.sources[name].epoch_len for name in self._names)

    def document(self, sample: int) -> int:
        """The document, or pair, that a sample is."""
        return sample if self._repeated is None else self._repeated.original(sample)

    def __len__(self) -> int:
        return len(self.lens)

    def documents(self, sample: int) -> Iterator[Segment]:
        """What lies side by side in a batch."""
        sample = self.document(sample)
        if self.is_paired:
            for name in self._names:
                yield Segment(name, sample, 0, self.shards.sources[name].document_len(sample))
            return
        place = next(n for n, first in enumerate(self._first[1:]) if sample < first)
        yield Segment(self._names[place], sample - self._first[place], 0, self.document_lens[sample])

    def batches(self, batch_len: int, epochs: float | None, seed: int) -> Iterator[list[int]]:
        """The samples of each batch in turn. A new order each epoch; a part of an epoch is rounded to samples.
        `epochs` None: without end. Raises DataError for a batch that cannot hold the longest sample."""
        if self.longest > batch_len:
            raise DataError(
                f"microbatch_len={batch_len} cannot hold the longest sample ({self.longest} tokens); raise it"
            )
        return pack(self._orders(epochs, seed), self.lens, batch_len)

    def _orders(self, epochs: float | None, seed: int) -> Iterator[Iterator[int]]:
        left = None if epochs is None else max(1, round(epochs * len(self)))
        for epoch in count():
            if left is not None and left <= 0:
                return
            digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8).digest()
            order = Permutation(len(self), int.from_bytes(digest, "little"))
            drawn = len(self) if left is None else min(left, len(self))
            yield map(order.__getitem__, range(drawn))
            left = None if left is None else left - drawn

    def count(self, batch_len: int, epochs: float | None, seed: int, num_batches: int | None = None) -> SampleCount:
        """What `batches` hold, all of them or the first `num_batches`."""
        found = SampleCount(0, 0, 0)
        for batch in islice(self.batches(batch_len, epochs, seed), num_batches):
            num_token_ids = found.num_token_ids + sum(self.lens[sample] for sample in batch)
            found = SampleCount(found.num_batches + 1, found.num_samples + len(batch), num_token_ids)
        return found


class SampleStream:
    """Every sample `epochs` times (None: without end), each epoch in a new order, packed whole into batches.

    Deterministic; the state is plain JSON. Each of `world_size` processes takes every `world_size`-th batch; where the
    samples end within a round, the others' last batch is padding alone.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        batch_len: int,
        epochs: float | None,
        seed: int,
        targets: Targets | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Raises DataError for a batch that cannot hold the longest sample, or labels of another set."""
        self._samples = Samples(shards)
        num_documents = len(self._samples.document_lens)
        if targets is not None and len(targets.documents) != num_documents:
            raise DataError(f"{LABELS} describes {len(targets.documents)} documents, the set has {num_documents}")
        self._targets = targets
        self._batch_len, self._epochs, self._seed = batch_len, epochs, seed
        self._rank, self._world_size = rank, world_size
        lens = np.array(self._samples.document_lens, "<i8").tobytes()
        if self._samples.is_repeated:
            lens += self._samples.repeats.tobytes()
        described = repr(["best fit", batch_len, epochs, seed]).encode("utf-8")
        self._fingerprint = hashlib.sha256(described + lens).hexdigest()
        self._batches = self._samples.batches(batch_len, epochs, seed)
        self._num_batches = 0
        self._num_token_ids = 0

    def __iter__(self) -> Iterator[Batch | LabelledBatch]:
        while plans := self._draw(self._world_size):
            yield self._assemble(plans[self._rank] if self._rank < len(plans) else [])

    def _draw(self, num_batches: int) -> list[list[int]]:
        plans = list(islice(self._batches, num_batches))
        self._num_batches += len(plans)
        self._num_token_ids += sum(self._samples.lens[sample] for plan in plans for sample in plan)
        return plans

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as plain JSON types."""
        return {
            "fingerprint": self._fingerprint,
            "num_batches": self._num_batches,
            "num_token_ids": self._num_token_ids,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly there. Raises DataError when the state belongs to other data, seed or packing."""
        if state.get("fingerprint") != self._fingerprint:
            raise DataError(
                "the saved state belongs to other data, epochs, seed, microbatch_len or version; resume with those"
            )
        self._batches = self._samples.batches(self._batch_len, self._epochs, self._seed)
        self._num_batches = self._num_token_ids = 0
        self._draw(int(state["num_batches"]))

    def _assemble(self, plan: list[int]) -> Batch | LabelledBatch:
        documents = [self._samples.document(sample) for sample in plan]
        segments = [segment for sample in plan for segment in self._samples.documents(sample)]
        batch = assemble(segments, self._samples.shards, self._batch_len)
        return batch if self._targets is None else LabelledBatch(batch, self._targets.rows(documents))
