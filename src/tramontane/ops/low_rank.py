"""LowRank: what an adapter adds to one product, B (scale A x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PANEL = 64  # outputs whose rows of B lie together: csrc/kernels.h reads them from end to end


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """Both weights contiguous and of one dtype; B lies transposed in panels of 64 outputs, the last one padded."""

    a_RI: Tensor
    b_PRN: Tensor
    scale: float
    out_features: int

    @classmethod
    def of(cls, a_RI: Tensor, b_OR: Tensor, scale: float, dtype: torch.dtype, device: torch.device) -> LowRank:
        """Raises ValueError if A and B do not fit together."""
        if a_RI.dim() != 2 or b_OR.dim() != 2 or a_RI.shape[0] != b_OR.shape[1]:
            raise ValueError(f"A of {tuple(a_RI.shape)} and B of {tuple(b_OR.shape)} make no low-rank product")
        out_features, rank = b_OR.shape
        padded_OR = F.pad(b_OR.to(device, dtype), (0, 0, 0, -out_features % PANEL))
        b_PRN = padded_OR.view(-1, PANEL, rank).transpose(1, 2).contiguous()
        return cls(a_RI.to(device, dtype).contiguous(), b_PRN, scale, out_features)

    @property
    def rank(self) -> int:
        return self.a_RI.shape[0]

    @property
    def in_features(self) -> int:
        return self.a_RI.shape[1]

    @property
    def num_bytes(self) -> int:
        return self.a_RI.nbytes + self.b_PRN.nbytes

    def product(self, x_TI: Tensor) -> Tensor:
        """B (scale A x) of each row, (T, out_features), in the dtype of the weights."""
        hidden_TR = x_TI.to(self.a_RI.dtype) @ self.a_RI.T * self.scale
        by_panel_PTN = hidden_TR @ self.b_PRN
        return by_panel_PTN.transpose(0, 1).flatten(1)[:, : self.out_features]


@dataclass(frozen=True, slots=True)
class AdaptedLayer:
    """What an adapter adds to the products of one layer; None: nothing."""

    attention: tuple[LowRank | None, LowRank | None, LowRank | None, LowRank | None]  # wq, wk, wv, wo
    experts: Sequence[tuple[LowRank | None, LowRank | None, LowRank | None]]  # w1, w2, w3 of each

    @property
    def low_ranks(self) -> tuple[LowRank | None, ...]:
        return (*self.attention, *(low_rank for expert in self.experts for low_rank in expert))
