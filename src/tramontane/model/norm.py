"""RmsNorm: root mean square normalisation with a learned scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tramontane.ops.interface import Ops


class RmsNorm(nn.Module):
    def __init__(self, dim: int, eps: float, ops: Ops) -> None:
        super().__init__()
        self.eps = eps
        self.ops = ops
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.ops.rms_norm(x_TD, self.weight, self.eps)
