"""A model made ready for training: operations, compute dtype, compiled or checkpointed layers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tramontane.config import ModelConfig
from tramontane.model.attention import Attention
from tramontane.model.feed_forward import FeedForward
from tramontane.model.init import initialise
from tramontane.model.linear import Linear
from tramontane.model.moe import MoeFeedForward
from tramontane.model.norm import RmsNorm
from tramontane.model.transformer import Transformer
from tramontane.ops.training_ops import TrainingOps

COMPUTING = (Attention, FeedForward, Linear, MoeFeedForward, RmsNorm, Transformer)


def new_model(config: ModelConfig, *, device: torch.device, seed: int, std: float) -> Transformer:
    """Random float32 weights, the same on every device for one seed."""
    model = Transformer(config, TrainingOps(compiled=False))
    initialise(model, seed=seed, std=std)
    return model.to(device)


def prepare(
    model: Transformer, *, compute_dtype: torch.dtype, compiled: bool, checkpointing: bool
) -> tuple[int | None, ...]:
    """Make `model` trainable in place; returns the windows that its layers' attention contexts are to be given.

    Weights stay float32 masters; activations are `compute_dtype` from the embedding on. With `compiled`, a layer is
    compiled once for all: a compiler specialises on every integer of a module, so while training `attention.layer`
    holds the number of the layer's window group rather than its own.
    """
    ops = TrainingOps(compiled=compiled)
    for module in model.modules():
        if isinstance(module, COMPUTING):
            module.ops = ops
    model.tok_embeddings.register_forward_hook(partial(_cast, compute_dtype))
    windows = model.config.sliding_windows
    if compiled:
        windows = model.config.windows
        for layer, window in zip(model.layers, model.config.sliding_windows, strict=True):
            attention: Any = layer.attention
            attention.layer = windows.index(window)
    for layer in model.layers:
        run: Any = layer.forward
        if compiled:
            run = torch.compile(run, dynamic=False)
        if checkpointing:
            run = partial(checkpoint, run, use_reentrant=False)
        layer.forward = run
    model.train()
    return windows


def _cast(dtype: torch.dtype, _module: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
    return output.to(dtype)
