"""Random weights for a model trained from scratch."""

from __future__ import annotations

import torch

from tramontane.model.linear import Linear
from tramontane.model.norm import RmsNorm
from tramontane.model.transformer import Transformer


@torch.no_grad()
def initialise(model: Transformer, *, seed: int, std: float = 0.02) -> None:
    """Normal weights of deviation `std`; the projections that write to the residual stream (wo, w2) are scaled by
    1 / sqrt(2 n_layers), so that its variance does not grow with depth (GPT-2). Norms are one.

    The numbers are drawn on the CPU in parameter order: the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_std = std / (2 * model.config.n_layers) ** 0.5

    def fill(weight: torch.Tensor, deviation: float) -> None:
        weight.copy_(torch.empty(weight.shape).normal_(0.0, deviation, generator=generator))

    for name, module in model.named_modules():
        if isinstance(module, RmsNorm):
            module.weight.fill_(1.0)
        elif isinstance(module, Linear):
            fill(module.weight, residual_std if name.endswith((".wo", ".w2")) else std)
    fill(model.tok_embeddings.weight, std)
