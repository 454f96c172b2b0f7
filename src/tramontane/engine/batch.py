"""Batch: a StepPlan as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tramontane.engine.kv_cache import KvCache
from tramontane.engine.step_plan import Chunk, StepPlan
from tramontane.model.adapter import Adapter, RowAdapters
from tramontane.model.forward_input import ForwardInput
from tramontane.model.transformer import Transformer
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


def build_batch(plan: StepPlan, model: Transformer, cache: KvCache) -> ForwardInput:
    """The plan's chunks end to end, with where each group's keys lie. Tensors live where the cache does."""
    chunks = plan.chunks
    num_chunks = len(chunks)
    device = cache.k_pages[0].device
    first_positions = np.array([chunk.start for chunk in chunks], np.int32)
    if plan.num_tokens == num_chunks:  # nothing but decodes: the rows are the chunks
        token_ids = [chunk.sequence.token_ids[chunk.start] for chunk in chunks]
        positions_T = first_positions.astype(np.int64)
        query_starts = np.arange(num_chunks + 1, dtype=np.int32)
        row_of_T = query_starts[:-1]
    else:
        token_ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
        lens = np.array([chunk.end - chunk.start for chunk in chunks], np.int32)
        query_starts = np.zeros(num_chunks + 1, np.int32)
        np.cumsum(lens, out=query_starts[1:])
        row_of_T = np.repeat(np.arange(num_chunks, dtype=np.int32), lens)
        positions_T = np.arange(len(token_ids)) + (first_positions - query_starts[:-1])[row_of_T]
    page_of_T, offset_of_T = np.divmod(positions_T, cache.page_size)
    starts, firsts = _tensor(query_starts, device), _tensor(first_positions, device)
    slots, batches = [], []
    for group in range(len(cache.windows)):
        page_table, page_offsets = _page_table(chunks, group)
        pages_T = page_table[row_of_T, page_of_T - page_offsets[row_of_T]].astype(np.int64)
        slots.append(_tensor(pages_T * cache.page_size + offset_of_T, device))
        table = _tensor(page_table, device)
        batches.append(PagedBatch(cache.page_size, starts, firsts, table, _tensor(page_offsets, device)))
    # a draft model computes the same requests, but guesses with its bare weights
    of_chunk = [a if (a := c.sequence.request.adapter) is not None and a.model is model else None for c in chunks]
    adapters = _adapters(of_chunk, row_of_T, device)
    end_position = max(chunk.end for chunk in chunks)
    return ForwardInput(
        _tensor(np.array(token_ids, np.int64), device),
        _tensor(positions_T, device),
        PagedAttention(model.ops, cache, slots, batches),
        adapters,
        PagedStep(cache.k_pages, cache.v_pages, cache.group_of_layer, cache.windows, slots, batches, end_position),
    )


def _adapters(of_chunk: Sequence[Adapter | None], row_of_T: np.ndarray, device: torch.device) -> RowAdapters | None:
    """None where every row is of the bare model."""
    adapters = {id(adapter): adapter for adapter in of_chunk if adapter is not None}
    if not adapters:
        return None
    index_of = {key: index for index, key in enumerate(adapters)}
    index_N = np.array([index_of.get(id(adapter), -1) for adapter in of_chunk], np.int32)
    return RowAdapters(tuple(adapters.values()), _tensor(index_N[row_of_T], device))


def _page_table(chunks: Sequence[Chunk], group: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, M) page ids, zero where a row is shorter, and the (N,) logical page each row begins with."""
    tables = [chunk.sequence.tables[group] for chunk in chunks]
    page_offsets = np.array([table.first_page for table in tables], np.int32)
    if len(tables) == 1:
        return tables[0].page_ids[None].copy(), page_offsets
    page_table = np.zeros((len(tables), max(map(len, tables))), np.int32)
    for row, table in zip(page_table, tables, strict=True):
        row[: len(table)] = table.page_ids
    return page_table, page_offsets


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.to(device)
