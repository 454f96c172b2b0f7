"""`params.json` of consolidated checkpoints: Mistral's and Meta's (Llama 1, Llama 2, Code Llama)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tramontane.config.fields import Fields
from tramontane.config.model_config import ModelConfig, MoeConfig, RopeScaling
from tramontane.config.rope import yarn_mscale
from tramontane.errors import ConfigError

SOURCE = "params.json"

# How the training run was laid out, and the vision encoder, whose tensors are not loaded.
# `lora` says how mistral-finetune trained; adapters that are not merged lie in tensors of their own
_INERT = ("dtype", "max_batch_size", "model_parallel", "torch_dtype", "vision_encoder", "lora")
_DEFAULT_MAX_SEQ_LEN = 32768  # of every Mistral model whose params.json does not say


def read_params_json(
    data: Mapping[str, Any], *, vocab_size: int | None = None, max_seq_len: int | None = None
) -> ModelConfig:
    """The model that `data`, a parsed `params.json`, describes.

    `vocab_size` (rows of `tok_embeddings.weight`) is needed where the file has none or -1, as Meta's have;
    `max_seq_len` is used where the file has none. Raises ConfigError for a key or value that cannot be honoured.
    """
    fields = Fields(data, SOURCE)
    is_meta = fields.has("multiple_of")
    _check_architecture(fields)
    dim, n_layers, n_heads = fields.integer("dim"), fields.integer("n_layers"), fields.integer("n_heads")
    n_kv_heads = fields.optional_integer("n_kv_heads")
    head_dim = fields.optional_integer("head_dim")
    norm_eps = fields.number("norm_eps")
    windows = _read_windows(fields, n_layers)
    theta = fields.optional_number("rope_theta")
    stated_len = _read_max_seq_len(fields)
    moe = _read_moe(fields)
    if is_meta:
        hidden_dim = _meta_hidden_dim(fields, dim)
        default_theta = 1e4
        default_len = _meta_max_seq_len(dim, n_kv_heads, norm_eps, theta)
    else:
        hidden_dim = fields.integer("hidden_dim")
        # mistral-inference: the windowed model, 7B v0.1, is the only one of base 1e4
        default_theta = 1e4 if any(windows) else 1e6
        default_len = _DEFAULT_MAX_SEQ_LEN
    rope_scaling = _read_yarn(fields)
    config = ModelConfig(
        family="llama" if is_meta else "mixtral" if moe else "mistral",
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads if n_kv_heads is None else n_kv_heads,
        head_dim=dim // max(n_heads, 1) if head_dim is None else head_dim,
        hidden_dim=hidden_dim,
        vocab_size=_read_vocab_size(fields, vocab_size),
        norm_eps=norm_eps,
        rope_theta=default_theta if theta is None else theta,
        max_seq_len=next(length for length in (stated_len, max_seq_len, default_len) if length is not None),
        sliding_windows=windows,
        rope_scaling=rope_scaling,
        moe=moe,
        tied_embeddings=fields.flag("tied_embeddings"),
    )
    fields.finish()
    return config


def to_params_json(config: ModelConfig) -> dict[str, Any]:
    """`params.json` that mistral-inference, vLLM and `read_params_json` read as the same computation.

    The file does not name the family: a Llama comes back as a Mistral of equal shape. Raises ConfigError for what
    the file has no key for: linear rope scaling, yarn with a free attention factor.
    """
    data: dict[str, Any] = {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "head_dim": config.head_dim,
        "hidden_dim": config.hidden_dim,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "norm_eps": config.norm_eps,
        "vocab_size": config.vocab_size,
        "rope_theta": config.rope_theta,
        "max_seq_len": config.max_seq_len,
    }
    if len(config.windows) > 1:
        data["sliding_window"] = list(_shortest_period(config.sliding_windows))
    elif config.windows[0] is not None:
        data["sliding_window"] = config.windows[0]
    if config.moe is not None:
        data["moe"] = {
            "num_experts": config.moe.num_experts,
            "num_experts_per_tok": config.moe.num_experts_per_tok,
        }
    if config.tied_embeddings:
        data["tied_embeddings"] = True
    if config.rope_scaling is not None:
        data["yarn"] = _to_yarn(config.rope_scaling)
    return data


def _check_architecture(fields: Fields) -> None:
    fields.expect("model_type", "transformer", reason="is not supported; only transformer models are")
    fields.expect("activation", "silu", reason="is not supported; these models use silu")
    fields.expect("causal", True, reason="is not supported; only causal models are")
    fields.expect("use_biases", False, reason="adds biases, which are not supported")
    fields.expect("quantization", reason="describes weights this version cannot read; use bf16 weights or a GGUF file")
    fields.expect("llama_4_scaling", reason="scales queries by position, which is not supported")
    fields.expect("multimodal", reason="makes this a speech or vision model; use a text checkpoint")
    fields.expect("use_scaled_rope", False, reason="is Llama 3's rotary scaling, which is not supported")
    fields.ignore(*_INERT)


def _read_windows(fields: Fields, n_layers: int) -> tuple[int | None, ...]:
    """One window for all layers, or a list that repeats over them (Ministral 8B)."""
    if not 1 <= n_layers <= 4096:
        fields.refuse("n_layers", "must lie between 1 and 4096")
    if fields.has("sliding_window") and fields.has("_sliding_window"):
        fields.refuse("_sliding_window", "is given beside sliding_window; keep one of the two")
    key = "_sliding_window" if fields.has("_sliding_window") else "sliding_window"
    fields.ignore("sliding_window", "_sliding_window")
    if not fields.is_list(key):
        return (fields.optional_integer(key),) * n_layers
    pattern = fields.optional_list(key) or []
    if not pattern or n_layers % len(pattern):
        fields.refuse(key, f"must repeat a whole number of times over {n_layers} layers")
    if not all(w is None or (isinstance(w, int) and not isinstance(w, bool)) for w in pattern):
        fields.refuse(key, "must hold whole numbers and nulls")
    return tuple(pattern) * (n_layers // len(pattern))


def _shortest_period(windows: tuple[int | None, ...]) -> tuple[int | None, ...]:
    length = len(windows)
    periods = (p for p in range(1, length + 1) if length % p == 0 and windows[:p] * (length // p) == windows)
    return windows[: next(periods)]


def _read_max_seq_len(fields: Fields) -> int | None:
    keys = ("max_seq_len", "max_position_embeddings", "model_max_length")
    lengths = {key: length for key in keys if (length := fields.optional_integer(key)) is not None}
    for key, length in lengths.items():
        if length != min(lengths.values()):
            fields.refuse(key, f"contradicts {lengths}; keep one of them")
    return min(lengths.values(), default=None)


def _read_vocab_size(fields: Fields, from_tensor: int | None) -> int:
    stated = fields.optional_integer("vocab_size")
    if stated == -1:  # Meta's files leave it to the tokenizer
        stated = None
    if stated is None and from_tensor is None:
        fields.refuse("vocab_size", "is missing; it is read from tok_embeddings.weight when the checkpoint is opened")
    if stated is not None and from_tensor is not None and stated != from_tensor:
        fields.refuse("vocab_size", f"does not match the {from_tensor} rows of tok_embeddings.weight")
    return stated or from_tensor or 0


def _read_moe(fields: Fields) -> MoeConfig | None:
    section = fields.optional_section("moe")
    if section is None:
        return None
    moe = MoeConfig(
        num_experts=section.integer("num_experts"), num_experts_per_tok=section.integer("num_experts_per_tok")
    )
    section.finish()
    return moe


def _meta_hidden_dim(fields: Fields, dim: int) -> int:
    """Meta's rule: two thirds of 4 x dim, times the multiplier, rounded up to a multiple."""
    multiple_of = fields.integer("multiple_of")
    multiplier = fields.optional_number("ffn_dim_multiplier")
    if not 1 <= multiple_of < 2**31:
        fields.refuse("multiple_of", "must be at least 1")
    if multiplier is not None and not 0 < multiplier <= 1000:
        fields.refuse("ffn_dim_multiplier", "must be above 0 and at most 1000")
    hidden_dim = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        hidden_dim = int(multiplier * hidden_dim)
    return multiple_of * -(-hidden_dim // multiple_of)


def _meta_max_seq_len(dim: int, n_kv_heads: int | None, norm_eps: float, theta: float | None) -> int:
    """Meta's files do not state the length: 16384 for Code Llama, 2048 for Llama 1, 4096 for Llama 2.

    Llama 1 is told by its norm_eps of 1e-6, its 65B by full attention heads at that width.
    """
    if theta is not None and theta > 1e4:
        return 16384
    return 2048 if norm_eps < 5e-6 or (dim == 8192 and n_kv_heads is None) else 4096


def _read_yarn(fields: Fields) -> RopeScaling | None:
    section = fields.optional_section("yarn")
    if section is None:
        return None
    factor = section.number("factor")
    beta_fast, beta_slow = section.optional_number("beta"), section.optional_number("alpha")
    scaling = RopeScaling(
        kind="yarn",
        factor=factor,
        original_max_seq_len=section.integer("original_max_position_embeddings"),
        beta_fast=32.0 if beta_fast is None else beta_fast,
        beta_slow=1.0 if beta_slow is None else beta_slow,
        attention_factor=yarn_mscale(factor) if section.flag("apply_scale", default=True) else 1.0,
    )
    section.finish()
    return scaling


def _to_yarn(scaling: RopeScaling) -> dict[str, Any]:
    if scaling.kind != "yarn" or not scaling.truncate:
        raise ConfigError(f"{scaling.kind} rope scaling of this form has no place in params.json; write the hf layout")
    scaled = yarn_mscale(scaling.factor)
    if scaling.attention_factor not in (1.0, scaled):
        raise ConfigError(
            f"yarn attention factor {scaling.attention_factor} has no place in params.json, which allows 1 or "
            f"{scaled}; write the hf layout"
        )
    return {
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_max_seq_len,
        "beta": scaling.beta_fast,
        "alpha": scaling.beta_slow,
        "apply_scale": scaling.attention_factor == scaled,
    }
