"""Weights that mean harm, or nothing at all: every answer is text or one line of error, and others are not touched. Run
under sanitizers too (tests/native/test_sanitizers.py), where no such number may lead a kernel astray."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.model.tiny import tiny_config, tiny_model
from tests.tokenizer.vocabularies import ours
from tramontane import LLM, SamplingParams
from tramontane.config import MoeConfig
from tramontane.errors import TramontaneError
from tramontane.loading import save_checkpoint

HOSTILE = {
    "nan": float("nan"), "infinity": float("inf"), "minus infinity": -float("inf"), "huge": 3e38, "tiny": 1e-45,
    "zero": 0.0,
}  # fmt: skip
TENSORS = (
    "tok_embeddings.weight", "layers.1.attention_norm.weight", "layers.1.attention.wq.weight",
    "layers.1.attention.wv.weight",
    "layers.1.feed_forward.gate.weight", "layers.1.feed_forward.experts.1.w1.weight",
    "layers.1.feed_forward.experts.0.w2.weight", "norm.weight", "output.weight",
)  # fmt: skip
FORMATS = ("auto", "f32", "bf16", "q8_0", "q4_k")
GREEDY = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
SAMPLED = SamplingParams(max_tokens=6, temperature=1.0, top_p=0.9, seed=1, logprobs=2, ignore_eos=True)


def write_checkpoint(out: Path, *, tensor: str, value: float, everywhere: bool) -> Path:
    tokenizer = ours("v7-small")
    model = tiny_model(
        tiny_config(
            family="mixtral", dim=256, n_heads=4, head_dim=64, hidden_dim=256, vocab_size=tokenizer.vocab_size,
            moe=MoeConfig(num_experts=3, num_experts_per_tok=2), sliding_windows=16,
        )
    )  # fmt: skip
    weights: dict[str, Tensor] = model.state_dict()
    with torch.no_grad():
        chosen = weights[tensor].flatten()
        chosen[:: 1 if everywhere else 97] = value
        weights[tensor] = chosen.reshape(weights[tensor].shape)
    save_checkpoint(out, model.config, weights.items(), layout="hf", stored="F32", tokenizer=tokenizer)
    return out


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("tensor", TENSORS)
def test_each_answer_is_text_or_one_line(tensor: str, name: str, tmp_path: Path) -> None:
    case = list(HOSTILE).index(name) + TENSORS.index(tensor)
    path = write_checkpoint(tmp_path / "hostile", tensor=tensor, value=HOSTILE[name], everywhere=case % 2 == 0)
    try:
        llm = LLM(str(path), kv_cache_gib=0.01, weight_format=FORMATS[case % len(FORMATS)])
    except TramontaneError as error:
        refusal = str(error)
        assert "\n" not in refusal
        return
    for params in (GREEDY, SAMPLED):
        for answer in llm.generate(["The wind beside the Mistral " * 3, "a"], params):
            [choice] = answer.choices
            if choice.finish_reason == "error":
                assert choice.error
                assert "\n" not in choice.error
            else:
                assert len(choice.token_ids) == params.max_tokens
    llm.engine.check_integrity()
