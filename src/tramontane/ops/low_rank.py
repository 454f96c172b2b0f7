"""LowRank: what an adapter adds to one product, B (A x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """Both contiguous and of one dtype. B lies transposed, as the kernels read it, and holds the adapter's scale."""

    a_RI: Tensor
    b_RO: Tensor

    @classmethod
    def of(cls, a_RI: Tensor, b_OR: Tensor, scale: float, dtype: torch.dtype, device: torch.device) -> LowRank:
        """Scaled in float32, then rounded to `dtype`. Raises ValueError if A and B do not fit together."""
        if a_RI.dim() != 2 or b_OR.dim() != 2 or a_RI.shape[0] != b_OR.shape[1]:
            raise ValueError(f"A of {tuple(a_RI.shape)} and B of {tuple(b_OR.shape)} make no low-rank product")
        b_RO = (b_OR.float() * scale).T
        return cls(a_RI.to(device, dtype).contiguous(), b_RO.to(device, dtype).contiguous())

    @property
    def rank(self) -> int:
        return self.a_RI.shape[0]

    @property
    def num_bytes(self) -> int:
        return self.a_RI.nbytes + self.b_RO.nbytes


@dataclass(frozen=True, slots=True)
class AdaptedLayer:
    """What an adapter adds to the products of one layer; None: nothing."""

    attention: tuple[LowRank | None, LowRank | None, LowRank | None, LowRank | None]  # wq, wk, wv, wo
    experts: Sequence[tuple[LowRank | None, LowRank | None, LowRank | None]]  # w1, w2, w3 of each

    @property
    def low_ranks(self) -> tuple[LowRank | None, ...]:
        return (*self.attention, *(low_rank for expert in self.experts for low_rank in expert))
