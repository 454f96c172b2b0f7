"""Adapter: low-rank weights (arXiv:2106.09685) that the rows of a step may carry, each row its own or none.

Unlike `Lora`, which is part of a model in training, an Adapter stands beside a model that many share: a batch may mix
any adapters with the bare base, and what a row gets does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tramontane.errors import ConfigError
from tramontane.model.feed_forward import FeedForward
from tramontane.model.linear import Linear
from tramontane.ops.low_rank import AdaptedLayer, LowRank

if TYPE_CHECKING:
    from tramontane.model.transformer import Layer, Transformer
    from tramontane.ops._cpu import Adapter as NativeAdapter


class Adapter:
    """An adapter in memory, in the form one model computes with. `digest` names its content: equal digests, equal
    answers."""

    __slots__ = ("__weakref__", "digest", "low_ranks", "model", "native")

    def __init__(self, model: Transformer, weights: Mapping[str, tuple[Tensor, Tensor, float]], digest: str) -> None:
        """`weights`: A (rank, in), B (out, rank) and what their product is multiplied by, by the canonical name of a
        linear, such as `layers.0.attention.wq`. Raises ConfigError for a rank the kernels do not cover.
        """
        self.model = model
        self.digest = digest
        dtype = _dtype(model, weights)
        linears = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
        self.low_ranks = {
            linears[name]: LowRank.of(a_RI, b_OR, scale, dtype, model.device)
            for name, (a_RI, b_OR, scale) in weights.items()
        }
        self.native: NativeAdapter | None = None
        if model.decoder is not None:
            try:
                self.native = model.decoder.adapter([_adapted(layer, self.low_ranks) for layer in model.layers])
            except ValueError as error:
                raise ConfigError(f"the CPU kernels cannot compute this adapter: {error}") from None

    @property
    def num_bytes(self) -> int:
        return sum(low_rank.num_bytes for low_rank in self.low_ranks.values())


@dataclass(frozen=True, slots=True)
class RowAdapters:
    """The adapters of a step, and which of them each row has."""

    adapters: Sequence[Adapter]
    index_T: Tensor  # int32, -1: the bare base

    def take(self, rows_N: Tensor) -> RowAdapters:
        """Those of some of the rows."""
        return RowAdapters(self.adapters, self.index_T[rows_N])

    def add(self, linear: Linear, x_TI: Tensor, y_TO: Tensor) -> Tensor:
        """y plus what the rows' adapters add to this linear's product."""
        low_ranks = [adapter.low_ranks.get(linear) for adapter in self.adapters]
        return linear.ops.add_low_rank(y_TO, x_TI, low_ranks, self.index_T) if any(low_ranks) else y_TO

    @property
    def natives(self) -> list[NativeAdapter]:
        return [adapter.native for adapter in self.adapters if adapter.native is not None]


def _dtype(model: Transformer, weights: Mapping[str, tuple[Tensor, Tensor, float]]) -> torch.dtype:
    """The model's own; beside packed weights of at most 16 bits float16, half the traffic for less error than the base
    has, unless a weight lies beyond its range."""
    packed = model.tok_embeddings.packed
    if packed is None or packed.format == "f32":
        return model.dtype
    limit = torch.finfo(torch.float16).max
    is_within = all(float(w.abs().max()) < limit for a_RI, b_OR, _ in weights.values() for w in (a_RI, b_OR))
    return torch.float16 if is_within else torch.float32


def _adapted(layer: nn.Module, low_ranks: Mapping[Linear, LowRank]) -> AdaptedLayer:
    given: Layer = layer  # type: ignore[assignment]  # what ModuleList forgets
    attention, feed_forward = given.attention, given.feed_forward
    experts = [feed_forward] if isinstance(feed_forward, FeedForward) else feed_forward.experts
    find = low_ranks.get
    return AdaptedLayer(
        (find(attention.wq), find(attention.wk), find(attention.wv), find(attention.wo)),
        [(find(e.w1), find(e.w2), find(e.w3)) for e in experts if isinstance(e, FeedForward)],
    )
