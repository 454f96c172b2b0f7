"""Tiny configurations and random weights for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tramontane.config.model_config import ModelConfig, MoeConfig
from tramontane.formats.names import canonical_shapes

MISTRAL = ModelConfig(
    family="mistral",
    dim=64,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,  # not dim / n_heads, as in Nemo
    hidden_dim=96,
    vocab_size=40,
    norm_eps=1e-5,
    rope_theta=10000.0,
    max_seq_len=128,
    sliding_windows=(16, 16),
)
TIED = replace(MISTRAL, tied_embeddings=True)
MIXTRAL = replace(MISTRAL, family="mixtral", moe=MoeConfig(num_experts=3, num_experts_per_tok=2))


def random_weights(config: ModelConfig, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """Canonical name -> weights, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in canonical_shapes(config).items()}
