"""Metadata of GGUF files, architectures `llama` and `mistral3`: what llama.cpp's converters write for Llama, Mistral
and Mixtral, and for the text part of Mistral3ForConditionalGeneration (Small 3.1 and later).

Key names: the GGUF specification (ggml/docs/gguf.md) and llama.cpp's src/llama-arch.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from tramontane.config.fields import Fields
from tramontane.config.model_config import ModelConfig, MoeConfig, RopeScaling
from tramontane.config.rope import yarn_mscale
from tramontane.errors import ConfigError

SOURCE = "GGUF metadata"

_ARCHITECTURES = ("llama", "mistral3")


def read_gguf_config(
    metadata: Mapping[str, Any], *, vocab_size: int | None = None, tied_embeddings: bool = False
) -> ModelConfig:
    """The model that the key-value pairs of a GGUF file describe.

    The file leaves two facts to its tensors: `vocab_size` (rows of `token_embd.weight`) if the key is absent, and
    `tied_embeddings` (no `output.weight`). llama.cpp writes no sliding window for this architecture; ours are read
    back. Raises ConfigError for another architecture, or a key or value that cannot be honoured.
    """
    top = Fields(metadata, SOURCE)
    architecture = top.text("general.architecture")
    if architecture not in _ARCHITECTURES:
        top.refuse("general.architecture", "is not supported; llama and mistral3 are (Llama, Mistral, Mixtral)")
    top.expect("general.type", "model", reason="is not a model by itself; name the model's own .gguf file")
    # Only keys of the architecture's own namespace say what is computed; others tell where the file comes from.
    own = f"{architecture}."
    fields = Fields({k.removeprefix(own): v for k, v in metadata.items() if k.startswith(own)}, SOURCE, own)
    _check_architecture(fields)
    dim, n_layers = fields.integer("embedding_length"), fields.integer("block_count")
    if not 1 <= n_layers <= 4096:
        fields.refuse("block_count", "must lie between 1 and 4096")
    n_heads = _same_in_all_layers(fields, "attention.head_count")
    hidden_dim = _same_in_all_layers(fields, "feed_forward_length")
    if n_heads is None or hidden_dim is None:
        fields.refuse("attention.head_count" if n_heads is None else "feed_forward_length", "is missing")
    n_kv_heads = _same_in_all_layers(fields, "attention.head_count_kv")
    theta = fields.optional_number("rope.freq_base")
    windows = _read_windows(fields, n_layers)
    moe = _read_moe(fields)
    config = ModelConfig(
        family="mixtral" if moe else "mistral" if any(windows) else "llama",
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads if n_kv_heads is None else n_kv_heads,
        head_dim=_read_head_dim(fields, dim // max(n_heads, 1)),
        hidden_dim=hidden_dim,
        vocab_size=_read_vocab_size(fields, vocab_size),
        norm_eps=_from_float32(fields.number("attention.layer_norm_rms_epsilon")),
        rope_theta=1e4 if theta is None else _from_float32(theta),
        max_seq_len=fields.integer("context_length"),
        sliding_windows=windows,
        rope_scaling=_read_rope_scaling(fields),
        moe=moe,
        tied_embeddings=tied_embeddings,
    )
    fields.finish()
    return config


def to_gguf_metadata(config: ModelConfig) -> dict[str, Any]:
    """Key-value pairs that describe `config`, `general.architecture` included: int is uint32, float is float32.

    llama.cpp ignores sliding windows in this architecture (it attends to everything); they are written for
    `read_gguf_config`. Raises ConfigError for what llama.cpp would silently compute otherwise.
    """
    windows = [window for window in config.windows if window is not None]
    if len(windows) > 1:
        raise ConfigError(f"sliding windows {windows} have no GGUF form; write the consolidated layout")
    data: dict[str, Any] = {
        "context_length": config.max_seq_len,
        "embedding_length": config.dim,
        "block_count": config.n_layers,
        "feed_forward_length": config.hidden_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope_theta),
        "vocab_size": config.vocab_size,
    }
    if windows:
        data["attention.sliding_window"] = windows[0]
    if len(config.windows) > 1:
        data["attention.sliding_window_pattern"] = [window is not None for window in config.sliding_windows]
    if config.moe is not None:
        data["expert_count"] = config.moe.num_experts
        data["expert_used_count"] = config.moe.num_experts_per_tok
    if config.rope_scaling is not None:
        data |= _to_rope_scaling(config.rope_scaling)
    return {"general.architecture": "llama", **{f"llama.{key}": value for key, value in data.items()}}


def _check_architecture(fields: Fields) -> None:
    fields.expect("attention.temperature_scale", 0, reason="scales queries by position, which is not supported")
    fields.ignore("attention.temperature_length")  # of that scale
    fields.expect("attention.causal", True, reason="is not supported; only causal models are")
    fields.expect("attention.scale", 0, reason="replaces the scale of attention, which is not supported")
    fields.expect("attention.clamp_kqv", 0, reason="is not supported")
    fields.expect("logit_scale", 0, 1, reason="scales the logits, which is not supported")
    fields.expect("use_parallel_residual", False, reason="is not supported")
    fields.expect("tensor_data_layout", "Meta AI original pth", reason="is not a known layout; convert it again")
    fields.expect("expert_shared_count", 0, reason="adds shared experts, which are not supported")
    fields.expect("expert_gating_func", 0, 1, reason="is not supported; softmax over the chosen experts is")
    fields.expect("expert_weights_norm", True, reason="is not supported; the chosen experts' weights sum to 1")
    fields.expect("expert_weights_scale", 0, 1, reason="scales the experts, which is not supported")


def _same_in_all_layers(fields: Fields, key: str) -> int | None:
    """A whole number, or an array that repeats one for every layer."""
    if not fields.is_list(key):
        return fields.optional_integer(key)
    values = fields.optional_list(key) or []
    if not values or type(values[0]) is not int or values.count(values[0]) != len(values):
        fields.refuse(key, "differs between layers, which is not supported")
    return int(values[0])


def _read_head_dim(fields: Fields, default: int) -> int:
    key_length = fields.optional_integer("attention.key_length")
    head_dim = default if key_length is None else key_length
    for key in ("attention.value_length", "rope.dimension_count"):
        if fields.optional_integer(key) not in (None, head_dim):
            fields.refuse(key, f"differs from the head size {head_dim}, which is not supported")
    return head_dim


def _read_vocab_size(fields: Fields, from_tensor: int | None) -> int:
    stated = fields.optional_integer("vocab_size")
    if stated is None and from_tensor is None:
        fields.refuse("vocab_size", "is missing; it is read from token_embd.weight when the file is opened")
    if stated is not None and from_tensor is not None and stated != from_tensor:
        fields.refuse("vocab_size", f"does not match the {from_tensor} rows of token_embd.weight")
    return stated or from_tensor or 0


def _read_windows(fields: Fields, n_layers: int) -> tuple[int | None, ...]:
    window = fields.optional_integer("attention.sliding_window")
    pattern = fields.optional_list("attention.sliding_window_pattern")
    if window == 0:  # llama.cpp: no window
        window = None
    if pattern is None:
        return (window,) * n_layers
    if len(pattern) != n_layers or not all(isinstance(windowed, bool) for windowed in pattern):
        fields.refuse("attention.sliding_window_pattern", f"must hold true or false for each of {n_layers} layers")
    if window is None and any(pattern):
        fields.refuse("attention.sliding_window", "is needed by the layers of sliding_window_pattern")
    return tuple(window if windowed else None for windowed in pattern)


def _read_moe(fields: Fields) -> MoeConfig | None:
    num_experts = fields.optional_integer("expert_count")
    if num_experts is None or num_experts == 0:
        fields.expect("expert_used_count", 0, reason="needs expert_count")
        return None
    return MoeConfig(num_experts=num_experts, num_experts_per_tok=fields.integer("expert_used_count"))


def _read_rope_scaling(fields: Fields) -> RopeScaling | None:
    """As llama.cpp computes it: for architecture llama, yarn betas are 32 and 1, whatever the file says."""
    fields.ignore("rope.scaling.finetuned")
    fields.expect("rope.scaling.alpha", 0, reason="is a scaling that is not supported")
    fields.expect("rope.scaling.yarn_ext_factor", -1, 1, reason="is not supported; yarn mixes with weight 1")
    fields.expect("rope.scaling.yarn_attn_factor", 1, reason="is not supported; use rope.scaling.attn_factor")
    fields.expect("rope.scaling.yarn_log_multiplier", 0, reason="is not supported")
    fields.expect(
        "rope.scaling.yarn_beta_fast", 32, reason="is not supported; 32 is, which architecture llama always has"
    )
    fields.expect(
        "rope.scaling.yarn_beta_slow", 1, reason="is not supported; 1 is, which architecture llama always has"
    )
    legacy_factor = fields.optional_number("rope.scale_linear")
    factor = fields.optional_number("rope.scaling.factor")
    factor = legacy_factor if factor is None else factor
    kind = fields.optional_text("rope.scaling.type") or "linear"  # llama.cpp's default where only a factor is given
    original = fields.optional_integer("rope.scaling.original_context_length")
    attn_factor = fields.optional_number("rope.scaling.attn_factor")
    if kind not in ("none", "linear", "yarn"):
        fields.refuse("rope.scaling.type", "is not supported; none, linear and yarn are")
    if kind == "none" or factor is None or factor == 0:
        return None
    factor = _from_float32(factor)
    if kind == "linear":
        if attn_factor not in (None, 1):
            fields.refuse("rope.scaling.attn_factor", "goes with yarn only")
        return None if factor == 1 else RopeScaling(kind="linear", factor=factor)
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_max_seq_len=fields.integer("context_length") if original is None else original,
        attention_factor=yarn_mscale(factor) * (1.0 if attn_factor is None else attn_factor),
    )


def _to_rope_scaling(scaling: RopeScaling) -> dict[str, Any]:
    data: dict[str, Any] = {"rope.scaling.type": scaling.kind, "rope.scaling.factor": float(scaling.factor)}
    if scaling.kind == "yarn":
        if (scaling.beta_fast, scaling.beta_slow, scaling.truncate) != (32, 1, True):
            raise ConfigError(
                f"yarn with beta_fast={scaling.beta_fast}, beta_slow={scaling.beta_slow}, truncate={scaling.truncate} "
                "has no GGUF form (llama.cpp uses 32, 1, True); write the hf layout"
            )
        data["rope.scaling.original_context_length"] = scaling.original_max_seq_len
        data["rope.scaling.attn_factor"] = scaling.attention_factor / yarn_mscale(scaling.factor)
    return data


def _from_float32(value: float) -> float:
    """The shortest decimal of the same float32: GGUF stores 1e-5 as 9.99999974738e-06."""
    stored = _float32_bits(value)
    for digits in range(1, 10):
        shorter = float(f"{value:.{digits}g}")
        if _float32_bits(shorter) == stored:
            return shorter
    return value


def _float32_bits(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<d", value)
