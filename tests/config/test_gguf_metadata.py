"""GGUF metadata: what llama.cpp means by it, and every refusal once."""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import Any

import pytest

from tests.config.released import RELEASED
from tests.config.test_hf_config import odd_config
from tramontane.config import ModelConfig, MoeConfig, RopeScaling, read_gguf_config, to_gguf_metadata
from tramontane.errors import ConfigError

MISTRAL = RELEASED["mistral-7b-instruct-v0.2 gguf"].data


def read(change: dict[str, Any]) -> ModelConfig:
    return read_gguf_config({**MISTRAL, **change}, vocab_size=32000)


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


YARN = RopeScaling(kind="yarn", factor=8.0, original_max_seq_len=300, attention_factor=0.75)
CONFIGS: dict[str, ModelConfig] = {
    "window": odd_config(),
    "interleaved": odd_config(sliding_windows=(7, None, 7)),
    "linear": odd_config(rope_scaling=RopeScaling(kind="linear", factor=2.5)),
    "yarn": odd_config(rope_scaling=YARN),
    "experts": odd_config(family="mixtral", moe=MoeConfig(num_experts=5, num_experts_per_tok=3)),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_survives_being_stored_as_float32(config: ModelConfig) -> None:
    stored = {
        key: float32(value) if isinstance(value, float) else value for key, value in to_gguf_metadata(config).items()
    }
    again = read_gguf_config(stored)
    if config.rope_scaling == YARN:  # stored relative to what llama.cpp derives from the factor
        assert again.rope_scaling is not None
        assert again.rope_scaling.attention_factor == pytest.approx(0.75, rel=1e-7)
        again = dataclasses.replace(again, rope_scaling=YARN)
    assert again == config


def test_tied_embeddings_are_the_tensors_to_tell() -> None:
    assert read_gguf_config({**MISTRAL, "llama.vocab_size": 32000}, tied_embeddings=True).tied_embeddings


def test_yarn_attention_grows_with_the_factor_unless_the_file_says_more() -> None:
    values = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    plain, adjusted = read(values), read(values | {"llama.rope.scaling.attn_factor": 0.5})
    assert plain.rope_scaling is not None
    assert adjusted.rope_scaling is not None
    assert plain.rope_scaling.original_max_seq_len == 32768
    assert plain.rope_scaling.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    assert adjusted.rope_scaling.attention_factor == pytest.approx((0.1 * math.log(4) + 1) / 2)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"llama.rope.scale_linear": 4.0}, RopeScaling(kind="linear", factor=4.0)),
        ({"llama.rope.scaling.factor": 4.0}, RopeScaling(kind="linear", factor=4.0)),
        ({"llama.rope.scaling.factor": 4.0, "llama.rope.scaling.type": "none"}, None),
        ({"llama.rope.scaling.factor": 1.0, "llama.rope.scaling.type": "linear"}, None),
        ({"llama.rope.scaling.factor": 0.0}, None),
    ],
)
def test_linear_scaling_in_all_its_spellings(change: dict[str, Any], expected: RopeScaling | None) -> None:
    assert read(change).rope_scaling == expected


def test_values_repeated_per_layer_are_one_value() -> None:
    repeated = {"llama.attention.head_count": [32] * 32, "llama.feed_forward_length": [14336] * 32}
    assert read(repeated) == read({})


def test_no_window_and_no_experts_may_be_said_with_zero() -> None:
    assert read({"llama.attention.sliding_window": 0, "llama.expert_count": 0}) == read({})


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"general.architecture": "qwen2"}, "general.architecture='qwen2' is not supported"),
    "no architecture": ({"general.architecture": None}, "general.architecture is missing"),
    "adapter": ({"general.type": "adapter"}, "general.type='adapter' is not a model"),
    "unknown key": ({"llama.residual_scale": 2.0}, "llama.residual_scale=2.0 is a setting"),
    "missing": ({"llama.embedding_length": None}, "llama.embedding_length is missing"),
    "no heads": ({"llama.attention.head_count": None}, "llama.attention.head_count=None is missing"),
    "no width": ({"llama.feed_forward_length": None}, "llama.feed_forward_length=None is missing"),
    "heads by layer": ({"llama.attention.head_count": [32, 16]}, "head_count=.* differs between layers"),
    "heads as text": ({"llama.attention.head_count": ["a", "a"]}, "head_count=.* differs between layers"),
    "empty heads": ({"llama.attention.head_count": []}, "head_count=.* differs between layers"),
    "layers": ({"llama.block_count": 2**31}, "llama.block_count=2147483648 must lie"),
    "value heads": ({"llama.attention.value_length": 64}, "value_length=64 differs from the head size 128"),
    "partial rotation": ({"llama.rope.dimension_count": 64}, "dimension_count=64 differs from the head size 128"),
    "bidirectional": ({"llama.attention.causal": False}, "attention.causal=False"),
    "attention scale": ({"llama.attention.scale": 0.1}, "attention.scale=0.1"),
    "clamp": ({"llama.attention.clamp_kqv": 8.0}, "attention.clamp_kqv=8.0"),
    "logit scale": ({"llama.logit_scale": 0.5}, "logit_scale=0.5"),
    "parallel": ({"llama.use_parallel_residual": True}, "use_parallel_residual=True"),
    "data layout": ({"llama.tensor_data_layout": "other"}, "tensor_data_layout='other'"),
    "shared experts": ({"llama.expert_shared_count": 1}, "expert_shared_count=1"),
    "gating": ({"llama.expert_gating_func": 2}, "expert_gating_func=2"),
    "expert weights": ({"llama.expert_weights_norm": False}, "expert_weights_norm=False"),
    "expert scale": ({"llama.expert_weights_scale": 2.5}, "expert_weights_scale=2.5"),
    "active experts alone": ({"llama.expert_used_count": 2}, "expert_used_count=2 needs expert_count"),
    "pattern length": ({"llama.attention.sliding_window_pattern": [True]}, "true or false for each of 32 layers"),
    "pattern alone": ({"llama.attention.sliding_window_pattern": [True] * 32}, "sliding_window=None is needed"),
    "rope type": ({"llama.rope.scaling.type": "longrope"}, "rope.scaling.type='longrope' is not supported"),
    "ntk": ({"llama.rope.scaling.alpha": 2.0}, "rope.scaling.alpha=2.0"),
    "extrapolation": ({"llama.rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor=0.5"),
    "yarn attention": ({"llama.rope.scaling.yarn_attn_factor": 2.0}, "yarn_attn_factor=2.0"),
    "yarn log": ({"llama.rope.scaling.yarn_log_multiplier": 1.0}, "yarn_log_multiplier=1.0"),
    "yarn fast": ({"llama.rope.scaling.yarn_beta_fast": 16.0}, "yarn_beta_fast=16.0"),
    "yarn slow": ({"llama.rope.scaling.yarn_beta_slow": 2.0}, "yarn_beta_slow=2.0"),
    "linear attention": (
        {"llama.rope.scaling.factor": 2.0, "llama.rope.scaling.attn_factor": 2.0},
        "attn_factor=2.0 goes with yarn only",
    ),
    "vocabulary": ({"llama.vocab_size": 32001}, "vocab_size=32001 does not match the 32000 rows"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_refuses(mistake: tuple[dict[str, Any], str]) -> None:
    change, message = mistake
    with pytest.raises(ConfigError, match=message):
        read(change)


def test_refuses_a_file_without_a_vocabulary() -> None:
    with pytest.raises(ConfigError, match="vocab_size=None is missing"):
        read_gguf_config(MISTRAL)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (odd_config(sliding_windows=(7, 8, 7)), r"sliding windows \[8, 7\] have no GGUF form"),
        (odd_config(rope_scaling=dataclasses.replace(YARN, beta_fast=16.0)), "beta_fast=16.0.* has no GGUF form"),
        (odd_config(rope_scaling=dataclasses.replace(YARN, truncate=False)), "truncate=False has no GGUF form"),
    ],
)
def test_refuses_to_write_what_llama_cpp_would_compute_otherwise(config: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_gguf_metadata(config)


FOREIGN = {
    "mradermacher.quantized_by": "somebody",
    "clip.has_vision_encoder": False,
    "mistral3.attention.temperature_scale": 0.1,  # of an architecture that this file is not
    "quantize.imatrix.entries_count": 224,
    "note": "by hand",
}


@pytest.mark.parametrize("key", FOREIGN)
def test_keys_of_other_namespaces_change_nothing(key: str) -> None:
    assert read({key: FOREIGN[key]}) == read({})


def as_mistral3(**changes: Any) -> dict[str, Any]:
    own = {key.replace("llama.", "mistral3.", 1): value for key, value in MISTRAL.items()}
    return own | {"general.architecture": "mistral3"} | {f"mistral3.{k}": v for k, v in changes.items()}


def test_mistral3_is_the_same_model_until_it_scales_queries() -> None:
    assert read_gguf_config(as_mistral3(), vocab_size=32000) == read({})
    scaled = as_mistral3(**{"attention.temperature_scale": 0.0, "attention.temperature_length": 8192})
    assert read_gguf_config(scaled, vocab_size=32000) == read({})
    with pytest.raises(ConfigError, match=r"mistral3.attention.temperature_scale=0.1 scales queries by position"):
        read_gguf_config(as_mistral3(**{"attention.temperature_scale": 0.1}), vocab_size=32000)
    with pytest.raises(ConfigError, match=r"mistral3.residual_scale=2.0 is a setting"):
        read_gguf_config(as_mistral3(residual_scale=2.0), vocab_size=32000)
