"""Rotary angles: frequencies of each pair of channels, with linear and YaRN scaling."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tramontane.config import ModelConfig, RopeScaling
from tramontane.errors import ConfigError

FloatArray = NDArray[np.float32]


class RotaryEmbedding:
    """cos and sin per position, float32; no length is built in."""

    def __init__(self, config: ModelConfig) -> None:
        self.inv_freq_C = inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        self.magnitude = config.rope_scaling.attention_factor if config.rope_scaling else 1.0
        self._tables_LC: tuple[FloatArray, FloatArray] | None = None  # of positions 0 … L - 1

    def cos_sin(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """(T, C) each, C = head_dim / 2."""
        self.inv_freq_C = self.inv_freq_C.to(positions_T.device)
        angles_TC = positions_T.float()[:, None] * self.inv_freq_C
        return angles_TC.cos() * self.magnitude, angles_TC.sin() * self.magnitude

    def cached_cos_sin(self, positions_T: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """`cos_sin` of positions below `end` on the CPU, from tables that grow: a lookup is less than two cosines."""
        if self._tables_LC is None or end > len(self._tables_LC[0]):
            cos_LC, sin_LC = self.cos_sin(torch.arange(max(1024, 2 * end), device="cpu"))
            self._tables_LC = cos_LC.numpy(), sin_LC.numpy()  # which look a row up in a tenth of torch's time
        index_T = positions_T.numpy()
        cos_TC, sin_TC = (torch.from_numpy(table_LC[index_T]) for table_LC in self._tables_LC)
        return cos_TC, sin_TC


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """theta^(-2c / head_dim) for c = 0 … C-1, stretched as `scaling` says; (C,) float32 on the CPU.

    Raises ConfigError for YaRN without the length it was trained on.
    """
    exponents_C = torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").float() / head_dim
    base_C = 1.0 / theta**exponents_C
    if scaling is None:
        return base_C
    if scaling.kind == "linear":
        return base_C / scaling.factor
    if scaling.original_max_seq_len is None:
        raise ConfigError("YaRN rope scaling needs original_max_seq_len, the context length before stretching")

    def channel_of(num_rotations: float) -> float:
        """The channel whose wave turns `num_rotations` times over the original context (arXiv:2309.00071, 3.2)."""
        length = scaling.original_max_seq_len or 0
        return head_dim * math.log(length / (num_rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = channel_of(scaling.beta_fast), channel_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    span = (high - low) or 0.001
    interpolated_C = ((torch.arange(head_dim // 2, dtype=torch.float32, device="cpu") - low) / span).clamp(0, 1)
    # fast channels (0) keep their frequency, slow ones (1) are divided by the factor
    return base_C / scaling.factor * interpolated_C + base_C * (1 - interpolated_C)
