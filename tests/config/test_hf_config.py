"""`config.json`: parity with transformers on odd values, and every refusal once."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoConfig, LlamaConfig, MinistralConfig, Mistral3Config, MistralConfig, MixtralConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tests.config.released import RELEASED
from tramontane.config import ModelConfig, MoeConfig, RopeScaling, read_hf_config, to_hf_config
from tramontane.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

ODD: dict[str, Any] = {
    "hidden_size": 80,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "vocab_size": 517,
    "max_position_embeddings": 1023,
    "rms_norm_eps": 3e-6,
}
MISTRAL = RELEASED["mistral-7b-v0.3"].data
WRAPPER = RELEASED["mistral-small-3.1-24b-2503"].data


def odd_config(**changes: Any) -> ModelConfig:
    config = ModelConfig(
        family="mistral",
        dim=80,
        hidden_dim=112,
        n_layers=3,
        n_heads=4,
        n_kv_heads=2,
        head_dim=24,
        vocab_size=517,
        max_seq_len=1023,
        norm_eps=3e-6,
        rope_theta=1e4,
        sliding_windows=(7, 7, 7),
    )
    return dataclasses.replace(config, **changes)


def rope(**values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 12345.5, **values}}


PARITY: dict[str, tuple[Any, ModelConfig]] = {
    "mistral": (
        MistralConfig(**ODD, **rope(rope_type="default"), sliding_window=7, tie_word_embeddings=True),
        odd_config(rope_theta=12345.5, tied_embeddings=True),
    ),
    "mistral, window by default": (MistralConfig(**ODD), odd_config(sliding_windows=(4096,) * 3)),
    "mistral, no window": (MistralConfig(**ODD, sliding_window=None), odd_config(sliding_windows=(None,) * 3)),
    "mistral, linear": (
        MistralConfig(**ODD, **rope(rope_type="linear", factor=2.5), sliding_window=7),
        odd_config(rope_theta=12345.5, rope_scaling=RopeScaling(kind="linear", factor=2.5)),
    ),
    "mixtral": (
        MixtralConfig(**ODD, num_local_experts=5, num_experts_per_tok=3),
        odd_config(
            family="mixtral",
            rope_theta=1e6,
            sliding_windows=(None,) * 3,
            moe=MoeConfig(num_experts=5, num_experts_per_tok=3),
        ),
    ),
    "mixtral, window": (
        MixtralConfig(**ODD, num_local_experts=5, num_experts_per_tok=3, sliding_window=7),
        odd_config(family="mixtral", rope_theta=1e6, moe=MoeConfig(num_experts=5, num_experts_per_tok=3)),
    ),
    "llama": (
        LlamaConfig(**{**ODD, "num_key_value_heads": None, "head_dim": None}),
        odd_config(family="llama", n_kv_heads=4, head_dim=20, sliding_windows=(None,) * 3),
    ),
    "ministral": (
        MinistralConfig(
            **ODD, sliding_window=7, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
        ),
        odd_config(sliding_windows=(7, None, 7)),
    ),
    "ministral, window by default": (MinistralConfig(**ODD), odd_config(sliding_windows=(4096,) * 3)),
    "mistral3": (
        Mistral3Config(text_config=MistralConfig(**ODD, sliding_window=7).to_dict()),  # whose own default is to tie
        odd_config(tied_embeddings=True),
    ),
}


@pytest.mark.parametrize("case", PARITY.values(), ids=PARITY)
def test_reads_what_transformers_saves(case: tuple[Any, ModelConfig], tmp_path: Path) -> None:
    theirs, ours = case
    assert read_hf_config(theirs.to_dict()) == ours
    theirs.save_pretrained(tmp_path)
    assert read_hf_config(json.loads((tmp_path / "config.json").read_text())) == ours


@pytest.mark.parametrize("case", PARITY.values(), ids=PARITY)
def test_transformers_reads_what_we_write(case: tuple[Any, ModelConfig], tmp_path: Path) -> None:
    theirs, ours = case
    (tmp_path / "config.json").write_text(json.dumps(to_hf_config(ours)))
    again = AutoConfig.from_pretrained(tmp_path)
    assert read_hf_config(again.to_dict()) == ours
    text = theirs.get_text_config()
    for key in (*ODD, "rope_parameters", "tie_word_embeddings", "num_local_experts", "num_experts_per_tok"):
        if key != "head_dim":  # which MixtralConfig leaves null
            source = theirs if key == "tie_word_embeddings" else text
            assert getattr(again, key, None) == getattr(source, key, None), key


YARN: dict[str, dict[str, Any]] = {
    "plain": {"factor": 4.0, "original_max_position_embeddings": 256},
    "attention factor": {"factor": 4.0, "original_max_position_embeddings": 256, "attention_factor": 0.75},
    "mscale": {"factor": 8.0, "original_max_position_embeddings": 256, "mscale": 0.7, "mscale_all_dim": 1.3},
    "mscale alone": {"factor": 8.0, "original_max_position_embeddings": 256, "mscale": 0.7},
    "betas": {"factor": 8.0, "original_max_position_embeddings": 300, "beta_fast": 20.0, "beta_slow": 2.0},
    "not truncated": {"factor": 8.0, "original_max_position_embeddings": 300, "truncate": False},
    "shrinking": {"factor": 1.0, "original_max_position_embeddings": 1023},
    "length by default": {"factor": 2.0},
}


@pytest.mark.parametrize("values", YARN.values(), ids=YARN)
def test_yarn_is_what_transformers_computes(values: dict[str, Any]) -> None:
    theirs = MistralConfig(**ODD, **rope(rope_type="yarn", **values))
    inverse_frequencies, attention_factor = ROPE_INIT_FUNCTIONS["yarn"](theirs, "cpu")
    for scaling in (read_hf_config(theirs.to_dict()).rope_scaling, round_trip(theirs).rope_scaling):
        assert scaling is not None
        assert scaling.attention_factor == pytest.approx(attention_factor, rel=1e-12)
        assert yarn_inverse_frequencies(scaling, 24, 12345.5) == pytest.approx(inverse_frequencies.tolist(), rel=1e-5)


def round_trip(theirs: Any) -> ModelConfig:
    return read_hf_config(AutoConfig.for_model(**to_hf_config(read_hf_config(theirs.to_dict()))).to_dict())


def yarn_inverse_frequencies(scaling: RopeScaling, head_dim: int, theta: float) -> list[float]:
    """arXiv:2309.00071, section 3.2, from the fields of RopeScaling alone."""
    assert scaling.original_max_seq_len is not None

    def dimension(rotations: float) -> float:
        length = scaling.original_max_seq_len or 0
        return head_dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    result = []
    for i in range(head_dim // 2):
        ramp = min(max((i - low) / ((high - low) or 0.001), 0), 1)
        frequency = theta ** (-2 * i / head_dim)
        result.append(frequency * (1 - ramp) + frequency / scaling.factor * ramp)
    return result


@pytest.mark.parametrize(
    "values",
    [
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}},
        {"rope_theta": 1e4, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
    ],
)
def test_old_and_new_spelling_of_rotary_scaling(values: dict[str, Any]) -> None:
    data = {**MISTRAL, "rope_theta": None} | values
    config = read_hf_config(data)
    assert config.rope_theta == 5e5
    assert config.rope_scaling == RopeScaling(kind="linear", factor=4.0)


def test_nested_text_config_takes_transformers_defaults() -> None:
    text = {"hidden_size": 5120, "head_dim": 128, "sliding_window": None, "num_hidden_layers": 40}
    config = read_hf_config({**WRAPPER, "text_config": text})
    theirs = MistralConfig(**text)
    assert (config.n_heads, config.n_kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
    assert (config.hidden_dim, config.vocab_size) == (theirs.intermediate_size, theirs.vocab_size)
    assert (config.norm_eps, config.max_seq_len) == (theirs.rms_norm_eps, theirs.max_position_embeddings)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "another family": ({"model_type": "qwen2"}, "model_type='qwen2' is not supported"),
    "no model type": ({"model_type": None}, "model_type is missing"),
    "another head": ({"architectures": ["MistralForSequenceClassification"]}, "architectures=.* is not supported"),
    "unknown key": ({"attn_logit_softcapping": 30.0}, "attn_logit_softcapping=30.0 is a setting"),
    "unknown key of any spelling": ({"attn\nb": {"deep": [[[1]]]}}, r"'attn\\nb'="),
    "remote code": ({"auto_map": {"AutoConfig": "evil.Config"}}, "auto_map=.* never done"),
    "trusted code": ({"trust_remote_code": True}, "trust_remote_code=True .* never done"),
    "quantised": ({"quantization_config": {"quant_method": "awq"}}, "quantization_config=.* original weights"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    "attention bias": ({"attention_bias": True}, "attention_bias=True"),
    "feed-forward bias": ({"mlp_bias": True}, "mlp_bias=True"),
    "encoder": ({"is_encoder_decoder": True}, "is_encoder_decoder=True"),
    "pruned": ({"pruned_heads": {"1": [0]}}, "pruned_heads="),
    "partial rotation": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    "rope type": ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling.rope_type='llama3'"),
    "dynamic rope": ({"rope_scaling": {"type": "dynamic", "factor": 8.0}}, "rope_scaling.type='dynamic'"),
    "longrope": ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type='longrope'"),
    "two rope types": ({"rope_scaling": {"rope_type": "yarn", "type": "linear"}}, "type='linear' contradicts"),
    "rope key": ({"rope_scaling": {"type": "linear", "factor": 2, "short_factor": [1]}}, "rope_scaling.short_factor"),
    "rope twice": ({"rope_scaling": {}, "rope_parameters": {}}, "rope_scaling={} is given beside"),
    "rope shape": ({"rope_scaling": [1]}, "rope_scaling must hold named values"),
    "no factor": ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing"),
    "zero factor": ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor=0.0 must be above 0"),
    "yarn length": (
        {"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 0}},
        "original_max_seq_len=0 must be at least 1",
    ),
    "yarn betas": (
        {"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 32}},
        "beta_fast=1.0 is below beta_slow=32.0",
    ),
    "temperature by position": (
        {"rope_scaling": {"type": "yarn", "factor": 2, "llama_4_scaling_beta": 0.1}},
        "llama_4_scaling_beta=0.1",
    ),
    "missing": ({"hidden_size": None}, "hidden_size is missing"),
    "text for number": ({"hidden_size": "4096"}, "hidden_size='4096' must be a whole number"),
    "real for whole": ({"hidden_size": 4096.0}, "hidden_size=4096.0 must be a whole number"),
    "flag for number": ({"rms_norm_eps": True}, "rms_norm_eps=True must be a number"),
    "infinite": ({"rope_theta": math.inf}, "rope_theta=inf must be a finite number"),
    "beyond float": ({"rope_theta": 10**400}, "rope_theta=1.* must be a finite number"),
    "number for flag": ({"tie_word_embeddings": 1}, "tie_word_embeddings=1 must be true or false"),
    "number for text": ({"model_type": 3}, "model_type=3 must be text"),
    "text for list": ({"architectures": "MistralForCausalLM"}, "architectures='MistralForCausalLM' must be a list"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers=0 must lie"),
    "too many layers": ({"num_hidden_layers": 2**31}, "num_hidden_layers=2147483648 must lie"),
    "no heads": ({"num_attention_heads": 0}, "n_heads=0 must be"),
    "uneven heads": ({"num_key_value_heads": 7}, "n_heads=32 must be a multiple of n_kv_heads=7"),
    "odd head": ({"head_dim": 127}, "head_dim=127 must be even"),
    "no window": ({"sliding_window": 0}, "sliding_window=0 must be at least 1"),
    "layer types of mistral": (
        {"sliding_window": 8, "layer_types": ["full_attention"] * 32},
        "layer_types=.* use model_type ministral",
    ),
    "layer type count": (
        {"model_type": "ministral", "architectures": None, "layer_types": ["full_attention"]},
        "must name 32 layers, not 1",
    ),
    "layer type": ({"layer_types": ["chunked_attention"] * 32}, "full_attention and sliding_attention only"),
    "layers without window": ({"layer_types": ["sliding_attention"] * 32}, "sliding_window=None is needed"),
    "experts of a dense model": ({"num_local_experts": 8}, "num_local_experts=8 is a setting"),
    "too many active experts": (
        {"model_type": "mixtral", "architectures": None, "num_local_experts": 2, "num_experts_per_tok": 3},
        "num_experts_per_tok=3 must lie",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_refuses(mistake: tuple[dict[str, Any], str]) -> None:
    change, message = mistake
    with pytest.raises(ConfigError, match=message) as caught:
        read_hf_config({**MISTRAL, **change})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


WRAPPER_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no text": ({"text_config": None}, "text_config=None is missing"),
    "code inside": ({"text_config": {"auto_map": {}}}, "text_config.auto_map=.* never done"),
    "another text model": ({"text_config": {"model_type": "ministral3"}}, "text_config.model_type='ministral3'"),
    "unknown key": ({"audio_config": {"dim": 8}}, "audio_config={'dim': 8} is a setting"),
    "unknown key inside": ({"text_config": {"qk_norm": True}}, "text_config.qk_norm=True is a setting"),
}


@pytest.mark.parametrize("mistake", WRAPPER_MISTAKES.values(), ids=WRAPPER_MISTAKES)
def test_refuses_in_a_wrapper(mistake: tuple[dict[str, Any], str]) -> None:
    change, message = mistake
    with pytest.raises(ConfigError, match=message):
        read_hf_config({**WRAPPER, **change})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (odd_config(sliding_windows=(7, 8, 7)), "sliding windows [8, 7] have no config.json form"),
        (
            odd_config(sliding_windows=(7, None, 7), moe=MoeConfig(num_experts=2, num_experts_per_tok=1)),
            "interleaved windows with experts have no config.json form",
        ),
    ],
)
def test_refuses_to_write_what_transformers_has_no_class_for(config: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        to_hf_config(config)


@pytest.mark.parametrize(
    ("wrapper", "text", "stores_output", "tied"),
    [
        (True, False, False, True),
        (False, True, True, False),
        (None, True, True, False),
        (None, False, False, True),
        (None, True, None, True),
        (None, None, None, False),
    ],
)
def test_a_wrapper_says_whether_embeddings_are_tied(
    wrapper: bool | None, text: bool | None, stores_output: bool | None, tied: bool
) -> None:
    data = {
        "model_type": "mistral3",
        "tie_word_embeddings": wrapper,
        "text_config": {"model_type": "mistral", "tie_word_embeddings": text},
    }
    assert read_hf_config(data, stores_output=stores_output).tied_embeddings is tied


# as found in published Mistral- and Llama-family configurations
BOOKKEEPING: dict[str, Any] = {
    "_name_or_path": "somebody/something",
    "architectures": ["LLaMAForCausalLM"],
    "adapters": {},
    "attention_dropout": 0.1,
    "attention_probs_dropout_prob": 0.0,
    "attn_implementation": "flash_attention_2",
    "auto_map": None,
    "base_model": "somebody/base",
    "bf16": True,
    "dtype": "bfloat16",
    "embedding_multiplier": 1.0,
    "eos_token_id": [2, 7],
    "final_logit_softcapping": None,
    "gradient_checkpointing": False,
    "hidden_act": "swish",
    "initializer_std": 0.02,
    "is_decoder": True,
    "is_llama_config": True,
    "kv_lora_rank": None,
    "language": ["en", "fr"],
    "library_name": "transformers",
    "logit_scale": 1,
    "max_sequence_length": 2048,
    "model_max_length": 4096,
    "model_name": "Something-7B-v2",
    "model_parallel": True,
    "my_own_note": {"any": ["thing"]},
    "n_ctx": 4096,
    "neftune_noise_alpha": 5.0,
    "output_attention": False,
    "parallel_attn": False,
    "pipeline_tag": "text-generation",
    "pretraining_tp": 1,
    "quantization_config": None,
    "qkv_bias": False,
    "rotary_pct": 1.0,
    "seq_length": 4096,
    "tokenizer": "somebody/base",
    "tokenizer_padding_side": "right",
    "torch_dtype": "float16",
    "training_args": {"epochs": 3, "lr": 1e-5},
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    "unsloth_fixed": True,
    "unsloth_version": "2024.12.4",
    "use_cache": False,
    "use_flash_attn_2": True,
    "use_qk_norm": False,
    "use_sliding_window": False,
    "version": "2.1",
}


@pytest.mark.parametrize("key", BOOKKEEPING)
def test_keys_that_say_nothing_about_the_computation_change_nothing(key: str) -> None:
    data = LlamaConfig().to_dict()
    assert read_hf_config(data | {key: BOOKKEEPING[key]}) == read_hf_config(data)


@pytest.mark.parametrize(
    "key",
    """
    act_fn alibi attention_multiplier attn_logit_softcapping attn_temperature_tuning audio_config clip_qkv conv_kernel
    cross_layer_kv_sharing dim_model_base embedding_multiplier ffn_type first_k_dense_replace hidden_activation
    kv_lora_rank layernorm_type logit_scale logits_scaling max_window_layers mup_width n_group n_shared_experts
    no_rope_layers norm_after norm_type num_kv_shared_layers num_loops parallel_attn partial_rotary position_embedding
    qk_norm qkv_bias query_pre_attn_scalar residual_multiplier rope_local_base_freq rotary_pct scale_emb scoring_func
    topk_method use_bias use_mla use_post_ln use_swa
    """.split(),  # noqa: SIM905
)
def test_keys_that_would_change_it_stay_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}=2 is "):
        read_hf_config(LlamaConfig().to_dict() | {key: 2})


@pytest.mark.parametrize("key", ["is_causal", "norm_topk_prob", "scale_attn_weights"])
def test_what_is_on_here_may_not_be_off(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}=False is not supported"):
        read_hf_config(LlamaConfig().to_dict() | {key: False})
