"""Deterministic batches of packed documents from token shards.

Needs numpy and torch only, so that a training machine may lack the libraries that built the data. Memory does not
grow with the data: documents are shuffled by a permutation that needs no table, and sources are interleaved by always
drawing from the one that lags most behind its share.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from tramontane.data.permutation import Permutation
from tramontane.data.shards import PhaseInfo, ShardSet
from tramontane.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Policy = Literal["cut", "whole"]
_LOOKAHEAD = 128  # documents that `whole` may choose from to fill a batch


@dataclass(frozen=True, slots=True)
class Batch:
    """One microbatch of packed documents. Shape legend: T = the loader's batch_len, on the CPU.

    Example, batch_len 8, documents [a b c] and [d e f g]:
        token_ids     = [a b c d e f g pad]
        targets       = [b c pad e f g pad pad]
        loss_mask     = [1 1 0 1 1 1 0 0]      (0 also where the target is not to be learned, as a user's words)
        document_lens = (3, 4, 1)              (the last is padding: padding_len = 1)
    """

    token_ids: Tensor  # (T,) int64
    targets: Tensor  # (T,) int64, the token to be predicted at each place; pad where loss_mask is False for want of one
    loss_mask: Tensor  # (T,) bool
    document_lens: tuple[int, ...]  # sums to T; padding, if any, is the last
    document_sources: tuple[str, ...]  # source of each document, padding left out
    padding_len: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens `start:end` of one document."""

    source: str
    document: int
    start: int
    end: int


class Loader:
    """Iterates over the batches of all phases, then stops.

    Policy `cut` treats the documents as one stream: no place is wasted, and a document that does not fit goes on in
    the next batch (as a document of its own). `whole` never parts a document: the batch is filled from the next
    documents in order that fit, and what stays free is padding. Each source's documents are reshuffled each epoch.

    With `world_size` processes, batch k goes to process k % world_size; after each has taken one, all hold the same
    state, which a run with another number of processes can go on from.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        batch_len: int,
        policy: Policy = "cut",
        phases: Sequence[PhaseInfo] | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Raises DataError for phases that name unknown sources, or a `batch_len` that a document cannot fit in."""
        self._shards, self._policy, self._seed = shards, policy, seed
        self._rank, self._world_size = rank, world_size
        self.batch_len = batch_len
        self.phases = tuple(shards.phases if phases is None else phases)
        _check_phases(self.phases, shards)
        if batch_len < 2 or (policy == "whole" and batch_len < shards.max_document_len):
            raise DataError(
                f"batch_len={batch_len} cannot hold the longest document ({shards.max_document_len} tokens); "
                "raise it, or use policy 'cut'"
            )
        self.num_batches_taken = 0  # by all processes together
        self.num_token_ids_taken = 0  # likewise, padding not counted
        self._phase = 0
        self._cursors = dict.fromkeys(shards.sources, 0)  # documents drawn from each source since the start
        self._drawn_len = dict.fromkeys(shards.sources, 0)  # tokens drawn from each source in this phase
        self._budget = self._documents_of_phase(0)  # documents each source still gives in this phase
        self._waiting: deque[Segment] = deque()
        self._permutations: dict[str, tuple[int, Permutation]] = {}

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch of this process. All processes stop at the same time: where the data ends within a round,
        the others' last batch is padding alone."""
        plans = [self._plan() for _ in range(self._world_size)]
        if not plans[0]:
            raise StopIteration
        self.num_batches_taken += self._world_size
        self.num_token_ids_taken += sum(segment.end - segment.start for plan in plans for segment in plan)
        return assemble(plans[self._rank], self._shards, self.batch_len)

    @property
    def phase(self) -> PhaseInfo | None:
        """The phase that the next document comes from; None when all are over."""
        return self.phases[self._phase] if self._phase < len(self.phases) else None

    @property
    def num_token_ids(self) -> int:
        """Tokens of all phases together, to within the rounding of fractions of epochs to documents."""
        return sum(
            round(epochs * self._shards.sources[name].info.num_token_ids)
            for phase in self.phases
            for name, epochs in phase.epochs.items()
        )

    def fill_share(self, num_batches: int) -> float:
        """Share of the next `num_batches` that is not padding, the last one left out, which the end of the data cuts
        short. Uses the loader up."""
        plans = islice(iter(self._plan, []), num_batches)
        lens = [sum(segment.end - segment.start for segment in plan) for plan in plans]
        whole = lens[:-1] or lens
        return sum(whole) / (len(whole) * self.batch_len) if whole else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly here, as plain JSON types."""
        return {
            "fingerprint": self._fingerprint(),
            "num_batches_taken": self.num_batches_taken,
            "num_token_ids_taken": self.num_token_ids_taken,
            "phase": self._phase,
            "cursors": dict(self._cursors),
            "drawn_len": dict(self._drawn_len),
            "budget": dict(self._budget),
            "waiting": [[each.source, each.document, each.start, each.end] for each in self._waiting],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises DataError when the state belongs to other data, phases, seed or packing."""
        if state["fingerprint"] != self._fingerprint():
            raise DataError(
                "the loader state belongs to other data, phases, seed, policy or batch_len; resume with those"
            )
        self.num_batches_taken = int(state["num_batches_taken"])
        # states of version 0.1.0 did not hold it
        self.num_token_ids_taken = int(state.get("num_token_ids_taken", self.num_batches_taken * self.batch_len))
        self._phase = int(state["phase"])
        self._cursors, self._drawn_len = dict(state["cursors"]), dict(state["drawn_len"])
        self._budget = dict(state["budget"])
        self._waiting = deque(Segment(*each) for each in state["waiting"])

    def _fingerprint(self) -> str:
        described = [
            [self.batch_len, self._policy, self._seed],
            [[name, each.info.num_documents, each.info.num_token_ids] for name, each in self._shards.sources.items()],
            [[phase.name, sorted(phase.epochs.items())] for phase in self.phases],
        ]
        return hashlib.sha256(repr(described).encode("utf-8")).hexdigest()

    def _documents_of_phase(self, phase: int) -> dict[str, int]:
        if phase >= len(self.phases):
            return {}
        epochs = self.phases[phase].epochs
        counts = {name: round(epochs[name] * self._shards.sources[name].info.num_documents) for name in epochs}
        return {name: count for name, count in counts.items() if count}

    def _draw(self) -> Segment | None:
        """The next document, whole; None at the end of the last phase."""
        while not self._budget:
            if self._phase >= len(self.phases):
                return None
            self._phase += 1
            self._budget = self._documents_of_phase(self._phase)
            self._drawn_len = dict.fromkeys(self._drawn_len, 0)
        epochs = self.phases[self._phase].epochs
        sources = self._shards.sources
        name = min(
            self._budget,
            key=lambda name: self._drawn_len[name] / (epochs[name] * sources[name].info.num_token_ids),
        )
        epoch, place = divmod(self._cursors[name], sources[name].info.num_documents)
        document = self._permutation(name, epoch)[place]
        document_len = sources[name].document_len(document)
        self._cursors[name] += 1
        self._drawn_len[name] += document_len
        self._budget[name] -= 1
        if not self._budget[name]:
            del self._budget[name]
        return Segment(name, document, 0, document_len)

    def _permutation(self, name: str, epoch: int) -> Permutation:
        known = self._permutations.get(name)
        if known is None or known[0] != epoch:
            digest = hashlib.blake2b(f"{self._seed}/{name}/{epoch}".encode(), digest_size=8).digest()
            permutation = Permutation(self._shards.sources[name].info.num_documents, int.from_bytes(digest, "little"))
            self._permutations[name] = known = (epoch, permutation)
        return known[1]

    def _plan(self) -> list[Segment]:
        return self._plan_cut() if self._policy == "cut" else self._plan_whole()

    def _plan_cut(self) -> list[Segment]:
        plan: list[Segment] = []
        free = self.batch_len
        while free:
            segment = self._waiting.popleft() if self._waiting else self._draw()
            if segment is None:
                break
            taken = min(free, segment.end - segment.start)
            if taken < segment.end - segment.start:
                rest = Segment(segment.source, segment.document, segment.start + taken, segment.end)
                self._waiting.appendleft(rest)
            plan.append(Segment(segment.source, segment.document, segment.start, segment.start + taken))
            free -= taken
        return plan

    def _plan_whole(self) -> list[Segment]:
        plan: list[Segment] = []
        free = self.batch_len
        passed: deque[Segment] = deque()
        while free and len(passed) < _LOOKAHEAD:
            segment = self._waiting.popleft() if self._waiting else self._draw()
            if segment is None:
                break
            if segment.end <= free:
                plan.append(segment)
                free -= segment.end
            else:
                passed.append(segment)
        self._waiting.extendleft(reversed(passed))
        return plan


def assemble(plan: Sequence[Segment], shards: ShardSet, batch_len: int) -> Batch:
    """The batch of `batch_len` places that holds these segments in order, and padding after them."""
    token_ids = np.full(batch_len, shards.pad_id, np.int64)
    targets = token_ids.copy()
    loss_mask = np.zeros(batch_len, np.bool_)
    place = 0
    for segment in plan:
        ids, mask = shards.sources[segment.source].read(segment.document)
        segment_len = segment.end - segment.start
        following = ids[segment.start + 1 : segment.end + 1]  # one short at the end of the document
        token_ids[place : place + segment_len] = ids[segment.start : segment.end]
        targets[place : place + len(following)] = following
        learned = True if mask is None else mask[segment.start + 1 : segment.end + 1]
        loss_mask[place : place + len(following)] = learned
        place += segment_len
    padding_len = batch_len - place
    lens = (*(each.end - each.start for each in plan), *([padding_len] if padding_len else []))
    return Batch(
        token_ids=torch.from_numpy(token_ids),
        targets=torch.from_numpy(targets),
        loss_mask=torch.from_numpy(loss_mask),
        document_lens=lens,
        document_sources=tuple(each.source for each in plan),
        padding_len=padding_len,
    )


def scale_phases(phases: Sequence[PhaseInfo], shards: ShardSet, num_token_ids: int) -> tuple[PhaseInfo, ...]:
    """The same phases with all epochs multiplied so that together they hold `num_token_ids` tokens.

    Raises DataError for phases that name unknown sources or hold nothing."""
    _check_phases(phases, shards)
    total = sum(
        epochs * shards.sources[name].info.num_token_ids for phase in phases for name, epochs in phase.epochs.items()
    )
    if total <= 0:
        raise DataError("the phases hold no tokens; give at least one source epochs above 0")
    factor = num_token_ids / total
    return tuple(
        PhaseInfo(name=phase.name, epochs={name: epochs * factor for name, epochs in phase.epochs.items()})
        for phase in phases
    )


def _check_phases(phases: Sequence[PhaseInfo], shards: ShardSet) -> None:
    for phase in phases:
        for name, epochs in phase.epochs.items():
            if name not in shards.sources:
                raise DataError(
                    f"phase {phase.name!r} names source {name!r}, which is not among "
                    f"{', '.join(sorted(shards.sources))}; open the set that holds it as well"
                )
            if epochs < 0:
                raise DataError(f"phase {phase.name!r}: epochs of {name!r} is {epochs}; it must not be negative")
