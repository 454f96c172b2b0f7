"""Configuration files of released models, and what is known of each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.config.published_files import (
    GGUF_7B,
    GGUF_NEMO,
    HF,
    HF_7B,
    HF_22B,
    HF_24B,
    HF_LLAMA,
    HF_MIXTRAL,
    HF_SMALL_3_1,
    META_7B,
    META_70B,
    META_CODE,
    PARAMS_7B,
    PARAMS_24B,
    PARAMS_VISION,
)
from tramontane.config import ModelConfig, read_gguf_config, read_hf_config, read_params_json


@dataclass(frozen=True)
class Released:
    """One published file. `num_parameters` is what the model card or the safetensors index states."""

    form: str  # hf, params or gguf
    data: Mapping[str, Any]
    family: str
    num_parameters: int
    window: int | None = None
    max_seq_len: int = 32768
    rope_theta: float = 1e6
    vocab_size: int | None = None  # rows of the embeddings, where the file does not say

    def read(self) -> ModelConfig:
        if self.form == "hf":
            return read_hf_config(self.data)
        if self.form == "params":
            return read_params_json(self.data, vocab_size=self.vocab_size)
        return read_gguf_config(self.data, vocab_size=self.vocab_size)


RELEASED: dict[str, Released] = {
    "mistral-7b-v0.1": Released(
        "hf",
        HF_7B | {"sliding_window": 4096, "rope_theta": 10000.0, "vocab_size": 32000},
        "mistral",
        7_241_732_096,
        window=4096,
        rope_theta=1e4,
    ),
    "mistral-7b-instruct-v0.2": Released("hf", HF_7B | {"vocab_size": 32000}, "mistral", 7_241_732_096),
    "mistral-7b-v0.3": Released("hf", HF_7B, "mistral", 7_248_023_552),
    "mathstral-7b-v0.1": Released("hf", HF_7B, "mistral", 7_248_023_552),
    "mixtral-8x7b-v0.1": Released("hf", HF_MIXTRAL, "mixtral", 46_702_792_704),
    "mixtral-8x22b-v0.1": Released(
        "hf",
        HF_MIXTRAL
        | {
            "hidden_size": 6144,
            "intermediate_size": 16384,
            "max_position_embeddings": 65536,
            "num_attention_heads": 48,
            "num_hidden_layers": 56,
            "router_jitter_noise": 0.0,
        },
        "mixtral",
        140_620_634_112,
        max_seq_len=65536,
    ),
    "mistral-nemo-12b-2407": Released(
        "hf",
        HF_24B | {"intermediate_size": 14336, "max_position_embeddings": 1024000, "rope_theta": 1000000.0},
        "mistral",
        12_247_782_400,
        max_seq_len=1024000,
    ),
    "mistral-small-22b-2409": Released("hf", HF_22B, "mistral", 22_247_282_688),
    "codestral-22b-v0.1": Released("hf", HF_22B, "mistral", 22_247_282_688),
    "mistral-small-24b-2501": Released("hf", HF_24B, "mistral", 23_572_403_200, rope_theta=1e8),
    "mistral-small-3.1-24b-2503": Released(
        "hf", HF_SMALL_3_1, "mistral", 23_572_403_200, max_seq_len=131072, rope_theta=1e9
    ),
    "devstral-small-24b-2505": Released(
        "hf",
        HF_24B | {"max_position_embeddings": 131072, "rope_theta": 1000000000.0, "transformers_version": "4.51.3"},
        "mistral",
        23_572_403_200,
        max_seq_len=131072,
        rope_theta=1e9,
    ),
    "magistral-small-24b-2506": Released(
        "hf",
        HF_24B | {"max_position_embeddings": 40960, "rope_theta": 1000000000.0, "transformers_version": "4.52.4"},
        "mistral",
        23_572_403_200,
        max_seq_len=40960,
        rope_theta=1e9,
    ),
    "ministral-8b-2410": Released(
        "hf",
        HF
        | {
            "head_dim": 128,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "max_position_embeddings": 32768,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
            "rope_theta": 100000000.0,
            "sliding_window": 32768,
            "vocab_size": 131072,
        },
        "mistral",
        8_019_808_256,
        window=32768,
        rope_theta=1e8,
    ),
    "mistral-large-123b-2407": Released(
        "hf",
        HF_7B
        | {
            "head_dim": 128,
            "hidden_size": 12288,
            "intermediate_size": 28672,
            "max_position_embeddings": 131072,
            "num_attention_heads": 96,
            "num_hidden_layers": 88,
        },
        "mistral",
        122_610_069_504,
        max_seq_len=131072,
    ),
    "llama-2-7b": Released("hf", HF_LLAMA, "llama", 6_738_415_616, max_seq_len=4096, rope_theta=1e4),
    "llama-2-13b": Released(
        "hf",
        HF_LLAMA
        | {
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_attention_heads": 40,
            "num_hidden_layers": 40,
            "num_key_value_heads": 40,
        },
        "llama",
        13_015_864_320,
        max_seq_len=4096,
        rope_theta=1e4,
    ),
    "llama-2-70b": Released(
        "hf",
        HF_LLAMA
        | {
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_attention_heads": 64,
            "num_hidden_layers": 80,
            "num_key_value_heads": 8,
        },
        "llama",
        68_976_648_192,
        max_seq_len=4096,
        rope_theta=1e4,
    ),
    "code-llama-7b": Released(
        "hf",
        HF_LLAMA | {"max_position_embeddings": 16384, "rope_theta": 1000000, "vocab_size": 32016},
        "llama",
        6_738_546_688,
        max_seq_len=16384,
    ),
    "mistral-7b-v0.1 consolidated": Released(
        "params",
        PARAMS_7B | {"sliding_window": 4096, "vocab_size": 32000},
        "mistral",
        7_241_732_096,
        window=4096,
        rope_theta=1e4,
    ),
    "mistral-7b-instruct-v0.2 consolidated": Released(
        "params", PARAMS_7B | {"rope_theta": 1000000.0, "vocab_size": 32000}, "mistral", 7_241_732_096
    ),
    "mistral-7b-v0.3 consolidated": Released("params", PARAMS_7B | {"rope_theta": 1000000.0}, "mistral", 7_248_023_552),
    "mixtral-8x7b-v0.1 consolidated": Released(
        "params",
        PARAMS_7B | {"vocab_size": 32000, "max_batch_size": 0, "moe": {"num_experts_per_tok": 2, "num_experts": 8}},
        "mixtral",
        46_702_792_704,
    ),
    "mistral-nemo-12b-2407 consolidated": Released(
        "params", PARAMS_24B | {"hidden_dim": 14336, "rope_theta": 1000000.0}, "mistral", 12_247_782_400
    ),
    "mistral-small-24b-2501 consolidated": Released(
        "params", PARAMS_24B | {"max_seq_len": 32768}, "mistral", 23_572_403_200, rope_theta=1e8
    ),
    "mistral-small-3.1-24b-2503 consolidated": Released(
        "params",
        PARAMS_24B
        | {
            "rope_theta": 1000000000.0,
            "max_position_embeddings": 131072,
            "use_biases": False,
            "causal": True,
            "vision_encoder": PARAMS_VISION,
        },
        "mistral",
        23_572_403_200,
        max_seq_len=131072,
        rope_theta=1e9,
    ),
    "llama-1-7b consolidated": Released(
        "params",
        META_7B | {"norm_eps": 1e-06},
        "llama",
        6_738_415_616,
        max_seq_len=2048,
        rope_theta=1e4,
        vocab_size=32000,
    ),
    "llama-1-30b consolidated": Released(
        "params",
        META_7B | {"dim": 6656, "n_heads": 52, "n_layers": 60, "norm_eps": 1e-06},
        "llama",
        32_528_943_616,
        max_seq_len=2048,
        rope_theta=1e4,
        vocab_size=32000,
    ),
    "llama-1-65b consolidated": Released(
        "params",
        META_70B | {"multiple_of": 256},
        "llama",
        65_285_660_672,
        max_seq_len=2048,
        rope_theta=1e4,
        vocab_size=32000,
    ),
    "llama-2-7b consolidated": Released(
        "params", META_7B, "llama", 6_738_415_616, max_seq_len=4096, rope_theta=1e4, vocab_size=32000
    ),
    "llama-2-70b consolidated": Released(
        "params",
        META_70B | {"multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_kv_heads": 8},
        "llama",
        68_976_648_192,
        max_seq_len=4096,
        rope_theta=1e4,
        vocab_size=32000,
    ),
    "code-llama-13b consolidated": Released(
        "params",
        META_CODE | {"dim": 5120, "n_layers": 40, "n_heads": 40},
        "llama",
        13_016_028_160,
        max_seq_len=16384,
        vocab_size=32016,
    ),
    "code-llama-34b consolidated": Released(
        "params",
        META_CODE | {"dim": 8192, "n_layers": 48, "n_heads": 64, "n_kv_heads": 8},
        "llama",
        33_743_970_304,
        max_seq_len=16384,
        vocab_size=32000,
    ),
    "mistral-7b-instruct-v0.2 gguf": Released("gguf", GGUF_7B, "llama", 7_241_732_096, vocab_size=32000),
    "mixtral-8x7b gguf": Released(
        "gguf",
        GGUF_7B | {"llama.expert_count": 8, "llama.expert_used_count": 2, "llama.vocab_size": 32000},
        "mixtral",
        46_702_792_704,
    ),
    "mistral-nemo-12b gguf": Released("gguf", GGUF_NEMO, "llama", 12_247_782_400, max_seq_len=1024000),
}
