"""The operations on torch's own kernels: the fallback on every device, and the differentiable path of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tramontane.ops import reference
from tramontane.ops.low_rank import LowRank
from tramontane.ops.page_types import from_page_type, to_page_type
from tramontane.ops.paged import PagedBatch

if TYPE_CHECKING:
    from tramontane.ops.packed_weight import PackedWeight

# Queries per attention call: a windowed prefill reads at most W + QUERY_CHUNK keys for each, and the mask stays small.
QUERY_CHUNK = 256


class TorchOps:
    name = "torch"

    def linear(self, x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        return F.linear(x_TI, weight_OI)

    def packed_linear(self, x_TI: Tensor, weight: PackedWeight) -> Tensor:
        return weight.multiply(x_TI)

    def add_low_rank(self, y_TO: Tensor, x_TI: Tensor, low_ranks: Sequence[LowRank | None], index_T: Tensor) -> Tensor:
        for index, low_rank in enumerate(low_ranks):
            if low_rank is not None:
                rows_N = torch.where(index_T == index)[0]
                y_TO = y_TO.index_add(0, rows_N, low_rank.product(x_TI[rows_N]).to(y_TO.dtype))
        return y_TO

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        return reference.rms_norm(x_TD, weight_D, eps)

    def rotate(self, x_THK: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
        return reference.rotate(x_THK, cos_TC, sin_TC)

    def swiglu(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        return reference.swiglu(gate_TF, up_TF)

    def route(self, router_logits_TE: Tensor, num_active: int) -> tuple[Tensor, Tensor]:
        return reference.route(router_logits_TE, num_active)

    def store_kv(
        self, k_TGK: Tensor, v_TGK: Tensor, k_pages_PSGK: Tensor, v_pages_PSGK: Tensor, slots_T: Tensor
    ) -> None:
        page_size = k_pages_PSGK.shape[1]
        for x_TGK, pages_PSGK in ((k_TGK, k_pages_PSGK), (v_TGK, v_pages_PSGK)):
            rows = to_page_type(x_TGK, pages_PSGK.dtype)
            if pages_PSGK.is_contiguous():  # one operation, since a GPU counts them
                pages_PSGK.flatten(0, 1).index_copy_(0, slots_T, rows)
            else:
                pages_PSGK[slots_T // page_size, slots_T % page_size] = rows

    def paged_attention(
        self, q_THK: Tensor, k_pages_PSGK: Tensor, v_pages_PSGK: Tensor, batch: PagedBatch, window: int | None
    ) -> Tensor:
        out_THK = torch.empty_like(q_THK)
        starts = batch.query_starts.tolist()
        rows = zip(starts, starts[1:], batch.first_positions.tolist(), batch.page_offsets.tolist(), strict=False)
        for n, (start, end, first_position, page_offset) in enumerate(rows):
            num_pages = -(-(first_position + end - start) // batch.page_size) - page_offset
            pages = batch.page_table[n, :num_pages].to(k_pages_PSGK.device, torch.int64)
            origin = page_offset * batch.page_size  # position of the first gathered key
            k_SGK = k_pages_PSGK[pages].flatten(0, 1)
            v_SGK = v_pages_PSGK[pages].flatten(0, 1)
            for query, key in _chunks(end - start, first_position, window):
                keys = slice(key.start - origin, key.stop - origin)
                out_THK[start + query.start : start + query.stop] = _attend(
                    q_THK[start + query.start : start + query.stop],
                    from_page_type(k_SGK[keys], q_THK.dtype),
                    from_page_type(v_SGK[keys], q_THK.dtype),
                    window,
                )
        return out_THK

    def packed_attention(
        self, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, document_lens: Sequence[int], window: int | None
    ) -> Tensor:
        outputs = []
        start = 0
        for document_len in document_lens:
            for query, key in _chunks(document_len, 0, window):
                queries = slice(start + query.start, start + query.stop)
                keys = slice(start + key.start, start + key.stop)
                outputs.append(_attend(q_THK[queries], k_TGK[keys], v_TGK[keys], window))
            start += document_len
        return torch.cat(outputs)


def _chunks(num_queries: int, first_position: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Queries in runs of QUERY_CHUNK, each with the range of key positions it can see."""
    for start in range(0, num_queries, QUERY_CHUNK):
        end = min(start + QUERY_CHUNK, num_queries)
        oldest = 0 if window is None else max(0, first_position + start - window + 1)
        yield slice(start, end), slice(oldest, first_position + end)


def _attend(q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, window: int | None) -> Tensor:
    """`reference.attention`, the R = H / G heads that share a kv head laid out as R * T queries of it."""
    num_queries, num_heads, head_dim = q_THK.shape
    num_keys, num_kv_heads, _ = k_SGK.shape
    heads_per_kv = num_heads // num_kv_heads
    q_GQK = q_THK.view(num_queries, num_kv_heads, heads_per_kv, head_dim).permute(1, 2, 0, 3).flatten(1, 2)
    if num_queries == 1 and (window is None or num_keys <= window):
        mask = None  # the newest position sees every key given
    else:
        q_position_T1 = torch.arange(num_keys - num_queries, num_keys, device=q_THK.device)[:, None]
        k_position_S = torch.arange(num_keys, device=q_THK.device)
        visible_TS = k_position_S <= q_position_T1
        if window is not None:
            visible_TS &= q_position_T1 - k_position_S < window
        mask = visible_TS.repeat(heads_per_kv, 1)
    out_GQK = F.scaled_dot_product_attention(
        q_GQK[None], k_SGK.transpose(0, 1)[None], v_SGK.transpose(0, 1)[None], attn_mask=mask
    )[0]
    return out_GQK.view(num_kv_heads, heads_per_kv, num_queries, head_dim).permute(2, 0, 1, 3).flatten(1, 2)
