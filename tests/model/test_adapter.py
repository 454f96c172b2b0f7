"""Adapters that rows carry: the same on every way through the model, and what training computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.engine.answers import Answer, run
from tests.engine.trials import random_adapter
from tests.model.test_packed import DENSE, MIXTURE, PARAMS, PROMPTS, packed_model
from tests.model.tiny import tiny_model
from tramontane.config import ModelConfig
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import ConfigError
from tramontane.model.adapter import Adapter
from tramontane.model.linear import Linear
from tramontane.model.lora import Lora, attach_lora
from tramontane.model.transformer import Transformer
from tramontane.ops import _cpu

BOTH = pytest.mark.parametrize("config", [DENSE, MIXTURE], ids=["dense", "mixture"])


def answers(model: Transformer, adapters: list[Adapter | None], **changes: Any) -> list[Answer]:
    """To each prompt, with the adapter of the same index."""
    engine = Engine(model, EngineConfig(page_size=8, max_sequences=4, **changes))
    pairs = zip(PROMPTS, adapters, strict=True)
    request_ids = [engine.add(prompt, PARAMS, adapter=adapter) for prompt, adapter in pairs]
    done = run(engine)
    return [done.of(request_id, 0) for request_id in request_ids]


@BOTH
def test_one_call_gives_the_bits_of_the_operations(config: ModelConfig) -> None:
    found = []
    for stepwise in (False, True):
        model = packed_model(config, "q8_0", stepwise=stepwise)
        first, second = random_adapter(model, 0), random_adapter(model, 1, ["wk", "w1"])
        found.append(answers(model, [first, None, second, first], max_batch_tokens=37))
    assert found[0] == found[1]


@BOTH
def test_bare_rows_have_the_bits_they_have_without_adapters(config: ModelConfig) -> None:
    model = packed_model(config, "q4_0")
    adapter = random_adapter(model, 0)
    bare = answers(model, [None] * 4)
    mixed = answers(model, [adapter, None, adapter, None])
    assert [mixed[1], mixed[3]] == [bare[1], bare[3]]
    assert mixed[0].logprobs != bare[0].logprobs


@BOTH
def test_an_adapter_says_what_it_said_in_training(config: ModelConfig) -> None:
    trained, served = tiny_model(config), tiny_model(config)
    attach_lora(trained, rank=4, alpha=8.0)
    torch.manual_seed(1)
    weights = {}
    for name, module in trained.named_modules():
        if isinstance(module, Linear) and isinstance(module.lora, Lora):
            torch.nn.init.normal_(module.lora.b, std=0.2)
            weights[name] = (module.lora.a.detach(), module.lora.b.detach(), 2.0)
    adapter = Adapter(served, weights, "digest")
    with torch.no_grad():
        expected = answers(trained, [None] * 4)
    for found, wanted in zip(answers(served, [adapter] * 4), expected, strict=True):
        assert found.token_ids == wanted.token_ids
        for ours, theirs in zip(found.logprobs, wanted.logprobs, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)


def test_pages_are_shared_between_equal_adapters_only() -> None:
    model = packed_model(DENSE, "q8_0")
    first, again, other = random_adapter(model, 0), random_adapter(model, 0), random_adapter(model, 1)
    engine = Engine(model, EngineConfig(page_size=8))
    cached = []
    for adapter in (None, first, other, again, None):
        request_id = engine.add(PROMPTS[0], SamplingParams(max_tokens=2), adapter=adapter)
        cached.append(run(engine).of(request_id).num_cached_tokens > 0)
    assert cached == [False, False, False, True, True]


def test_what_does_not_fit_is_refused() -> None:
    model = packed_model(DENSE, "q8_0")
    with pytest.raises(ConfigError, match=f"rank 1 to {_cpu.max_rank}"):
        random_adapter(model, 0, ["wq"], rank=_cpu.max_rank + 1)
    with pytest.raises(ValueError, match="made for another model"):
        Engine(model, EngineConfig()).add((1,), PARAMS, adapter=random_adapter(packed_model(DENSE, "q8_0"), 0))


def test_what_names_no_adapter_has_the_engines_own() -> None:
    model = packed_model(DENSE, "q8_0")
    own, other = random_adapter(model, 0), random_adapter(model, 1)
    engine = Engine(model, EngineConfig(page_size=8), default_adapter=own)
    bare = Engine(model, EngineConfig(page_size=8))
    for call in (Engine.logits, Engine.score):
        assert _equal(call(engine, PROMPTS[0]), call(bare, PROMPTS[0], adapter=own))
        assert _equal(call(engine, PROMPTS[0], adapter=other), call(bare, PROMPTS[0], adapter=other))
        assert not _equal(call(engine, PROMPTS[0]), call(bare, PROMPTS[0]))
    assert torch.equal(engine.embed(PROMPTS[:2]), bare.embed(PROMPTS[:2], adapter=own))
    drawn = []
    for each, given in ((engine, None), (bare, own)):
        request_id = each.add(PROMPTS[0], PARAMS, adapter=given)
        drawn.append(run(each).of(request_id, 0).token_ids)
    assert drawn[0] == drawn[1]


def _equal(ours: Any, theirs: Any) -> bool:
    return torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else bool(ours == theirs)
