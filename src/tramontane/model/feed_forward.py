"""The gated feed-forward network, w2(silu(w1(x)) * w3(x))."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from tramontane.model.linear import Linear

if TYPE_CHECKING:
    from tramontane.model.adapter import RowAdapters
    from tramontane.ops.interface import Ops


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden_dim: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.w1 = Linear(dim, hidden_dim, ops)  # gate
        self.w2 = Linear(hidden_dim, dim, ops)  # down
        self.w3 = Linear(dim, hidden_dim, ops)  # up

    def forward(self, x_TD: Tensor, adapters: RowAdapters | None = None) -> Tensor:
        hidden_TF = self.ops.swiglu(self.w1(x_TD, adapters), self.w3(x_TD, adapters))
        out: Tensor = self.w2(hidden_TF, adapters)
        return out
