"""Putting weights into a model built without any, and proving that none is missing."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from torch import nn

from tramontane.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.loading.checkpoint import Checkpoint


def place_parameter(model: nn.Module, name: str, weight: Tensor) -> None:
    """Replace the parameter `name`, still without data, by `weight`."""
    owner, _, attribute = name.rpartition(".")
    module = model.get_submodule(owner)
    empty = module.get_parameter(attribute)
    if prod(empty.shape) != weight.numel() or empty.shape != weight.shape or not empty.is_meta:
        raise CheckpointError(f"{name} has no place of shape {tuple(weight.shape)} in the model")
    setattr(module, attribute, nn.Parameter(weight, requires_grad=empty.requires_grad))


def require_filled(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError if a parameter is still without data."""
    empty = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if empty:
        raise CheckpointError(f"{checkpoint.path}: {len(empty)} tensors were not filled, {empty[0]!r} the first")
