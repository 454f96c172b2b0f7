"""What one forward pass of training is given: packed documents on the device, with their boundaries as a tensor."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor

from tramontane.data.loader import Batch
from tramontane.model.forward_input import ForwardInput
from tramontane.ops.packed_varlen import packed_varlen

if TYPE_CHECKING:
    from tramontane.training.sample_stream import LabelledBatch

# Counts of documents and of learned rows are padded to multiples of these, so that few shapes occur: what multiplies
# matrices on a CPU keeps megabytes of machine code for every shape it has seen.
STARTS_MULTIPLE = 64
ROWS_MULTIPLE = 64

# Below this share of learned tokens only those are scored against the vocabulary.
SPARSE_SHARE = 0.8


class VarlenAttention:
    """The AttentionContext of training: boundaries as a tensor, so that one compiled layer serves every packing.

    `starts` and `max_len` as in `ops.packed_varlen`; `windows[layer]` is the window of that layer.
    """

    def __init__(self, windows: tuple[int | None, ...], starts: Tensor, max_len: int) -> None:
        self.windows = windows
        self.starts = starts
        self.max_len = max_len

    def attend(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        return packed_varlen(q_THK, k_TGK, v_TGK, self.starts, self.max_len, self.windows[layer])


@dataclass(frozen=True, slots=True)
class Microbatch:
    """Everything on one device. L is T, or the padded number of learned tokens where `learned_rows` picks them out."""

    forward_input: ForwardInput
    targets: Tensor  # (L,) int64
    weights: Tensor  # (L,) float32, 0 where nothing is learned
    learned_rows: Tensor | None  # (L,) int64: the rows that are scored; None: all
    document_lens: tuple[int, ...]
    num_documents: int  # without the padding
    labels: Tensor | None = None  # (N, C) of the documents, for classifiers


@dataclass(frozen=True, slots=True)
class Placement:
    """How batches become microbatches of one model: `windows` are what `model_setup.prepare` returned for it."""

    device: torch.device
    windows: tuple[int | None, ...]
    max_document_len: int
    is_compiled: bool = False

    def place(self, given: Batch | LabelledBatch) -> Microbatch:
        """A batch on the device. Its padding becomes documents of its own, none longer than `max_document_len`."""
        batch = given if isinstance(given, Batch) else given.batch
        num_documents = len(batch.document_lens) - (1 if batch.padding_len else 0)
        pieces = range(0, batch.padding_len, self.max_document_len)
        lens = [
            *batch.document_lens[:num_documents],
            *(min(self.max_document_len, batch.padding_len - start) for start in pieces),
        ]
        lens_N = torch.tensor(lens)
        ends_N = lens_N.cumsum(0)
        # a number of documents that seldom changes; those added are empty
        starts = torch.full((-(-len(lens) // STARTS_MULTIPLE) * STARTS_MULTIPLE + 1,), batch.token_ids.numel())
        starts[0] = 0
        starts[1 : len(lens) + 1] = ends_N
        positions_T = torch.arange(batch.token_ids.numel()) - (ends_N - lens_N).repeat_interleave(lens_N)
        # picked out here, before anything is on the device: asking a GPU how many there are would wait for it
        rows_L = batch.loss_mask.nonzero().flatten()
        is_sparse = rows_L.numel() < SPARSE_SHARE * batch.loss_mask.numel()
        targets, weights = batch.targets, batch.loss_mask.float()
        if is_sparse:
            # some rows also where nothing is learned: every process of several must come to its backward pass
            num_padding = -rows_L.numel() % ROWS_MULTIPLE or (0 if rows_L.numel() else ROWS_MULTIPLE)
            weights = torch.cat((torch.ones(rows_L.shape), torch.zeros(num_padding)))
            rows_L = torch.cat((rows_L, rows_L.new_zeros(num_padding)))
            targets = targets[rows_L]
        starts = self._send(starts.int())
        if self.is_compiled:
            torch._dynamo.mark_dynamic(starts, 0)
        attention = VarlenAttention(self.windows, starts, self.max_document_len)
        return Microbatch(
            forward_input=ForwardInput(self._send(batch.token_ids), self._send(positions_T), attention),
            targets=self._send(targets),
            weights=self._send(weights),
            learned_rows=self._send(rows_L) if is_sparse else None,
            document_lens=tuple(lens),
            num_documents=num_documents,
            labels=None if isinstance(given, Batch) else self._send(given.labels),
        )

    def _send(self, tensor: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)


def visible_pairs(document_lens: tuple[int, ...], window: int | None) -> int:
    """How many (query, key) pairs causal attention inside the documents computes: the work of one head."""
    pairs = 0
    for document_len in document_lens:
        full = min(document_len, window or document_len)
        pairs += full * (full + 1) // 2 + (document_len - full) * full
    return pairs


class Stream(Protocol):
    """The batches of a run in order, and where it stands as plain JSON types: `num_token_ids` of them is how many
    tokens all processes were given so far, padding not counted."""

    def __iter__(self) -> Iterator[Batch | LabelledBatch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


Drawn: TypeAlias = "tuple[Batch | LabelledBatch, dict[str, Any]]"
"""A batch, and the state of its stream just after it."""


class Prefetcher:
    """The stream's batches, drawn `depth` ahead by a thread, each with the stream's state just after it.

    Iterating gives (batch, state): resume from `state` and the next batch is the one after. Call `close` at the end.
    """

    def __init__(self, stream: Stream, *, depth: int = 8) -> None:
        self._queue: queue.Queue[Drawn | BaseException | None] = queue.Queue(depth)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(stream,), daemon=True, name="prefetch")
        self._thread.start()

    def _fill(self, stream: Stream) -> None:
        try:
            for batch in stream:
                if not self._put((batch, stream.state_dict())):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Drawn | BaseException | None) -> bool:
        while not self._is_closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[Drawn]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        self._is_closed.set()
        self._thread.join()
