"""Sparse mixture-of-experts (arXiv:2401.04088): a router sends each token to a few of many feed-forward networks.

Tokens are grouped by expert, so that each expert multiplies once per step and cost follows the active experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tramontane.model.feed_forward import FeedForward
from tramontane.model.linear import Linear

if TYPE_CHECKING:
    from tramontane.config import MoeConfig
    from tramontane.model.adapter import RowAdapters
    from tramontane.ops.interface import Ops


class MoeFeedForward(nn.Module):
    def __init__(self, dim: int, hidden_dim: int, moe: MoeConfig, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.num_active = moe.num_experts_per_tok
        self.gate = Linear(dim, moe.num_experts, ops)  # the router
        self.experts = nn.ModuleList(FeedForward(dim, hidden_dim, ops) for _ in range(moe.num_experts))
        self.keep_router_logits = False
        self.router_logits_TE: Tensor | None = None  # of the last forward, for the training losses on the router

    def forward(self, x_TD: Tensor, adapters: RowAdapters | None = None) -> Tensor:
        router_logits_TE = self.gate(x_TD)
        if self.keep_router_logits:
            self.router_logits_TE = router_logits_TE
        weights_TA, experts_TA = self.ops.route(router_logits_TE, self.num_active)
        out_TD = torch.zeros_like(x_TD)
        # Experts in ascending order: a token's sum is formed in the same order whatever shares its batch.
        for expert_id in sorted(set(experts_TA.flatten().tolist())):
            rows, slots = torch.where(experts_TA == expert_id)
            y_TD = self.experts[expert_id](x_TD[rows], None if adapters is None else adapters.take(rows))
            out_TD.index_add_(0, rows, (y_TD * weights_TA[rows, slots, None]).to(x_TD.dtype))
        return out_TD
