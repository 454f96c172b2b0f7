"""Configuration files of released models, as published beside their weights, and what is known of each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tramontane.config import ModelConfig, read_gguf_config, read_hf_config, read_params_json

_HF: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "mistral",
    "rms_norm_eps": 1e-05,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.0.dev0",
    "use_cache": True,
}
_HF_7B = _HF | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rope_theta": 1000000.0,
    "vocab_size": 32768,
}
_HF_22B = _HF_7B | {
    "head_dim": 128,
    "hidden_size": 6144,
    "intermediate_size": 16384,
    "num_attention_heads": 48,
    "num_hidden_layers": 56,
}
_HF_24B = _HF | {
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 32768,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "rope_theta": 100000000.0,
    "vocab_size": 131072,
}
_HF_MIXTRAL = _HF_7B | {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.02,
    "vocab_size": 32000,
}
_HF_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
_HF_SMALL_3_1: dict[str, Any] = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "image_token_index": 10,
    "model_type": "mistral3",
    "multimodal_projector_bias": False,
    "projector_hidden_act": "gelu",
    "spatial_merge_size": 2,
    "text_config": {
        "attention_dropout": 0.0,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 5120,
        "initializer_range": 0.02,
        "intermediate_size": 32768,
        "max_position_embeddings": 131072,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000000.0,
        "sliding_window": None,
        "use_cache": True,
        "vocab_size": 131072,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {
        "attention_dropout": 0.0,
        "head_dim": 64,
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "image_size": 1540,
        "initializer_range": 0.02,
        "intermediate_size": 4096,
        "model_type": "pixtral",
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "rope_theta": 10000.0,
    },
    "vision_feature_layer": -1,
}

_PARAMS_7B: dict[str, Any] = {
    "dim": 4096,
    "n_layers": 32,
    "head_dim": 128,
    "hidden_dim": 14336,
    "n_heads": 32,
    "n_kv_heads": 8,
    "norm_eps": 1e-05,
    "vocab_size": 32768,
}
_PARAMS_24B = _PARAMS_7B | {
    "dim": 5120,
    "n_layers": 40,
    "hidden_dim": 32768,
    "vocab_size": 131072,
    "rope_theta": 100000000.0,
}
_PARAMS_VISION = {
    "hidden_size": 1024,
    "num_channels": 3,
    "max_image_size": 1540,
    "patch_size": 14,
    "rope_theta": 10000.0,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "adapter_bias": False,
    "mm_projector_id": "patch_merge",
    "spatial_merge_size": 2,
    "add_pre_mm_projector_layer_norm": True,
    "image_token_id": 10,
    "image_break_token_id": 12,
    "image_end_token_id": 13,
    "image_size": 1540,
}
_META_7B: dict[str, Any] = {
    "dim": 4096,
    "multiple_of": 256,
    "n_heads": 32,
    "n_layers": 32,
    "norm_eps": 1e-05,
    "vocab_size": -1,
}
_META_70B = {"dim": 8192, "n_heads": 64, "n_layers": 80, "norm_eps": 1e-05, "vocab_size": -1}
_META_CODE = {"multiple_of": 256, "ffn_dim_multiplier": 1.0, "norm_eps": 1e-5, "rope_theta": 1000000}

_GGUF_7B: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "mistralai_mistral-7b-instruct-v0.2",
    "general.file_type": 15,
    "general.quantization_version": 2,
    "llama.context_length": 32768,
    "llama.embedding_length": 4096,
    "llama.block_count": 32,
    "llama.feed_forward_length": 14336,
    "llama.rope.dimension_count": 128,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
    "llama.rope.freq_base": 1000000.0,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>"],
    "tokenizer.ggml.bos_token_id": 1,
}
_GGUF_NEMO = _GGUF_7B | {
    "general.name": "Mistral Nemo Instruct 2407",
    "general.base_model.0.organization": "Mistralai",
    "llama.block_count": 40,
    "llama.context_length": 1024000,
    "llama.embedding_length": 5120,
    "llama.attention.key_length": 128,
    "llama.attention.value_length": 128,
    "llama.vocab_size": 131072,
    "quantize.imatrix.file": "imatrix.dat",
    "split.count": 1,
}


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
        _HF_7B | {"sliding_window": 4096, "rope_theta": 10000.0, "vocab_size": 32000},
        "mistral",
        7_241_732_096,
        window=4096,
        rope_theta=1e4,
    ),
    "mistral-7b-instruct-v0.2": Released("hf", _HF_7B | {"vocab_size": 32000}, "mistral", 7_241_732_096),
    "mistral-7b-v0.3": Released("hf", _HF_7B, "mistral", 7_248_023_552),
    "mathstral-7b-v0.1": Released("hf", _HF_7B, "mistral", 7_248_023_552),
    "mixtral-8x7b-v0.1": Released("hf", _HF_MIXTRAL, "mixtral", 46_702_792_704),
    "mixtral-8x22b-v0.1": Released(
        "hf",
        _HF_MIXTRAL
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
        _HF_24B | {"intermediate_size": 14336, "max_position_embeddings": 1024000, "rope_theta": 1000000.0},
        "mistral",
        12_247_782_400,
        max_seq_len=1024000,
    ),
    "mistral-small-22b-2409": Released("hf", _HF_22B, "mistral", 22_247_282_688),
    "codestral-22b-v0.1": Released("hf", _HF_22B, "mistral", 22_247_282_688),
    "mistral-small-24b-2501": Released("hf", _HF_24B, "mistral", 23_572_403_200, rope_theta=1e8),
    "mistral-small-3.1-24b-2503": Released(
        "hf", _HF_SMALL_3_1, "mistral", 23_572_403_200, max_seq_len=131072, rope_theta=1e9
    ),
    "devstral-small-24b-2505": Released(
        "hf",
        _HF_24B | {"max_position_embeddings": 131072, "rope_theta": 1000000000.0, "transformers_version": "4.51.3"},
        "mistral",
        23_572_403_200,
        max_seq_len=131072,
        rope_theta=1e9,
    ),
    "magistral-small-24b-2506": Released(
        "hf",
        _HF_24B | {"max_position_embeddings": 40960, "rope_theta": 1000000000.0, "transformers_version": "4.52.4"},
        "mistral",
        23_572_403_200,
        max_seq_len=40960,
        rope_theta=1e9,
    ),
    "ministral-8b-2410": Released(
        "hf",
        _HF
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
        _HF_7B
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
    "llama-2-7b": Released("hf", _HF_LLAMA, "llama", 6_738_415_616, max_seq_len=4096, rope_theta=1e4),
    "llama-2-13b": Released(
        "hf",
        _HF_LLAMA
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
        _HF_LLAMA
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
        _HF_LLAMA | {"max_position_embeddings": 16384, "rope_theta": 1000000, "vocab_size": 32016},
        "llama",
        6_738_546_688,
        max_seq_len=16384,
    ),
    "mistral-7b-v0.1 consolidated": Released(
        "params",
        _PARAMS_7B | {"sliding_window": 4096, "vocab_size": 32000},
        "mistral",
        7_241_732_096,
        window=4096,
        rope_theta=1e4,
    ),
    "mistral-7b-instruct-v0.2 consolidated": Released(
        "params", _PARAMS_7B | {"rope_theta": 1000000.0, "vocab_size": 32000}, "mistral", 7_241_732_096
    ),
    "mistral-7b-v0.3 consolidated": Released(
        "params", _PARAMS_7B | {"rope_theta": 1000000.0}, "mistral", 7_248_023_552
    ),
    "mixtral-8x7b-v0.1 consolidated": Released(
        "params",
        _PARAMS_7B | {"vocab_size": 32000, "max_batch_size": 0, "moe": {"num_experts_per_tok": 2, "num_experts": 8}},
        "mixtral",
        46_702_792_704,
    ),
    "mistral-nemo-12b-2407 consolidated": Released(
        "params", _PARAMS_24B | {"hidden_dim": 14336, "rope_theta": 1000000.0}, "mistral", 12_247_782_400
    ),
    "mistral-small-24b-2501 consolidated": Released(
        "params", _PARAMS_24B | {"max_seq_len": 32768}, "mistral", 23_572_403_200, rope_theta=1e8
    ),
    "mistral-small-3.1-24b-2503 consolidated": Released(
        "params",
        _PARAMS_24B
        | {
            "rope_theta": 1000000000.0,
            "max_position_embeddings": 131072,
            "use_biases": False,
            "causal": True,
            "vision_encoder": _PARAMS_VISION,
        },
        "mistral",
        23_572_403_200,
        max_seq_len=131072,
        rope_theta=1e9,
    ),
    "llama-1-7b consolidated": Released(
        "params",
        _META_7B | {"norm_eps": 1e-06},
        "llama",
        6_738_415_616,
        max_seq_len=2048,
        rope_theta=1e4,
        vocab_size=32000,
    ),
    "llama-1-30b consolidated": Released(
        "params",
        _META_7B | {"dim": 6656, "n_heads": 52, "n_layers": 60, "norm_eps": 1e-06},
        "llama",
        32_528_943_616,
        max_seq_len=2048,
        rope_theta=1e4,
        vocab_size=32000,
    ),
    "llama-1-65b consolidated": Released(
        "params",
        _META_70B | {"multiple_of": 256},
        "llama",
        65_285_660_672,
        max_seq_len=2048,
        rope_theta=1e4,
        vocab_size=32000,
    ),
    "llama-2-7b consolidated": Released(
        "params", _META_7B, "llama", 6_738_415_616, max_seq_len=4096, rope_theta=1e4, vocab_size=32000
    ),
    "llama-2-70b consolidated": Released(
        "params",
        _META_70B | {"multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_kv_heads": 8},
        "llama",
        68_976_648_192,
        max_seq_len=4096,
        rope_theta=1e4,
        vocab_size=32000,
    ),
    "code-llama-13b consolidated": Released(
        "params",
        _META_CODE | {"dim": 5120, "n_layers": 40, "n_heads": 40},
        "llama",
        13_016_028_160,
        max_seq_len=16384,
        vocab_size=32016,
    ),
    "code-llama-34b consolidated": Released(
        "params",
        _META_CODE | {"dim": 8192, "n_layers": 48, "n_heads": 64, "n_kv_heads": 8},
        "llama",
        33_743_970_304,
        max_seq_len=16384,
        vocab_size=32000,
    ),
    "mistral-7b-instruct-v0.2 gguf": Released("gguf", _GGUF_7B, "llama", 7_241_732_096, vocab_size=32000),
    "mixtral-8x7b gguf": Released(
        "gguf",
        _GGUF_7B | {"llama.expert_count": 8, "llama.expert_used_count": 2, "llama.vocab_size": 32000},
        "mixtral",
        46_702_792_704,
    ),
    "mistral-nemo-12b gguf": Released("gguf", _GGUF_NEMO, "llama", 12_247_782_400, max_seq_len=1024000),
}
