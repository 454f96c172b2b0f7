"""The two orders in which checkpoints store the rows of `wq` and `wk`.

Rotary embedding turns pairs of components of a head of K = `head_dim` rows. `interleaved` (consolidated, GGUF, and
memory) pairs rows (0, 1), (2, 3), ...; `half` (Hugging Face) pairs rows (0, K/2), (1, K/2 + 1), ...

    interleaved  a0 b0 a1 b1 a2 b2    <->    half  a0 a1 a2 b0 b1 b2        (one head, K = 6)

Only rows move, so the same functions serve float matrices and packed quantised blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def half_to_interleaved(rows: Tensor, num_heads: int) -> Tensor:
    """(num_heads * K, columns) in `half` order -> the same rows in `interleaved` order (a copy)."""
    num_rows, num_columns = rows.shape
    return rows.reshape(num_heads, 2, num_rows // num_heads // 2, num_columns).transpose(1, 2).reshape(rows.shape)


def interleaved_to_half(rows: Tensor, num_heads: int) -> Tensor:
    """(num_heads * K, columns) in `interleaved` order -> the same rows in `half` order (a copy)."""
    num_rows, num_columns = rows.shape
    return rows.reshape(num_heads, num_rows // num_heads // 2, 2, num_columns).transpose(1, 2).reshape(rows.shape)
