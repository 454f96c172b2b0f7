"""Packed models: one native call per step gives the bits of the single operations, in any company."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.answers import Answer, run
from tests.model.tiny import tiny_config, tiny_model
from tramontane.config import ModelConfig, MoeConfig
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import ConfigError
from tramontane.model.lora import Lora, attach_lora, merge_lora
from tramontane.model.packed import finish, pack, packable, set_packed
from tramontane.model.packed_attention import packed_input
from tramontane.model.transformer import Transformer
from tramontane.ops import _cpu
from tramontane.ops.cpu import CpuOps
from tramontane.ops.packed_weight import PackedWeight, WeightFormat

SHAPE: dict[str, Any] = {"dim": 64, "n_heads": 4, "head_dim": 16, "hidden_dim": 96}
DENSE = tiny_config(**SHAPE, sliding_windows=(None, 9, 40), tied_embeddings=True)
MIXTURE = tiny_config(**SHAPE, moe=MoeConfig(num_experts=4, num_experts_per_tok=2))
PROMPTS = [tuple(range(1, 60)), (5,), (7, 8, 9), tuple(range(30, 64))]
PARAMS = SamplingParams(max_tokens=6, logprobs=3, prompt_logprobs=1)


def packed_model(config: ModelConfig, weight_format: WeightFormat, *, stepwise: bool = False) -> Transformer:
    model = Transformer(config, CpuOps(threads=1)).requires_grad_(False)
    model.load_state_dict(tiny_model(config).state_dict())
    pack(model, weight_format)
    if stepwise:
        model.decoder = None
    return model


def answers(model: Transformer, prompts: list[tuple[int, ...]], **changes: Any) -> list[Answer]:
    engine = Engine(model, EngineConfig(page_size=8, max_sequences=4, **changes))
    request_ids = [engine.add(prompt, PARAMS) for prompt in prompts]
    done = run(engine)
    return [done.of(request_id, 0) for request_id in request_ids]


@pytest.mark.parametrize("config", [DENSE, MIXTURE], ids=["dense", "mixture"])
@pytest.mark.parametrize("weight_format", ["f32", "bf16", "q8_0", "q4_0"])
def test_one_call_gives_the_bits_of_the_operations(config: ModelConfig, weight_format: WeightFormat) -> None:
    fused = answers(packed_model(config, weight_format), PROMPTS, max_batch_tokens=37)
    assert fused == answers(packed_model(config, weight_format, stepwise=True), PROMPTS, max_batch_tokens=37)


@pytest.mark.parametrize("config", [DENSE, MIXTURE], ids=["dense", "mixture"])
@pytest.mark.parametrize("weight_format", ["f32", "bf16", "q8_0", "q4_0"])
def test_answers_are_bit_equal_in_any_company_and_chunking(config: ModelConfig, weight_format: WeightFormat) -> None:
    model = packed_model(config, weight_format)
    alone = [answers(model, [prompt])[0] for prompt in PROMPTS]
    for max_batch_tokens in (512, 16):
        for threads in (1, 2):
            _cpu.set_num_threads(threads)
            assert answers(model, PROMPTS, max_batch_tokens=max_batch_tokens) == alone
    _cpu.set_num_threads(1)


@pytest.mark.parametrize("config", [DENSE, MIXTURE], ids=["dense", "mixture"])
def test_float32_weights_give_the_plain_model_s_logits(config: ModelConfig) -> None:
    plain, packed = tiny_model(config), packed_model(config, "f32")

    def logits(model: Transformer) -> Tensor:
        token_ids = torch.tensor([*PROMPTS[0], *PROMPTS[2]])
        return model.logits(model(packed_input(model, token_ids, [len(PROMPTS[0]), len(PROMPTS[2])])))

    torch.testing.assert_close(logits(packed), logits(plain), rtol=1e-4, atol=1e-4)
    assert answers(packed, PROMPTS)[0].token_ids == answers(plain, PROMPTS)[0].token_ids


def test_an_adapter_is_heard_through_packed_weights() -> None:
    model = packed_model(DENSE, "q8_0")
    before = answers(model, PROMPTS[:1])
    attach_lora(model, rank=2, alpha=4.0, targets=["wq"])
    assert answers(model, PROMPTS[:1])[0].token_ids == before[0].token_ids  # a fresh adapter changes nothing
    for module in model.modules():
        if isinstance(module, Lora):
            module.b.data.fill_(1.0)
    assert answers(model, PROMPTS[:1])[0].logprobs != before[0].logprobs
    with pytest.raises(ConfigError, match="cannot be merged into q8_0 weights"):
        merge_lora(model)


def test_packed_weights_take_the_place_of_parameters() -> None:
    model = packed_model(MIXTURE, "q8_0")
    held = dict(packable(model))
    assert set(held) == {name for name, p in tiny_model(MIXTURE).named_parameters() if "norm" not in name}
    assert [name for name, _ in model.named_parameters() if "norm" not in name] == []
    routers = {name for name, module in held.items() if module.packed is not None and module.packed.format == "f32"}
    assert routers == {f"layers.{i}.feed_forward.gate.weight" for i in range(3)}
    assert model.dtype == torch.float32
    assert model.device == torch.device("cpu")


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ConfigError, match="q4_k weights need a multiple of 256 inputs, not 64"):
        packed_model(DENSE, "q4_k")
    model = tiny_model(DENSE)
    with pytest.raises(ConfigError, match="needs every weight packed"):
        finish(model)
    with pytest.raises(ValueError, match="cannot be replaced"):
        set_packed(model.tok_embeddings, PackedWeight.from_tensor(torch.zeros(3, 64), "f32"))
    wide = tiny_config(n_layers=1, dim=64, n_heads=1, n_kv_heads=1, head_dim=512)
    with pytest.raises(ConfigError, match="attention heads of a shape the kernels do not cover"):
        packed_model(wide, "f32")


def test_a_step_that_names_what_is_not_there_is_refused() -> None:
    model = packed_model(DENSE, "q8_0")
    engine = Engine(model, EngineConfig(page_size=8))
    engine.add((1, 2), PARAMS)
    real_forward = model.forward
    token_ids: list[Tensor] = []

    def spoil(forward_input: Any) -> Tensor:
        forward_input.token_ids[0] = 5000
        token_ids.append(forward_input.token_ids)
        return real_forward(forward_input)

    model.forward = spoil  # type: ignore[method-assign]
    with pytest.raises(IndexError, match="token id 5000 of a vocabulary of 101"):
        engine.step()
    assert len(token_ids) == 1
