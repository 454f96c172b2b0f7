"""Every key of every file deleted, or given a value of each wrong kind: it reads, or it is a ConfigError."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.config.released import RELEASED
from tramontane.config import ModelConfig, read_gguf_config, read_hf_config, read_params_json
from tramontane.errors import ConfigError

WRONG: list[Any] = [
    *(None, True, False, "", "x", "\n\x1b[31m", [], [1], [None] * 3, {}, {"a": {"b": []}}, [[[]]], {"factor": 0}),
    *(-(2**63), -1, 0, 1, 2, 3, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1, 10**30),
    *(-1.0, 0.0, 1e-300, 0.5, 1e300, math.nan, math.inf, -math.inf),
]
YARN_KEYS = [
    "rope_theta",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "mscale",
    "truncate",
    "type",
]
SECTIONS: dict[str, list[Any]] = {
    "rope_scaling": [{"type": kind, "factor": value} for kind in ("linear", "yarn", "default") for value in WRONG],
    "rope_parameters": [
        {"rope_type": "yarn", "factor": 2.0, key: value}
        for key in (
            "rope_theta",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "mscale",
            "truncate",
            "type",
        )
        for value in WRONG
    ],
    "layer_types": [[value] * 32 for value in WRONG],
    "yarn": [{"factor": value, "original_max_position_embeddings": 8} for value in WRONG],
    "moe": [{"num_experts": value, "num_experts_per_tok": 1} for value in WRONG],
    "sliding_window": [[value] * 32 for value in WRONG],
    "multiple_of": WRONG,
    "ffn_dim_multiplier": WRONG,
    "llama.rope.scaling.type": WRONG,
    "llama.rope.scaling.factor": WRONG,
    "llama.attention.head_count_kv": [[value] * 32 for value in (1, 8, 0, "x", None, True, 0.5)],
    "llama.attention.sliding_window_pattern": [[value] * 32 for value in WRONG],
    "llama.expert_count": WRONG,
}
Reader = Callable[[Mapping[str, Any]], ModelConfig]
FILES: dict[str, tuple[str, Reader]] = {
    "config.json": ("mixtral-8x7b-v0.1", read_hf_config),
    "config.json of a wrapper": ("mistral-small-3.1-24b-2503", read_hf_config),
    "params.json": ("mixtral-8x7b-v0.1 consolidated", read_params_json),
    "params.json of Meta": ("llama-2-70b consolidated", lambda data: read_params_json(data, vocab_size=32000)),
    "gguf": ("mixtral-8x7b gguf", read_gguf_config),
}


@pytest.mark.parametrize(("model", "read"), FILES.values(), ids=FILES)
def test_wrong_values_are_config_errors(model: str, read: Reader) -> None:
    data = RELEASED[model].data
    num_read = num_refused = 0
    for key in {*data, *SECTIONS}:
        variants = [{**data, key: value} for value in (*WRONG, *SECTIONS.get(key, ()))]
        variants.append({other: value for other, value in data.items() if other != key})
        for variant in variants:
            outcome = attempt(read, variant)
            if isinstance(outcome, ModelConfig):
                num_read += 1
                assert outcome.num_parameters() > 0
            else:
                num_refused += 1
                assert outcome.isprintable()
                assert len(outcome) < 500
    assert min(num_refused, num_read) > 10


def attempt(read: Reader, data: Mapping[str, Any]) -> ModelConfig | str:
    """The model, or the message of the refusal."""
    try:
        return read(data)
    except ConfigError as error:
        return str(error)
