"""PagedBatch: which rows of a flattened batch belong to which sequence, and where that sequence's keys lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """N sequences of one step, seen by the layers of one window group. All tensors int32 and contiguous.

    Example, page_size 4: a sequence of 9 tokens that computes its last 2 (positions 7 and 8) beside another that
    computes its first 3; the first one's oldest page has already fallen out of the window:

        query_starts    = [0, 2, 5]
        first_positions = [7, 0]
        page_offsets    = [1, 0]          the first listed page holds positions 4…7
        page_table      = [[5, 9], [2, *]]  positions 4…7 in page 5, 8 in page 9; 0…2 in page 2 (* is never read)
    """

    page_size: int
    query_starts: Tensor  # (N + 1,) sequence n owns rows query_starts[n] … query_starts[n + 1] - 1
    first_positions: Tensor  # (N,) position of its first row; its rows are consecutive positions
    page_table: Tensor  # (N, M) page ids; entry j holds positions (page_offsets[n] + j) * page_size …
    page_offsets: Tensor  # (N,)


@dataclass(frozen=True, slots=True)
class PagedStep:
    """A step over a paged cache, all layers at once: what one call needs to compute a whole forward pass."""

    k_pages: Sequence[Tensor]  # one (P, S, G, page_width of K) per layer; the same object in every step of a cache
    v_pages: Sequence[Tensor]
    group_of_layer: Sequence[int]
    windows: Sequence[int | None]  # of each window group
    slots: Sequence[Tensor]  # (T,) int64 for each window group: where each row's key and value go
    batches: Sequence[PagedBatch]  # one for each window group
    end_position: int  # past the last position of any row
