"""Packed weights inside the model: each Linear and the embedding may hold a PackedWeight in place of its parameter.

Files keep the stock layout; this one is private to memory. A model whose weights are all packed also gets a Decoder,
which computes a whole step over the engine's pages in one native call, with the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from tramontane.errors import ConfigError
from tramontane.model.feed_forward import FeedForward
from tramontane.model.linear import Linear
from tramontane.model.norm import RmsNorm
from tramontane.model.transformer import TokenEmbeddings
from tramontane.ops.decoder import Decoder, DecoderShape, PackedFeedForward, PackedLayer
from tramontane.ops.packed_weight import PackedWeight, WeightFormat

if TYPE_CHECKING:
    from tramontane.model.transformer import Layer, Transformer


def packable(model: nn.Module) -> Iterator[tuple[str, Linear | TokenEmbeddings]]:
    """(canonical name of its weight, module) of everything that can hold a packed weight."""
    for name, module in model.named_modules():
        if isinstance(module, Linear | TokenEmbeddings):
            yield f"{name}.weight", module


def set_packed(module: Linear | TokenEmbeddings, packed: PackedWeight) -> None:
    """Let `module` hold `packed` instead of its parameter. Raises ValueError if the shapes differ."""
    shape = (packed.out_features, packed.in_features)
    if module.shape != shape:
        raise ValueError(f"a weight of {module.shape} cannot be replaced by a packed one of {shape}")
    module.packed = packed
    module.register_parameter("weight", None)


def pack(model: Transformer, weight_format: WeightFormat) -> None:
    """Pack every weight of a model in memory; norms become float32, the compute dtype of packed models.

    The router of a mixture of experts stays float32. Raises ConfigError if the format cannot hold one of the weights.
    """
    for name, module in packable(model):
        if module.weight is not None:
            is_router = name.endswith(".gate.weight")
            set_packed(module, PackedWeight.from_tensor(module.weight.detach(), "f32" if is_router else weight_format))
    finish(model)


def finish(model: Transformer) -> None:
    """Once every weight is packed: norms to float32, and the Decoder.

    Raises ConfigError if a weight is not packed, or for attention heads of a shape the kernels do not cover.
    """
    for module in model.modules():
        if isinstance(module, RmsNorm):
            module.weight = nn.Parameter(module.weight.detach().to(torch.float32).contiguous(), requires_grad=False)
    config = model.config
    shape = DecoderShape(config.dim, config.n_heads, config.n_kv_heads, config.head_dim, config.norm_eps)
    try:
        model.decoder = Decoder(
            shape, _packed(model.tok_embeddings), [_layer(layer) for layer in model.layers], model.norm.weight.detach()
        )
    except ValueError as error:
        raise ConfigError(f"the CPU kernels cannot compute this model: {error}") from None


def _layer(layer: nn.Module) -> PackedLayer:
    given: Layer = layer  # type: ignore[assignment]  # what ModuleList forgets
    attention, feed_forward = given.attention, given.feed_forward
    if isinstance(feed_forward, FeedForward):
        experts, router, num_active = [_feed_forward(feed_forward)], None, 1
    else:
        experts = [_feed_forward(expert) for expert in feed_forward.experts]
        router, num_active = _packed(feed_forward.gate), feed_forward.num_active
    return PackedLayer(
        given.attention_norm.weight.detach(),
        given.ffn_norm.weight.detach(),
        _packed(attention.wq),
        _packed(attention.wk),
        _packed(attention.wv),
        _packed(attention.wo),
        experts,
        router,
        num_active,
    )


def _feed_forward(module: nn.Module) -> PackedFeedForward:
    if not isinstance(module, FeedForward):
        raise TypeError(f"{type(module).__name__} is no feed-forward network")
    return PackedFeedForward(_packed(module.w1), _packed(module.w2), _packed(module.w3))


def _packed(module: Linear | TokenEmbeddings) -> PackedWeight:
    if module.packed is None:
        raise ConfigError("a packed model needs every weight packed; one is missing")
    return module.packed
