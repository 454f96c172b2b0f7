"""A larger model that begins as a smaller one: it computes the same function, and every weight of it can learn.

In width after Net2Net (Chen et al. 2015, arXiv:1511.05641) and in depth after LLaMA Pro (Wu et al. 2024,
arXiv:2401.02415): whatever writes into the residual stream gets zeros for what is new, whatever reads from it keeps its
random start there. So new dimensions, heads, hidden units and layers contribute nothing at first, and their gradients
are not zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tramontane.config import ModelConfig
from tramontane.errors import ConfigError
from tramontane.model.transformer import Transformer

READING = ("wk", "wv", "w1", "w3")


@torch.no_grad()
def grow(model: Transformer, smaller: Transformer) -> None:
    """Make `model`, just initialised at random, compute what `smaller` does.

    Raises ConfigError where a size is less than before, or where what cannot grow differs: vocabulary, keys and values,
    head size, rotary embedding, experts, tied embeddings.
    """
    old, new = smaller.config, model.config
    _require_growth(old, new)
    given = smaller.state_dict()
    heads = _kept_heads(old, new)
    for name, weight in model.state_dict().items():
        layer, part = _place(name)
        source, is_copy = _source_layer(layer, old, new)
        value = given[name.replace(f"layers.{layer}.", f"layers.{source}.", 1)].to(weight)
        if part.endswith("norm"):
            # the mean of the squares is taken over more dimensions, of which the new ones are zero
            value = value * math.sqrt(old.dim / new.dim)
            weight.fill_(value.mean())
            weight[: old.dim] = value
        elif part == "tok_embeddings":
            weight[:, : old.dim] = value
            weight[:, old.dim :] = 0.0
        elif part == "output":
            weight[:, : old.dim] = value
        elif part == "wq":
            weight[heads, : old.dim] = value
        elif part in READING:
            weight[: value.shape[0], : old.dim] = value
        else:  # wo and w2
            weight.zero_()
            if not is_copy:
                weight[: old.dim, heads if part == "wo" else slice(old.hidden_dim)] = value


def _place(name: str) -> tuple[int | None, str]:
    """`layers.3.attention.wq.weight` -> (3, "wq")"""
    parts = name.split(".")
    return (int(parts[1]) if parts[0] == "layers" else None), parts[-2]


def _source_layer(layer: int | None, old: ModelConfig, new: ModelConfig) -> tuple[int | None, bool]:
    """The layer that `layer` begins as, and whether an earlier one is that layer already."""
    if layer is None:
        return None, False
    source = layer * old.n_layers // new.n_layers
    return source, layer > 0 and (layer - 1) * old.n_layers // new.n_layers == source


def _kept_heads(old: ModelConfig, new: ModelConfig) -> Tensor:
    """Rows of the new wq that hold the old one's: a query head stays with its head of keys."""
    old_group, new_group = old.n_heads // old.n_kv_heads, new.n_heads // new.n_kv_heads
    rows = torch.arange(new.n_heads * new.head_dim).view(new.n_kv_heads, new_group, new.head_dim)
    return rows[:, :old_group].reshape(-1)


def _require_growth(old: ModelConfig, new: ModelConfig) -> None:
    for size in ("dim", "n_layers", "n_heads", "hidden_dim"):
        before, after = getattr(old, size), getattr(new, size)
        if after < before:
            raise ConfigError(f"model.{size}={after} is less than the {before} of model.grown_from")
    if old.moe is not None or new.moe is not None:
        raise ConfigError("model.grown_from: a mixture of experts cannot be grown")
    alike = ("vocab_size", "n_kv_heads", "head_dim", "rope_theta", "rope_scaling", "norm_eps", "tied_embeddings")
    for size in alike:
        before, after = getattr(old, size), getattr(new, size)
        if after != before:
            raise ConfigError(f"model.{size}={after} must be {before}, as in model.grown_from")
