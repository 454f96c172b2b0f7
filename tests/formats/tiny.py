"""Tiny configurations and random weights for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tramontane.config.model_config import ModelConfig, MoeConfig
from tramontane.formats.names import canonical_shapes
from tramontane.formats.read import plan_reads, read_part, require_equal
from tramontane.formats.tensor_source import TensorSource

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


def read_tensors(source: TensorSource, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """(canonical name, tensor) for every tensor of the model, as a loader goes about it."""
    for read in plan_reads(source, config):
        for part in read.parts:
            if part.must_equal is not None:
                require_equal(source, read.file_name, part.must_equal, config)
            else:
                yield part.name, read_part(source, read, part)
