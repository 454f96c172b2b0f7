"""ModelConfig: the one description of a model that everything else is driven by.

Field names mirror `params.json` of the consolidated checkpoints. The object is frozen and complete: readers
resolve every default, so nothing downstream guesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tramontane.errors import ConfigError

Family = Literal["mistral", "mixtral", "llama"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeConfig:
    """Sparse mixture-of-experts: `num_experts_per_tok` of `num_experts` run for each token."""

    num_experts: int
    num_experts_per_tok: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Stretching of the rotary embedding beyond the length a model was trained on.

    kind `linear`: positions are divided by `factor` (arXiv:2306.15595). kind `yarn`: per-frequency
    interpolation between `beta_fast` and `beta_slow` rotations over `original_max_seq_len`
    (arXiv:2309.00071); cos and sin are multiplied by `attention_factor`.
    """

    kind: Literal["linear", "yarn"]
    factor: float
    original_max_seq_len: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True  # round the yarn correction range to whole dimensions, as transformers does

    def __post_init__(self) -> None:
        for name in ("factor", "attention_factor", "beta_fast", "beta_slow"):
            if not 0 < getattr(self, name) <= 1e6:
                raise ConfigError(f"rope scaling {name}={getattr(self, name)!r} must be above 0 and at most 1e6")
        if self.kind == "linear":
            return
        if self.original_max_seq_len is None or not 1 <= self.original_max_seq_len < 2**31:
            raise ConfigError(f"rope scaling original_max_seq_len={self.original_max_seq_len!r} must be at least 1")
        if self.beta_fast < self.beta_slow:
            raise ConfigError(f"rope scaling beta_fast={self.beta_fast!r} is below beta_slow={self.beta_slow!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One decoder-only transformer. `sliding_windows[l]` is the window W of layer l (a token sees W keys,
    itself included) or None for full attention."""

    family: Family
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    max_seq_len: int
    sliding_windows: tuple[int | None, ...]
    rope_scaling: RopeScaling | None = None
    moe: MoeConfig | None = None
    tied_embeddings: bool = False

    def __post_init__(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size", "max_seq_len"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
                raise ConfigError(f"{name}={value!r} must be a whole number from 1 to 2^31 - 1")
        if self.n_layers > 4096:
            raise ConfigError(f"n_layers={self.n_layers} is beyond any model of this family (4096 at most)")
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(f"n_heads={self.n_heads} must be a multiple of n_kv_heads={self.n_kv_heads}")
        if self.head_dim % 2:
            raise ConfigError(f"head_dim={self.head_dim} must be even for the rotary embedding")
        if not 0 < self.norm_eps < 1:
            raise ConfigError(f"norm_eps={self.norm_eps!r} must lie between 0 and 1")
        if not 1 < self.rope_theta < 1e12:
            raise ConfigError(f"rope_theta={self.rope_theta!r} must lie between 1 and 1e12")
        if len(self.sliding_windows) != self.n_layers:
            raise ConfigError(f"{len(self.sliding_windows)} sliding windows given for n_layers={self.n_layers}")
        for window in self.sliding_windows:
            if window is not None and not 1 <= window < 2**31:
                raise ConfigError(f"sliding_window={window!r} must be at least 1")
        if self.moe and not 1 <= self.moe.num_experts_per_tok <= self.moe.num_experts <= 4096:
            raise ConfigError(
                f"num_experts_per_tok={self.moe.num_experts_per_tok} must lie between 1 and "
                f"num_experts={self.moe.num_experts} (4096 at most)"
            )

    @property
    def heads_per_kv(self) -> int:
        return self.n_heads // self.n_kv_heads

    @property
    def reach(self) -> int | None:
        """How many tokens, itself included, what is computed for one can depend on through all layers; None where a
        layer sees everything."""
        if None in self.sliding_windows:
            return None
        return 1 + sum(window - 1 for window in self.sliding_windows if window is not None)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The distinct windows, one per window group of the KV cache, full attention first, then descending."""
        return tuple(sorted(set(self.sliding_windows), key=lambda w: float("-inf") if w is None else -w))

    def num_parameters(self, *, active: bool = False) -> int:
        """Weights in the model; with `active`, only those one token passes through (mixture-of-experts)."""
        attention = self.dim * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        expert = 3 * self.dim * self.hidden_dim
        if self.moe is None:
            feed_forward = expert
        else:
            num_experts = self.moe.num_experts_per_tok if active else self.moe.num_experts
            feed_forward = expert * num_experts + self.dim * self.moe.num_experts
        embeddings = self.vocab_size * self.dim * (1 if self.tied_embeddings else 2)
        return embeddings + self.n_layers * (attention + feed_forward + 2 * self.dim) + self.dim
