"""SHAPES: the released models' shapes by name, and small ones for tests, as configurations for synthetic weights."""

from __future__ import annotations

import dataclasses
from typing import Any

from tramontane.config import ModelConfig, MoeConfig
from tramontane.errors import ConfigError


def _shape(
    dim: int,
    n_layers: int,
    n_heads: int,
    hidden_dim: int,
    vocab_size: int,
    *,
    windows: tuple[int | None, ...] = (None,),
    **fields: Any,
) -> ModelConfig:
    defaults: dict[str, Any] = {
        "family": "mistral",
        "n_kv_heads": 8,
        "head_dim": 128,
        "norm_eps": 1e-5,
        "rope_theta": 1e6,
        "max_seq_len": 32768,
    }
    return ModelConfig(
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        hidden_dim=hidden_dim,
        vocab_size=vocab_size,
        sliding_windows=_tiled(windows, n_layers),
        **(defaults | fields),
    )


def _tiled(windows: tuple[int | None, ...], n_layers: int) -> tuple[int | None, ...]:
    return tuple(windows[layer % len(windows)] for layer in range(n_layers))


_MOE = MoeConfig(num_experts=8, num_experts_per_tok=2)
_LLAMA: dict[str, Any] = {"family": "llama", "rope_theta": 1e4, "max_seq_len": 4096}
_TINY: dict[str, Any] = {"n_kv_heads": 2, "head_dim": 16, "rope_theta": 1e4, "max_seq_len": 4096}

SHAPES: dict[str, ModelConfig] = {
    "mistral-7b-v0.1": _shape(4096, 32, 32, 14336, 32000, windows=(4096,), rope_theta=1e4),
    "mistral-7b": _shape(4096, 32, 32, 14336, 32768),  # v0.3
    "mixtral-8x7b": _shape(4096, 32, 32, 14336, 32000, family="mixtral", moe=_MOE),
    "mixtral-8x22b": _shape(6144, 56, 48, 16384, 32768, family="mixtral", moe=_MOE, max_seq_len=65536),
    "nemo-12b": _shape(5120, 40, 32, 14336, 131072, max_seq_len=131072),
    "ministral-8b": _shape(
        4096, 36, 32, 12288, 131072, windows=(None, 32768, 32768, 32768), rope_theta=1e8, max_seq_len=131072
    ),
    "small-22b": _shape(6144, 56, 48, 16384, 32768),
    "small-24b": _shape(5120, 40, 32, 32768, 131072, rope_theta=1e9, max_seq_len=131072),
    "large-123b": _shape(12288, 88, 96, 28672, 32768, max_seq_len=131072),
    "llama-2-7b": _shape(4096, 32, 32, 11008, 32000, n_kv_heads=32, **_LLAMA),
    "llama-2-13b": _shape(5120, 40, 40, 13824, 32000, n_kv_heads=40, **_LLAMA),
    "llama-2-70b": _shape(8192, 80, 64, 28672, 32000, **_LLAMA),
    "mini-16m": _shape(
        384, 8, 6, 1024, 8192, windows=(512,), n_kv_heads=2, head_dim=64, max_seq_len=4096, tied_embeddings=True
    ),
    "tiny": _shape(256, 2, 4, 512, 32000, **_TINY),
    "tiny-window": _shape(256, 4, 4, 512, 32000, windows=(None, 64), **_TINY),
    "tiny-moe": _shape(
        256, 2, 4, 512, 32000, family="mixtral", moe=MoeConfig(num_experts=4, num_experts_per_tok=2), **_TINY
    ),
}


def named_shape(name: str, **changes: Any) -> ModelConfig:
    """The shape `name` with some fields of ModelConfig changed; its windows are repeated over a new `n_layers`.

    Raises ConfigError for a name or field that does not exist, or a shape that cannot be.
    """
    if name not in SHAPES:
        raise ConfigError(f"shape {name!r} is unknown; use one of {', '.join(SHAPES)}")
    config = SHAPES[name]
    known = [field.name for field in dataclasses.fields(ModelConfig)]
    unknown = sorted(changes.keys() - set(known))
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is no field of a shape; use one of {', '.join(known)}")
    n_layers = changes.get("n_layers", config.n_layers)
    if isinstance(n_layers, int) and 0 < n_layers <= 4096:
        changes = {"sliding_windows": _tiled(config.sliding_windows, n_layers)} | changes
    return dataclasses.replace(config, **changes)
