"""Random paged caches beside the plain keys and values they hold, for testing any backend's paged attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tramontane.ops import reference
from tramontane.ops.page_types import from_page_type, to_page_type
from tramontane.ops.paged import PagedBatch


@dataclass(frozen=True)
class PagedCase:
    q_THK: Tensor
    k_pages_PSGK: Tensor
    v_pages_PSGK: Tensor
    batch: PagedBatch
    window: int | None
    expected_THK: Tensor


def paged_case(
    sequences: list[tuple[int, int]],
    *,
    window: int | None,
    page_size: int = 4,
    num_heads: int = 6,
    num_kv_heads: int = 2,
    head_dim: int = 8,
    dtype: torch.dtype = torch.float32,
    page_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> PagedCase:
    """`sequences` are (number of keys, number of queries, the last ones). Pages are scattered, those out of the window
    are not listed, and every slot that must not be read holds NaN. `page_dtype`: None is `dtype`; what is expected
    follows from the keys and values as they are held."""
    generator = torch.Generator().manual_seed(seed)

    held_as = dtype if page_dtype is None else page_dtype

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    tables: list[list[int]] = []
    offsets, starts, firsts = [], [0], []
    queries, expected = [], []
    num_pages = sum(-(-keys // page_size) for keys, _ in sequences) + 3
    free = torch.randperm(num_pages, generator=generator).tolist()
    k_pages = torch.full((num_pages, page_size, num_kv_heads, head_dim), torch.nan, dtype=dtype)
    v_pages = k_pages.clone()
    for num_keys, num_queries in sequences:
        k_SGK, v_SGK = random(num_keys, num_kv_heads, head_dim), random(num_keys, num_kv_heads, head_dim)
        q_THK = random(num_queries, num_heads, head_dim)
        first = num_keys - num_queries
        offset = 0 if window is None else max(0, first - window + 1) // page_size
        table = [free.pop() for _ in range(offset, -(-num_keys // page_size))]
        for position in range(offset * page_size, num_keys):
            page = table[position // page_size - offset]
            k_pages[page, position % page_size] = k_SGK[position]
            v_pages[page, position % page_size] = v_SGK[position]
        if window is not None:  # positions older than the window, in a page that is still listed
            for position in range(offset * page_size, max(offset * page_size, first - window + 1)):
                page = table[position // page_size - offset]
                k_pages[page, position % page_size] = torch.nan
                v_pages[page, position % page_size] = torch.nan
        tables.append(table)
        offsets.append(offset)
        firsts.append(first)
        starts.append(starts[-1] + num_queries)
        queries.append(q_THK)
        held_k, held_v = (from_page_type(to_page_type(x, held_as), dtype) for x in (k_SGK, v_SGK))
        expected.append(reference.attention(q_THK, held_k, held_v, window))
    width = max(map(len, tables))

    def int32(values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32)

    batch = PagedBatch(
        page_size=page_size,
        query_starts=int32(starts),
        first_positions=int32(firsts),
        page_table=int32([table + [2**31 - 1] * (width - len(table)) for table in tables]),
        page_offsets=int32(offsets),
    )
    k_pages, v_pages = to_page_type(k_pages, held_as), to_page_type(v_pages, held_as)
    return PagedCase(torch.cat(queries), k_pages, v_pages, batch, window, torch.cat(expected))


MIXED = [(9, 2), (3, 3), (1, 1), (40, 1), (33, 33), (700, 300)]
