"""Tiny random models of every shape the project promises, made by `transformers`, the independent judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.tokenizer.vocabularies import NUM_SMALL

VOCAB_SIZE = NUM_SMALL  # a GGUF file must hold a vocabulary
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "attn_implementation": "eager",
}


def _rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, **values}


def mistral_windowed() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=9))


def mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=5, num_experts_per_tok=2, sliding_window=None))


def head_dim_given() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**SIZES, head_dim=24, sliding_window=None))


def tied_embeddings() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None, tie_word_embeddings=True))


def interleaved_windows() -> Any:
    from transformers import MinistralConfig, MinistralForCausalLM

    layer_types = ["full_attention", "sliding_attention", "sliding_attention"]
    return MinistralForCausalLM(MinistralConfig(**SIZES, head_dim=16, sliding_window=7, layer_types=layer_types))


def llama_linear_rope() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=_rope("linear", factor=4.0)))


def yarn_rope() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    yarn = _rope("yarn", factor=4.0, original_max_position_embeddings=128, beta_fast=32.0, beta_slow=1.0)
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None, rope_parameters=yarn))


def wide() -> Any:
    """Rows of 256 weights, the block of llama.cpp's K-quants."""
    from transformers import MistralConfig, MistralForCausalLM

    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    return MistralForCausalLM(MistralConfig(**sizes, sliding_window=None))


BUILDERS: dict[str, Callable[[], Any]] = {
    builder.__name__: builder
    for builder in (
        mistral_windowed,
        mixtral,
        head_dim_given,
        tied_embeddings,
        interleaved_windows,
        llama_linear_rope,
        yarn_rope,
    )
}


def build(name: str, std: float = 0.2) -> Any:
    """The named model with fixed random weights, float32, in evaluation mode.

    With `std` 0.2 attention is far from uniform, and a small error grows through the layers: the sharpest test for
    float32. 0.08 is as calm as a trained model, for comparisons between formats that round differently.
    """
    torch.manual_seed(sum(map(ord, name)))
    model = (wide if name == "wide" else BUILDERS[name])().float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, std)
    return model


def token_ids(num_tokens: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB_SIZE, (num_tokens,), generator=generator).tolist()


def judge_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """float32 (T, V) as `transformers` computes them."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids])).logits[0].float()
    return logits
