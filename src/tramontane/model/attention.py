"""Grouped-query attention: projections and rotation here; where keys live is the AttentionContext's business."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from tramontane.model.linear import Linear

if TYPE_CHECKING:
    from tramontane.config import ModelConfig
    from tramontane.model.adapter import RowAdapters
    from tramontane.model.forward_input import AttentionContext
    from tramontane.ops.interface import Ops


class Attention(nn.Module):
    def __init__(self, layer: int, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.ops = ops
        self.wq = Linear(config.dim, config.n_heads * config.head_dim, ops)
        self.wk = Linear(config.dim, config.n_kv_heads * config.head_dim, ops)
        self.wv = Linear(config.dim, config.n_kv_heads * config.head_dim, ops)
        self.wo = Linear(config.n_heads * config.head_dim, config.dim, ops)

    def forward(
        self,
        x_TD: Tensor,
        cos_TC: Tensor,
        sin_TC: Tensor,
        context: AttentionContext,
        adapters: RowAdapters | None = None,
    ) -> Tensor:
        heads = (x_TD.shape[0], -1, self.head_dim)
        q_THK = self.ops.rotate(self.wq(x_TD, adapters).view(heads), cos_TC, sin_TC)
        k_TGK = self.ops.rotate(self.wk(x_TD, adapters).view(heads), cos_TC, sin_TC)
        v_TGK = self.wv(x_TD, adapters).view(heads)
        out_THK = context.attend(self.layer, q_THK, k_TGK, v_TGK)
        out: Tensor = self.wo(out_THK.flatten(-2), adapters)
        return out
