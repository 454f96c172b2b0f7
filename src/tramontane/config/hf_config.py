"""Hugging Face `config.json`, in the spelling of transformers 4 (`rope_theta`, `rope_scaling`) and 5
(`rope_parameters`, `layer_types`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tramontane.config.fields import Fields
from tramontane.config.hf_bookkeeping import skip_bookkeeping
from tramontane.config.model_config import Family, ModelConfig, MoeConfig, RopeScaling
from tramontane.config.rope import read_hf_rope_scaling
from tramontane.errors import ConfigError

SOURCE = "config.json"

_FAMILIES: dict[str, Family] = {"mistral": "mistral", "ministral": "mistral", "mixtral": "mixtral", "llama": "llama"}
_ARCHITECTURES = {
    "mistral": "MistralForCausalLM",
    "ministral": "MinistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral3": "Mistral3ForConditionalGeneration",
}
_OLD_SPELLINGS = {"LLaMAForCausalLM": "LlamaForCausalLM"}  # of the first conversions of Llama 1
_DEFAULT_ROPE_THETA = {"mistral": 1e4, "ministral": 1e4, "mixtral": 1e6, "llama": 1e4}
# transformers leaves out of a nested text_config what equals its MistralConfig defaults
_NESTED_DEFAULTS = {
    "model_type": "mistral",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
}

# of the vision part
_INERT_IN_WRAPPER = """
    image_token_id image_token_index multimodal_projector_bias projector_hidden_act spatial_merge_size
    vision_config vision_feature_layer
""".split()  # noqa: SIM905


def read_hf_config(data: Mapping[str, Any], *, stores_output: bool | None = None) -> ModelConfig:
    """The model that `data`, a parsed `config.json`, describes.

    Model types mistral, ministral, mixtral, llama, and mistral3, of which the text part is taken. Defaults are those
    of transformers; a wrapper that does not say whether embeddings are tied leaves it to whether an output matrix is
    stored (`stores_output`), or to its text part where that is not known. Raises ConfigError for an architecture, a key
    or a value that cannot be honoured.
    """
    fields = Fields(data, SOURCE)
    refuse_code(fields)
    model_type = fields.text("model_type")
    if model_type not in _ARCHITECTURES:
        fields.refuse("model_type", f"is not supported; supported are {', '.join(_ARCHITECTURES)}")
    if model_type != "mistral3":
        return _read_text_model(fields, model_type)

    text_config = fields.optional_section("text_config")
    if text_config is None:
        fields.refuse("text_config", "is missing; fetch the file again from its origin")
    _check_architecture(fields, model_type)
    fields.ignore(*_INERT_IN_WRAPPER)
    skip_bookkeeping(fields)
    nested = {**_NESTED_DEFAULTS, **data["text_config"]}
    if fields.has("tie_word_embeddings"):  # transformers asks the wrapper, never the text part
        nested["tie_word_embeddings"] = fields.flag("tie_word_embeddings")
    elif stores_output is not None:
        nested["tie_word_embeddings"] = not stores_output
    fields.ignore("tie_word_embeddings")
    fields.finish()
    text_config = Fields(nested, SOURCE, "text_config.")
    refuse_code(text_config)
    model_type = text_config.text("model_type")
    if model_type not in ("mistral", "ministral"):
        text_config.refuse("model_type", "is not supported inside mistral3; supported are mistral, ministral")
    return _read_text_model(text_config, model_type)


def refuse_code(fields: Fields) -> None:
    """Raise ConfigError if the file asks for Python code of its own (`auto_map`, `trust_remote_code`)."""
    reason = "asks to run code from the checkpoint, which is never done; use a model of a supported architecture"
    fields.expect("auto_map", reason=reason)
    fields.expect("trust_remote_code", False, reason=reason)


def to_hf_config(config: ModelConfig, dtype: str = "bfloat16") -> dict[str, Any]:
    """`config.json` that transformers 4 and 5 read as the same model; `dtype` is the stored type of the weights.

    Raises ConfigError for a model that Hugging Face's classes cannot describe.
    """
    windows = [window for window in config.windows if window is not None]
    if len(windows) > 1:
        raise ConfigError(f"sliding windows {windows} have no config.json form; write the consolidated layout")
    is_interleaved = len(config.windows) > 1
    if config.moe is not None:
        model_type = "mixtral"
    elif is_interleaved:
        model_type = "ministral"
    elif config.family == "llama" and not windows and config.dim % config.n_heads == 0:
        model_type = "llama"
    else:
        model_type = "mistral"
    if config.moe is not None and is_interleaved:
        raise ConfigError("interleaved windows with experts have no config.json form; write the consolidated layout")
    data: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[model_type]],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else _to_hf_rope_scaling(config.rope_scaling),
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": dtype,
    }
    if model_type != "llama":
        data["sliding_window"] = windows[0] if windows else None
    if is_interleaved:
        data["layer_types"] = ["full_attention" if w is None else "sliding_attention" for w in config.sliding_windows]
    if config.moe is not None:
        data["num_local_experts"] = config.moe.num_experts
        data["num_experts_per_tok"] = config.moe.num_experts_per_tok
    return data


def _to_hf_rope_scaling(scaling: RopeScaling) -> dict[str, Any]:
    data: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "yarn":
        data |= {
            "original_max_position_embeddings": scaling.original_max_seq_len,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "attention_factor": scaling.attention_factor,
            "truncate": scaling.truncate,
        }
    return data


def _read_text_model(fields: Fields, model_type: str) -> ModelConfig:
    fields.expect("hidden_act", "silu", "swish", reason="is not supported; these models use silu")
    fields.expect("attention_bias", False, reason="adds biases to attention, which are not supported")
    fields.expect("mlp_bias", False, reason="adds biases to the feed-forward part, which are not supported")
    fields.expect("rope_interleaved", False, reason="contradicts the rotary layout of Hugging Face checkpoints")
    _check_architecture(fields, model_type)

    n_heads = fields.integer("num_attention_heads")
    n_layers = fields.integer("num_hidden_layers")
    n_kv_heads = fields.optional_integer("num_key_value_heads")
    dim = fields.integer("hidden_size")
    head_dim = fields.optional_integer("head_dim")
    max_seq_len = fields.integer("max_position_embeddings")
    rope_theta, rope_scaling = _read_rope(fields, max_seq_len, _DEFAULT_ROPE_THETA[model_type])
    config = ModelConfig(
        family=_FAMILIES[model_type],
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads if n_kv_heads is None else n_kv_heads,
        head_dim=dim // max(n_heads, 1) if head_dim is None else head_dim,
        hidden_dim=fields.integer("intermediate_size"),
        vocab_size=fields.integer("vocab_size"),
        norm_eps=fields.number("rms_norm_eps"),
        rope_theta=rope_theta,
        max_seq_len=max_seq_len,
        sliding_windows=_read_windows(fields, model_type, n_layers),
        rope_scaling=rope_scaling,
        moe=_read_moe(fields) if model_type == "mixtral" else None,
        tied_embeddings=fields.flag("tie_word_embeddings"),
    )
    skip_bookkeeping(fields)
    fields.finish()
    return config


def _read_windows(fields: Fields, model_type: str, n_layers: int) -> tuple[int | None, ...]:
    if not 1 <= n_layers <= 4096:
        fields.refuse("num_hidden_layers", "must lie between 1 and 4096")
    if model_type == "llama":
        return (None,) * n_layers
    window = fields.optional_integer("sliding_window")
    if window is None and not fields.mentions("sliding_window") and model_type in ("mistral", "ministral"):
        window = 4096  # the default of transformers' MistralConfig and MinistralConfig
    layer_types = fields.optional_list("layer_types")
    if layer_types is None:
        return (window,) * n_layers
    if len(layer_types) != n_layers:
        fields.refuse("layer_types", f"must name {n_layers} layers, not {len(layer_types)}")
    windows: list[int | None] = []
    for layer_type in layer_types:
        if layer_type not in ("full_attention", "sliding_attention"):
            fields.refuse("layer_types", "may hold full_attention and sliding_attention only")
        if layer_type == "sliding_attention" and window is None:
            fields.refuse("sliding_window", "is needed by the sliding_attention layers")
        windows.append(window if layer_type == "sliding_attention" else None)
    if model_type != "ministral" and set(windows) != {window}:
        fields.refuse("layer_types", f"is not applied by model type {model_type}; use model_type ministral")
    return tuple(windows)


def _read_rope(fields: Fields, max_seq_len: int, default_theta: float) -> tuple[float, RopeScaling | None]:
    top_theta = fields.optional_number("rope_theta")
    fields.expect("partial_rotary_factor", 1, reason="would rotate a part of each head only, which is not supported")
    if fields.has("rope_scaling") and fields.has("rope_parameters"):
        fields.refuse("rope_scaling", "is given beside rope_parameters; keep one of the two")
    rope = fields.optional_section("rope_scaling") or fields.optional_section("rope_parameters")
    fields.ignore("rope_scaling", "rope_parameters")
    if rope is None:
        return default_theta if top_theta is None else top_theta, None
    theta = rope.optional_number("rope_theta")
    scaling = read_hf_rope_scaling(rope, max_seq_len)
    rope.finish()
    return next((t for t in (theta, top_theta) if t is not None), default_theta), scaling


def _read_moe(fields: Fields) -> MoeConfig:
    num_experts = fields.optional_integer("num_local_experts")
    return MoeConfig(
        num_experts=fields.integer("num_experts") if num_experts is None else num_experts,
        num_experts_per_tok=fields.integer("num_experts_per_tok"),
    )


def _check_architecture(fields: Fields, model_type: str) -> None:
    architectures = fields.optional_list("architectures")
    spelled = [_OLD_SPELLINGS.get(name, name) if isinstance(name, str) else name for name in architectures or ()]
    if architectures is not None and spelled != [_ARCHITECTURES[model_type]]:
        fields.refuse("architectures", f"is not supported for {model_type}; only {_ARCHITECTURES[model_type]} is")
