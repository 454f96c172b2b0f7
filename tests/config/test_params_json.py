"""`params.json`: windows, yarn and lengths, and every refusal once."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tests.config.released import RELEASED
from tramontane.config import ModelConfig, RopeScaling, read_params_json, to_params_json
from tramontane.config.rope import yarn_mscale
from tramontane.errors import ConfigError

MISTRAL = RELEASED["mistral-7b-v0.3 consolidated"].data
META = RELEASED["llama-2-7b consolidated"].data
MINISTRAL_PATTERN = [None, 32768, 32768, 32768]


@pytest.mark.parametrize("key", ["sliding_window", "_sliding_window"])
def test_interleaved_windows_repeat_over_the_layers(key: str) -> None:
    config = read_params_json({**MISTRAL, "n_layers": 36, key: MINISTRAL_PATTERN})
    assert config.sliding_windows == (None, 32768, 32768, 32768) * 9
    assert config.windows == (None, 32768)
    written = to_params_json(config)
    assert written["sliding_window"] == MINISTRAL_PATTERN
    assert read_params_json(json.loads(json.dumps(written))) == config


def test_windows_of_several_sizes_survive() -> None:
    windows = (8, None, 16, 8, None, 16)
    config = dataclasses.replace(read_params_json({**MISTRAL, "n_layers": 6}), sliding_windows=windows)
    assert read_params_json(to_params_json(config)) == config
    irregular = dataclasses.replace(config, sliding_windows=(8, None, None, 8, None, 16))
    assert read_params_json(to_params_json(irregular)) == irregular


@pytest.mark.parametrize("apply_scale", [None, True, False])
def test_yarn(apply_scale: bool | None) -> None:
    yarn = {"original_max_position_embeddings": 16384, "factor": 16, "beta": 33, "alpha": 2}
    config = read_params_json({**MISTRAL, "yarn": yarn | ({} if apply_scale is None else {"apply_scale": apply_scale})})
    assert config.rope_scaling == RopeScaling(
        kind="yarn",
        factor=16.0,
        original_max_seq_len=16384,
        beta_fast=33.0,
        beta_slow=2.0,
        attention_factor=1.0 if apply_scale is False else yarn_mscale(16),
    )
    assert read_params_json(to_params_json(config)) == config


def test_length_is_the_files_then_the_callers_then_the_familys() -> None:
    assert read_params_json(MISTRAL).max_seq_len == 32768
    assert read_params_json(MISTRAL, max_seq_len=65536).max_seq_len == 65536
    assert read_params_json({**MISTRAL, "max_seq_len": 1024}, max_seq_len=65536).max_seq_len == 1024
    both = {**MISTRAL, "max_seq_len": 1024, "max_position_embeddings": 1024}
    assert read_params_json(both).max_seq_len == 1024


def test_vocabulary_comes_from_the_embeddings_where_the_file_has_none() -> None:
    assert read_params_json(META, vocab_size=32000).vocab_size == 32000
    assert read_params_json({**META, "vocab_size": 32000}).vocab_size == 32000
    assert read_params_json(MISTRAL, vocab_size=32768).vocab_size == 32768


def test_tied_embeddings_survive() -> None:
    config = read_params_json({**MISTRAL, "tied_embeddings": True})
    assert config.tied_embeddings
    assert read_params_json(to_params_json(config)) == config


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"qk_norm": True}, "qk_norm=True is a setting"),
    "mamba": ({"model_type": "mamba"}, "model_type='mamba' is not supported"),
    "activation": ({"activation": "gelu"}, "activation='gelu'"),
    "not causal": ({"causal": False}, "causal=False"),
    "biases": ({"use_biases": True}, "use_biases=True"),
    "quantised": ({"quantization": {"qformat_weight": "fp8_e4m3"}}, "quantization=.* GGUF"),
    "temperature by position": ({"llama_4_scaling": {"beta": 0.1}}, "llama_4_scaling="),
    "speech": ({"multimodal": {}}, "multimodal={} .* text checkpoint"),
    "llama 3": ({"use_scaled_rope": True}, "use_scaled_rope=True"),
    "missing": ({"hidden_dim": None}, "hidden_dim is missing"),
    "windows twice": ({"sliding_window": 8, "_sliding_window": 8}, "_sliding_window=8 is given beside"),
    "window pattern": ({"sliding_window": [8] * 5}, "sliding_window=.* whole number of times over 32 layers"),
    "empty pattern": ({"sliding_window": []}, r"sliding_window=\[\] must repeat"),
    "window text": ({"sliding_window": ["8"] * 32}, "whole numbers and nulls"),
    "lengths disagree": ({"max_seq_len": 8, "max_position_embeddings": 9}, "max_position_embeddings=9 contradicts"),
    "layers": ({"n_layers": -1}, "n_layers=-1 must lie"),
    "moe key": ({"moe": {"num_experts": 8, "num_experts_per_tok": 2, "num_shared_experts": 1}}, "moe.num_shared"),
    "moe shape": ({"moe": 8}, "moe must hold named values"),
    "no experts": ({"moe": {"num_experts_per_tok": 2}}, "moe.num_experts is missing"),
    "yarn key": ({"yarn": {"factor": 2, "original_max_position_embeddings": 8, "gamma": 1}}, "yarn.gamma=1"),
    "no vocabulary": ({"vocab_size": -1}, "vocab_size=-1 is missing"),
    "negative vocabulary": ({"vocab_size": -2}, "vocab_size=-2 must be"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_refuses(mistake: tuple[dict[str, Any], str]) -> None:
    change, message = mistake
    with pytest.raises(ConfigError, match=message):
        read_params_json({**MISTRAL, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multiple_of": 0}, "multiple_of=0 must be at least 1"),
        ({"ffn_dim_multiplier": 0}, "ffn_dim_multiplier=0 must be above 0"),
        ({"hidden_dim": 11008}, "hidden_dim=11008 is a setting"),
    ],
)
def test_refuses_in_metas_form(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_params_json({**META, **change}, vocab_size=32000)


def test_refuses_a_vocabulary_that_contradicts_the_embeddings() -> None:
    with pytest.raises(ConfigError, match="vocab_size=32768 does not match the 32000 rows"):
        read_params_json(MISTRAL, vocab_size=32000)


def scaled(scaling: RopeScaling) -> ModelConfig:
    return dataclasses.replace(read_params_json(MISTRAL), rope_scaling=scaling)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        (RopeScaling(kind="linear", factor=4.0), "linear rope scaling .* write the hf layout"),
        (
            RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=8, attention_factor=0.5),
            "yarn attention factor 0.5 .* write the hf layout",
        ),
        (
            RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=8, truncate=False),
            "yarn rope scaling .* write the hf layout",
        ),
    ],
)
def test_refuses_to_write_what_has_no_key(scaling: RopeScaling, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_params_json(scaled(scaling))
