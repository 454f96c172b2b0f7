"""Ops: the operations a model is computed with. One object, chosen at load; backends differ in speed only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from tramontane.ops.low_rank import LowRank
from tramontane.ops.paged import PagedBatch

if TYPE_CHECKING:
    from tramontane.ops.packed_weight import PackedWeight


class Ops(Protocol):
    """Each method does what the function of the same name in `ops/reference.py` defines."""

    name: str

    def linear(self, x_TI: Tensor, weight_OI: Tensor) -> Tensor: ...

    def packed_linear(self, x_TI: Tensor, weight: PackedWeight) -> Tensor:
        """`reference.linear` of a packed weight."""
        ...

    def add_low_rank(
        self, y_TO: Tensor, x_TI: Tensor, low_ranks: Sequence[LowRank | None], index_T: Tensor
    ) -> Tensor: ...

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor: ...

    def rotate(self, x_THK: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor: ...

    def swiglu(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor: ...

    def route(self, router_logits_TE: Tensor, num_active: int) -> tuple[Tensor, Tensor]: ...

    def store_kv(
        self, k_TGK: Tensor, v_TGK: Tensor, k_pages_PSGK: Tensor, v_pages_PSGK: Tensor, slots_T: Tensor
    ) -> None:
        """Write row t to slot `slots_T[t]` (= page * page_size + offset, int64) of both pools, in place."""
        ...

    def paged_attention(
        self, q_THK: Tensor, k_pages_PSGK: Tensor, v_pages_PSGK: Tensor, batch: PagedBatch, window: int | None
    ) -> Tensor:
        """`reference.attention` of every sequence over its pages; (T, H, K). Keys were stored before."""
        ...

    def packed_attention(
        self, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, document_lens: Sequence[int], window: int | None
    ) -> Tensor:
        """`reference.attention` inside each document of a packed row (block-diagonal); differentiable."""
        ...
