"""Adapters of a model in training: attached from a folder, and given back as tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tramontane.errors import ConfigError
from tramontane.loading.adapter_files import AdapterConfig, read_adapter
from tramontane.loading.classifier_files import HEAD
from tramontane.model.lora import attach_shapes
from tramontane.model.transformer import Transformer


def adapter_tensors(model: Transformer) -> dict[str, Tensor]:
    """Every adapter weight by canonical name, such as `layers.0.attention.wq.lora.a`."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if ".lora." in name}


def require_kind(folder: Path, *, tells_labels: bool) -> None:
    """Raise ConfigError for a classifier's adapter where no labels are to be learned."""
    if (folder / HEAD).exists() and not tells_labels:
        raise ConfigError(f"{folder} is a classifier's adapter; go on with samples that have labels (--task classify)")


@torch.no_grad()
def load_adapter(model: Transformer, folder: Path, *, dropout: float | None = None) -> AdapterConfig:
    """Attach the adapter in `folder` to `model`, everything else frozen. `dropout` None: as it was trained with.

    Raises CheckpointError if it does not fit.
    """
    config, tensors = read_adapter(folder, model.config)
    attach_shapes(model, config.shapes, config.dropout if dropout is None else dropout)
    places = adapter_tensors(model)
    for name, tensor in tensors.items():
        places[name].copy_(tensor)
    return config
