"""Batch: a StepPlan as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from tramontane.engine.kv_cache import KvCache
from tramontane.engine.scheduler import Chunk, StepPlan
from tramontane.model.forward_input import ForwardInput
from tramontane.ops.interface import Ops
from tramontane.ops.paged import PagedBatch, PagedStep


class PagedAttention:
    """The engine's AttentionContext: stores the step's keys and values in their pages, then attends over pages."""

    def __init__(self, ops: Ops, cache: KvCache, slots: Sequence[Tensor], batches: Sequence[PagedBatch]) -> None:
        self.ops = ops
        self.cache = cache
        self.slots = slots  # (T,) int64 for each window group
        self.batches = batches  # one for each window group

    def attend(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        group = self.cache.group_of_layer[layer]
        k_pages_PSGK, v_pages_PSGK = self.cache.k_pages[layer], self.cache.v_pages[layer]
        self.ops.store_kv(k_TGK, v_TGK, k_pages_PSGK, v_pages_PSGK, self.slots[group])
        window = self.cache.windows[group]
        return self.ops.paged_attention(q_THK, k_pages_PSGK, v_pages_PSGK, self.batches[group], window)


def build_batch(plan: StepPlan, ops: Ops, cache: KvCache) -> ForwardInput:
    """The plan's chunks end to end, with where each group's keys lie. Tensors live where the cache does."""
    chunks = plan.chunks
    device = cache.k_pages[0].device
    token_ids: list[int] = []
    positions: list[int] = []
    for chunk in chunks:
        if chunk.end - chunk.start == 1:
            token_ids.append(chunk.sequence.token_ids[chunk.start])
            positions.append(chunk.start)
        else:
            token_ids += chunk.token_ids
            positions += range(chunk.start, chunk.end)
    positions_T = np.array(positions, np.int64)
    query_starts = np.fromiter(accumulate((c.end - c.start for c in chunks), initial=0), np.int32, len(chunks) + 1)
    first_positions = np.fromiter((chunk.start for chunk in chunks), np.int32, len(chunks))
    starts, firsts = _tensor(query_starts, device), _tensor(first_positions, device)
    row_of_T = np.repeat(np.arange(len(chunks)), np.diff(query_starts))
    slots, batches = [], []
    for group in range(len(cache.windows)):
        page_table, page_offsets = _page_table(chunks, group)
        pages_T = page_table[row_of_T, positions_T // cache.page_size - page_offsets[row_of_T]]
        slots.append(_tensor(pages_T.astype(np.int64) * cache.page_size + positions_T % cache.page_size, device))
        table = _tensor(page_table, device)
        batches.append(PagedBatch(cache.page_size, starts, firsts, table, _tensor(page_offsets, device)))
    return ForwardInput(
        _tensor(np.array(token_ids, np.int64), device),
        _tensor(positions_T, device),
        PagedAttention(ops, cache, slots, batches),
        PagedStep(cache.k_pages, cache.v_pages, cache.group_of_layer, cache.windows, slots, batches),
    )


def _page_table(chunks: Sequence[Chunk], group: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, M) page ids, zero where a row is shorter, and the (N,) logical page each row begins with."""
    tables = [chunk.sequence.tables[group] for chunk in chunks]
    page_table = np.zeros((len(tables), max(map(len, tables))), np.int32)
    for row, table in zip(page_table, tables, strict=True):
        row[: len(table)] = table.page_ids
    return page_table, np.fromiter((table.first_page for table in tables), np.int32, len(tables))


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
