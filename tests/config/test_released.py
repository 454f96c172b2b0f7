"""Every named model reads as what it is known to be, and survives being written in each form."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest
from transformers import AutoConfig

from tests.config.released import RELEASED, Released
from tramontane.config import (
    ModelConfig,
    read_gguf_config,
    read_hf_config,
    read_params_json,
    to_gguf_metadata,
    to_hf_config,
    to_params_json,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("released", RELEASED.values(), ids=RELEASED)
def test_reads_what_is_known(released: Released) -> None:
    config = released.read()
    assert config.num_parameters() == released.num_parameters
    assert config.family == released.family
    assert config.sliding_windows == (released.window,) * config.n_layers
    assert config.max_seq_len == released.max_seq_len
    assert config.rope_theta == released.rope_theta
    assert config.head_dim == 128
    assert config.norm_eps in (1e-5, 1e-6)
    assert not config.tied_embeddings
    assert config.rope_scaling is None


def test_active_parameters_of_mixtral() -> None:
    config = RELEASED["mixtral-8x7b-v0.1"].read()
    assert config.moe is not None
    assert (config.moe.num_experts, config.moe.num_experts_per_tok) == (8, 2)
    assert config.num_parameters(active=True) == 12_879_925_248


def test_nemo_has_heads_narrower_than_its_width() -> None:
    config = RELEASED["mistral-nemo-12b-2407"].read()
    assert (config.dim, config.n_heads, config.head_dim, config.n_kv_heads) == (5120, 32, 128, 8)


@pytest.mark.parametrize("name", [name for name, released in RELEASED.items() if released.form == "hf"])
def test_consolidated_and_gguf_forms_of_a_model_agree(name: str) -> None:
    config = RELEASED[name].read()
    for form in ("consolidated", "gguf"):
        other = RELEASED.get(f"{name} {form}")
        if other is not None:
            length = config.max_seq_len  # which the older params.json do not state
            assert dataclasses.replace(other.read(), family=config.family, max_seq_len=length) == config


@pytest.mark.parametrize("released", RELEASED.values(), ids=RELEASED)
def test_survives_each_written_form(released: Released) -> None:
    config = released.read()

    def same(other: ModelConfig) -> bool:
        return dataclasses.replace(other, family=config.family) == config

    assert same(read_hf_config(json.loads(json.dumps(to_hf_config(config)))))
    assert same(read_params_json(json.loads(json.dumps(to_params_json(config)))))
    assert same(read_gguf_config(to_gguf_metadata(config)))


@pytest.mark.parametrize("released", RELEASED.values(), ids=RELEASED)
def test_transformers_reads_the_written_config(released: Released, tmp_path: Path) -> None:
    config = released.read()
    (tmp_path / "config.json").write_text(json.dumps(to_hf_config(config)))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert theirs.hidden_size == config.dim
    assert theirs.intermediate_size == config.hidden_dim
    assert theirs.num_hidden_layers == config.n_layers
    assert theirs.num_attention_heads == config.n_heads
    assert theirs.num_key_value_heads == config.n_kv_heads
    assert theirs.head_dim == config.head_dim
    assert theirs.vocab_size == config.vocab_size
    assert theirs.rms_norm_eps == config.norm_eps
    assert theirs.rope_parameters == {"rope_type": "default", "rope_theta": config.rope_theta}
    assert theirs.max_position_embeddings == config.max_seq_len
    assert getattr(theirs, "sliding_window", None) == released.window
    again = read_hf_config(theirs.to_dict())
    assert dataclasses.replace(again, family=config.family) == config
