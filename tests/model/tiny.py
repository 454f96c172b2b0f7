"""Small random transformers of our own for tests of the model and of what is built on it."""

from __future__ import annotations

from typing import Any

from tramontane.config import ModelConfig
from tramontane.model.init import initialise
from tramontane.model.transformer import Transformer
from tramontane.ops.torch_ops import TorchOps


def tiny_config(**changes: Any) -> ModelConfig:
    """Three layers of width 48; `sliding_windows` may be given as one window for all layers."""
    fields: dict[str, Any] = {
        "family": "mistral",
        "dim": 48,
        "n_layers": 3,
        "n_heads": 6,
        "n_kv_heads": 2,
        "head_dim": 8,
        "hidden_dim": 80,
        "vocab_size": 101,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_seq_len": 512,
        "sliding_windows": None,
    } | changes
    if not isinstance(fields["sliding_windows"], tuple):
        fields["sliding_windows"] = (fields["sliding_windows"],) * fields["n_layers"]
    return ModelConfig(**fields)


def tiny_model(config: ModelConfig | None = None, *, seed: int = 0) -> Transformer:
    """Float32 on the CPU; weights large enough that logits spread and attention is not uniform."""
    model = Transformer(config or tiny_config(), TorchOps())
    initialise(model, seed=seed, std=0.2)
    return model.requires_grad_(False)
