"""Low-rank adapters (arXiv:2106.09685): W x + scale B A x, kept apart from the base weight."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tramontane.errors import ConfigError
from tramontane.model.linear import Linear

ATTENTION = ("wq", "wk", "wv", "wo")
ALL_LINEARS = (*ATTENTION, "w1", "w2", "w3")


@dataclass(frozen=True, slots=True)
class LowRankShape:
    """Of the adapter of one linear; `scale` is what B A is multiplied by: alpha / rank in the paper."""

    rank: int
    scale: float


class Lora(nn.Module):
    """A_RI starts random, B_OR zero, so that a fresh adapter changes nothing."""

    def __init__(self, in_features: int, out_features: int, shape: LowRankShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = shape.scale
        self.dropout = dropout
        self.a = nn.Parameter(torch.empty(shape.rank, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, shape.rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x_TI: Tensor) -> Tensor:
        x_TI = F.dropout(x_TI, self.dropout, self.training) if self.dropout else x_TI
        return F.linear(F.linear(x_TI, self.a.to(x_TI.dtype)), self.b.to(x_TI.dtype)) * self.scale

    def delta(self) -> Tensor:
        """The weight change this adapter stands for, (out_features, in_features)."""
        return (self.b @ self.a) * self.scale


def require_lora(rank: int, alpha: float, dropout: float, targets: Collection[str]) -> None:
    """Raises ConfigError for an impossible rank, scale or dropout, or targets that no model has."""
    if rank < 1:
        raise ConfigError(f"LoRA rank={rank} must be at least 1")
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ConfigError(f"LoRA alpha={alpha} must be a number above 0")
    if not 0 <= dropout < 1:
        raise ConfigError(f"LoRA dropout={dropout} must be at least 0 and below 1")
    unknown = sorted(set(targets) - set(ALL_LINEARS))
    if unknown or not targets:
        raise ConfigError(f"LoRA targets {unknown or 'are empty'}; choose among {', '.join(ALL_LINEARS)}")


def attach_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: Collection[str] = ALL_LINEARS,
) -> dict[str, LowRankShape]:
    """Give every Linear whose last name is in `targets` a fresh adapter and freeze everything else.

    Returns what was attached by the linear's name. Raises ConfigError as `require_lora` does.
    """
    require_lora(rank, alpha, dropout, targets)
    shape = LowRankShape(rank, alpha / rank)
    shapes = {
        name: shape
        for name, module in model.named_modules()
        if isinstance(module, Linear) and name.rpartition(".")[2] in targets
    }
    attach_shapes(model, shapes, dropout)
    return shapes


def attach_shapes(model: nn.Module, shapes: Mapping[str, LowRankShape], dropout: float = 0.0) -> None:
    """Give the linears that `shapes` names a fresh adapter each, and freeze everything else."""
    model.requires_grad_(False)
    for name, shape in shapes.items():
        module = model.get_submodule(name)
        if not isinstance(module, Linear):
            raise ConfigError(f"{name!r} is no linear of this model, and can carry no adapter")
        module.lora = Lora(module.in_features, module.out_features, shape, dropout).to(module.device)


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


def frozen_lora(model: nn.Module) -> dict[Linear, nn.Module]:
    """The model's adapters as they are now: copies that learn nothing and drop nothing, for `replaced_lora`."""
    return {
        module: copy.deepcopy(module.lora).requires_grad_(False).eval()
        for module in model.modules()
        if isinstance(module, Linear) and module.lora is not None
    }


@contextmanager
def replaced_lora(adapters: Mapping[Linear, nn.Module | None]) -> Iterator[None]:
    """Inside the block these linears have these adapters, or none; their own come back at the end."""
    kept = {module: module.lora for module in adapters}
    try:
        for module, lora in adapters.items():
            module.lora = lora
        yield
    finally:
        for module, lora in kept.items():
            module.lora = lora


def without_lora(model: nn.Module) -> AbstractContextManager[None]:
    """Inside the block the model computes as its base alone; the adapters come back at the end."""
    return replaced_lora({module: None for module in model.modules() if isinstance(module, Linear) and module.lora})
