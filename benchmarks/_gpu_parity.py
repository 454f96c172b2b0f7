"""The torch path on a device beside the same models on the CPU in float32: scores, answers, adapters, gradients."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tramontane.config import ModelConfig
from tramontane.config.model_config import MoeConfig
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.logprobs import Logits
from tramontane.engine.sampling import SamplingParams
from tramontane.model.adapter import Adapter
from tramontane.model.forward_input import ForwardInput
from tramontane.model.init import initialise
from tramontane.model.linear import Linear
from tramontane.model.transformer import Transformer
from tramontane.ops.torch_ops import TorchOps
from tramontane.training.microbatch import VarlenAttention
from tramontane.training.model_setup import new_model, prepare

VOCAB_SIZE = 512
FLOAT32_TOLERANCE = 1e-3  # of scores, whose deviation is about 1: the order of sums alone differs
BFLOAT16_FACTOR = 2.0  # times the error that bfloat16 has on the CPU, and what follows for the smallest of those
BFLOAT16_FLOOR = 0.01
GRADIENT_TOLERANCE = 1e-3  # in float32, of a gradient's norm

Row = dict[str, Any]


def configs() -> dict[str, ModelConfig]:
    """A tiny model of each class; widths that tensor cores take."""
    common: Row = {
        "family": "mistral",
        "dim": 128,
        "n_layers": 4,
        "n_heads": 8,
        "n_kv_heads": 2,
        "head_dim": 32,
        "hidden_dim": 256,
        "vocab_size": VOCAB_SIZE,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_seq_len": 512,
        "sliding_windows": (None,) * 4,
    }
    return {
        "full attention": ModelConfig(**common),
        "a window": ModelConfig(**common | {"sliding_windows": (24,) * 4}),
        "windows in turns": ModelConfig(**common | {"sliding_windows": (None, 24, None, 24)}),
        "a mixture": ModelConfig(**common | {"moe": MoeConfig(num_experts=4, num_experts_per_tok=2)}),
        "no groups, tied": ModelConfig(**common | {"n_kv_heads": 8, "tied_embeddings": True}),
    }


def inference(device: torch.device, classes: Collection[str] | None = None) -> Iterator[Row]:
    """Scores of prompts alone, in chunks and in company; answers; adapters. A row each, `error` beside `allowed`."""
    for name, config in ((name, each) for name, each in configs().items() if classes is None or name in classes):
        judge = random_model(config)
        for dtype in (torch.float32, torch.bfloat16):
            tried = copy.deepcopy(judge).to(device=device, dtype=dtype)
            rounded = judge if dtype == torch.float32 else copy.deepcopy(judge).to(dtype)
            for what, error, allowed in differences(judge, tried, rounded):
                yield row(f"{name}, {dtype}, {what}".replace("torch.", ""), error, allowed)


def differences(judge: Transformer, tried: Transformer, rounded: Transformer) -> Iterator[tuple[str, float, float]]:
    """(what, difference of scores from `judge`, most that is allowed). `rounded`: `judge` in the type of `tried`."""
    prompts = random_prompts((3, 40, 1, 129, 64, 17, 33, 8))
    adapters = {model: random_adapter(model) for model in (judge, tried, rounded)}
    is_discrete = judge.config.moe is not None and rounded is not judge
    error_of = typical if is_discrete else worst

    def pick(model: Transformer, place: int, *, carried: bool) -> Adapter | None:
        return adapters[model] if carried and place % 2 else None

    for carried in (False, True):
        wanted = [scores(judge, [prompt], [pick(judge, i, carried=carried)])[0] for i, prompt in enumerate(prompts)]
        own = [scores(rounded, [prompt], [pick(rounded, i, carried=carried)])[0] for i, prompt in enumerate(prompts)]
        allowed = FLOAT32_TOLERANCE
        if rounded is not judge:
            allowed = BFLOAT16_FACTOR * error_of(own, wanted) + BFLOAT16_FLOOR
        with_adapters = ", adapters" if carried else ""
        carriers = [pick(tried, i, carried=carried) for i in range(len(prompts))]
        alone = [scores(tried, [prompt], [carrier])[0] for prompt, carrier in zip(prompts, carriers, strict=True)]
        yield f"prefill{with_adapters}", error_of(alone, wanted), allowed
        yield f"prefill in chunks{with_adapters}", error_of(scores(tried, prompts, carriers, chunk=24), wanted), allowed
        yield f"prefill in company{with_adapters}", error_of(scores(tried, prompts, carriers), wanted), allowed
        answers = generate(tried, prompts, carriers)
        texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        regrets = [
            regret(scores(judge, [text], [pick(judge, i, carried=carried)])[0], len(prompts[i]), answers[i])
            for i, text in enumerate(texts)
        ]
        yield (
            f"decode in company{with_adapters}",
            sorted(regrets)[len(regrets) // 2] if is_discrete else max(regrets),
            2 * allowed,
        )


def gradients(device: torch.device, classes: Collection[str] | None = None) -> Iterator[Row]:
    """One update's loss and gradients of packed documents, per class and type."""
    lens = (30, 1, 77, 20)
    for name, config in ((name, each) for name, each in configs().items() if classes is None or name in classes):
        cpu = torch.device("cpu")
        wanted = step(config, cpu, torch.float32, lens)
        rounded = BFLOAT16_FACTOR * relative(step(config, cpu, torch.bfloat16, lens), wanted) + BFLOAT16_FLOOR
        for dtype, allowed in ((torch.float32, GRADIENT_TOLERANCE), (torch.bfloat16, rounded)):
            error = relative(step(config, device, dtype, lens), wanted)
            yield row(f"{name}, {dtype}, gradients".replace("torch.", ""), error, allowed)


def relative(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest error of a gradient, of its norm."""
    return max(float((found[key] - wanted[key]).norm() / wanted[key].norm()) for key in wanted)


def step(config: ModelConfig, device: torch.device, dtype: torch.dtype, lens: Sequence[int]) -> dict[str, Tensor]:
    """The loss and every gradient, on the CPU."""
    model = new_model(config, device=device, seed=0, std=0.08)
    windows = prepare(model, compute_dtype=dtype, compiled=False, checkpointing=False)
    token_ids = torch.tensor([token_id for prompt in random_prompts(lens) for token_id in prompt], device=device)
    positions = torch.cat([torch.arange(length) for length in lens]).to(device)
    starts = torch.tensor([0, *lens], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    hidden = model(ForwardInput(token_ids, positions, VarlenAttention(windows, starts, max(lens))))
    loss = F.cross_entropy(model.logits(hidden)[:-1], token_ids[1:])
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: weight.grad.float().cpu() for name, weight in model.named_parameters() if weight.grad is not None}
    return found | {"loss": loss.detach().float().cpu()}


def row(what: str, error: float, allowed: float) -> Row:
    return {"what": what, "error": error, "allowed": allowed, "passed": error <= allowed}


def random_model(config: ModelConfig, seed: int = 0) -> Transformer:
    model = Transformer(config, TorchOps())
    initialise(model, seed=seed, std=0.08)
    return model.requires_grad_(False)


def random_prompts(lens: Sequence[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(VOCAB_SIZE, (length,), generator=generator).tolist() for length in lens]


def random_adapter(model: Transformer, rank: int = 8) -> Adapter:
    generator = torch.Generator().manual_seed(2)
    weights = {
        name: (
            torch.randn(rank, module.in_features, generator=generator) / module.in_features**0.5,
            torch.randn(module.out_features, rank, generator=generator) / 8,
            0.5,
        )
        for name, module in model.named_modules()
        if isinstance(module, Linear) and name.rpartition(".")[2] in ("wq", "wv", "w1", "w2")
    }
    return Adapter(model, weights, "random")


def scores(
    model: Transformer, prompts: list[list[int]], adapters: Sequence[Adapter | None], chunk: int = 1024
) -> list[Tensor]:
    """(T, V) float32 of each prompt, all computed together in steps of at most `chunk` tokens."""
    config = EngineConfig(max_batch_tokens=chunk, max_sequences=8, prefix_cache=False, kv_cache_bytes=64 << 20)
    engine = Engine(model, config)
    collectors = [Logits(model, len(prompt), 256) for prompt in prompts]
    for prompt, collector, adapter in zip(prompts, collectors, adapters, strict=True):
        engine.add_prompt(prompt, collector, adapter=adapter)
    run(engine)
    return [collector.logits_TV for collector in collectors]


def generate(
    model: Transformer, prompts: list[list[int]], adapters: Sequence[Adapter | None], num_tokens: int = 16
) -> list[list[int]]:
    """Greedy answers to all prompts together."""
    engine = Engine(model, EngineConfig(kv_cache_bytes=64 << 20))
    params = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
    answers: dict[int, list[int]] = {}
    for prompt, adapter in zip(prompts, adapters, strict=True):
        answers[engine.add(prompt, params, adapter=adapter)] = []
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise RuntimeError(output.error)
            answers[output.sequence_id[0]] += output.token_ids
    return list(answers.values())


def run(engine: Engine) -> None:
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise RuntimeError(output.error)


def regret(logits_TV: Tensor, num_prompt: int, answer: Sequence[int]) -> float:
    """How far the worst choice of a greedy answer lies below the best one, by the judge's scores."""
    rows_NV = logits_TV[num_prompt - 1 : -1]
    chosen_N = rows_NV.gather(1, torch.tensor(answer)[:, None])[:, 0]
    return float((rows_NV.amax(1) - chosen_N).max())


def worst(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference of a score."""
    return float(_by_row(found, wanted).max())


def typical(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference in the median row: in bfloat16 some rows choose other experts, and differ altogether."""
    return float(_by_row(found, wanted).median())


def _by_row(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    return torch.cat([(left - right).abs().amax(1) for left, right in zip(found, wanted, strict=True)])
