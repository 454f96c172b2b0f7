"""Linear: a weight without bias, computed by the chosen ops, with an optional LoRA adapter beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tramontane.model.adapter import RowAdapters
    from tramontane.ops.interface import Ops
    from tramontane.ops.packed_weight import PackedWeight


class Linear(nn.Module):
    """y_TO = x_TI @ weight_OI.T (+ lora(x)); no model of this family has biases."""

    weight: nn.Parameter  # absent where `packed` is set
    packed: PackedWeight | None
    lora: nn.Module | None  # maps x_TI to what is added to y_TO

    def __init__(self, in_features: int, out_features: int, ops: Ops) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.ops = ops
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.packed = None
        self.lora = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    @property
    def device(self) -> torch.device:
        return self.weight.device if self.packed is None else self.packed.storage.device

    def forward(self, x_TI: Tensor, adapters: RowAdapters | None = None) -> Tensor:
        """`adapters`: what rows of x carry on their own, beside `lora`, which is part of the model."""
        y_TO = self.ops.linear(x_TI, self.weight) if self.packed is None else self.ops.packed_linear(x_TI, self.packed)
        if adapters is not None:
            y_TO = adapters.add(self, x_TI, y_TO)
        return y_TO if self.lora is None else y_TO + self.lora(x_TI)
