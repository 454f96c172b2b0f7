"""Low-rank adapters (arXiv:2106.09685): W x + (alpha / rank) B A x, kept apart from the base weight."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tramontane.errors import ConfigError
from tramontane.model.linear import Linear

ATTENTION = ("wq", "wk", "wv", "wo")
ALL_LINEARS = (*ATTENTION, "w1", "w2", "w3")


class Lora(nn.Module):
    """A_RI starts random, B_OR zero, so that a fresh adapter changes nothing."""

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.dropout = dropout
        self.a = nn.Parameter(torch.empty(rank, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x_TI: Tensor) -> Tensor:
        x_TI = F.dropout(x_TI, self.dropout, self.training) if self.dropout else x_TI
        return F.linear(F.linear(x_TI, self.a.to(x_TI.dtype)), self.b.to(x_TI.dtype)) * self.scale

    def delta(self) -> Tensor:
        """The weight change this adapter stands for, (out_features, in_features)."""
        return (self.b @ self.a) * self.scale


def attach_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: Collection[str] = ALL_LINEARS,
) -> list[str]:
    """Give every Linear whose last name is in `targets` a fresh adapter and freeze everything else.

    Returns the names of the adapted linears. Raises ConfigError for an impossible rank or a target that
    names nothing in the model.
    """
    if rank < 1:
        raise ConfigError(f"LoRA rank={rank} must be at least 1")
    unknown = sorted(set(targets) - set(ALL_LINEARS))
    if unknown or not targets:
        raise ConfigError(f"LoRA targets {unknown or 'are empty'}; choose among {', '.join(ALL_LINEARS)}")
    model.requires_grad_(False)
    adapted = []
    for name, module in list(model.named_modules()):
        if isinstance(module, Linear) and name.rpartition(".")[2] in targets:
            lora = Lora(module.in_features, module.out_features, rank, alpha, dropout)
            module.lora = lora.to(module.device)
            adapted.append(name)
    return adapted


@torch.no_grad()
def merge_lora(model: nn.Module) -> int:
    """Fold every adapter into its base weight and remove it; returns how many there were.

    Raises ConfigError if a base weight is packed, whose format could not hold the sum.
    """
    num_merged = 0
    for module in model.modules():
        if isinstance(module, Linear) and isinstance(module.lora, Lora):
            if module.packed is not None:
                raise ConfigError(
                    f"an adapter cannot be merged into {module.packed.format} weights; load them in a dtype"
                )
            module.weight.copy_((module.weight.float() + module.lora.delta().float()).to(module.weight.dtype))
            module.lora = None
            num_merged += 1
    return num_merged


@contextmanager
def without_lora(model: nn.Module) -> Iterator[None]:
    """Inside the block the model computes as its base alone; the adapters come back at the end."""
    adapters = {module: module.lora for module in model.modules() if isinstance(module, Linear) and module.lora}
    try:
        for module in adapters:
            module.lora = None
        yield
    finally:
        for module, lora in adapters.items():
            module.lora = lora
