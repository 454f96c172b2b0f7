"""What happens to gradients between the backward pass and the update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tramontane.training.muon import full_tensor


@torch.no_grad()
def average_and_clip(gradients: list[Tensor], weight: Tensor, max_norm: float | None) -> Tensor:
    """Divide summed gradients by the total `weight` of the update and bound their common norm, in place.

    Returns the norm before clipping, float32. One pass over the gradients: both factors are applied together.
    """
    norm = full_tensor(torch.nn.utils.get_total_norm(gradients)) / weight
    factor = 1 / weight
    if max_norm is not None:
        factor = factor * (max_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)
    return norm


@dataclass(slots=True)
class StepGuard:
    """Skips updates whose loss or gradient is not finite, and gives up when they come in a row."""

    max_in_a_row: int = 20
    num_skipped: int = 0
    num_in_a_row: int = 0

    def accepts(self, loss: float, norm: float) -> bool:
        """Whether to apply the update. False also counts it as skipped."""
        is_finite = abs(loss) < float("inf") and norm < float("inf")  # both False for NaN
        self.num_in_a_row = 0 if is_finite else self.num_in_a_row + 1
        self.num_skipped += not is_finite
        return is_finite

    @property
    def is_lost(self) -> bool:
        return self.num_in_a_row >= self.max_in_a_row


class Ema:
    """Exponential moving average of the trained weights, float32: ema <- decay ema + (1 - decay) weight."""

    def __init__(self, params: dict[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.params = params
        self.averages = {name: param.detach().clone() for name, param in params.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After update number `step` (from 0). Early on the average follows faster, or it would remember the start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), list(self.params.values()), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages; call again to change back."""
        for name, param in self.params.items():
            average = self.averages[name]
            kept = param.detach().clone()
            param.copy_(average)
            average.copy_(kept)
