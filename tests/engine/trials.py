"""Random trials of decision 8: an answer has the same bits alone and in whatever company an engine may put it.

One trial is one request among others in an engine of random sizes: random pages, chunks, threads, preemption, prefix
cache, aborts and forks, and guesses verified several at once. The answer it must get is that of an engine that computes
nothing else, in one piece, on one thread, without a cache and without guesses.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tests.engine.answers import Answer, Answers, run
from tests.engine.simulation import pages_to_fit
from tests.model.tiny import tiny_config
from tramontane.config import ModelConfig, MoeConfig
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.sampling import SamplingParams
from tramontane.engine.speculation import StepCosts
from tramontane.loading.random_weights import random_tensors
from tramontane.model.adapter import Adapter
from tramontane.model.linear import Linear
from tramontane.model.lora import ALL_LINEARS
from tramontane.model.packed import finish, packable, set_packed
from tramontane.model.transformer import Transformer
from tramontane.ops import _cpu
from tramontane.ops.cpu import CpuOps
from tramontane.ops.packed_weight import PackedWeight

MAX_TOTAL_TOKENS = 72
Arrival = tuple[tuple[int, ...], int, int]  # prompt, and index of its kind and adapter
STORED = ("F32", "BF16", "F16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K")
WINDOWS = ((None, None), (7, 7), (None, 9))
MIXTURE = MoeConfig(num_experts=4, num_experts_per_tok=2)


def native_model(stored: str, windows: tuple[int | None, ...], moe: MoeConfig | None = None) -> Transformer:
    """Packed random weights of one stored type, narrow where its blocks allow it."""
    dim = 256 if stored.endswith("_K") else 64
    shape: dict[str, Any] = {"dim": dim, "hidden_dim": dim, "n_heads": 4, "head_dim": dim // 4}
    config = tiny_config(**shape, n_layers=len(windows), sliding_windows=windows, moe=moe, tied_embeddings=True)
    return fill(config, stored)


def fill(config: ModelConfig, stored: str) -> Transformer:
    names = [f"{name}.weight" for name, _ in Transformer(config, CpuOps(threads=1)).named_modules()]
    types = {name: stored if not name.endswith(("norm.weight", ".gate.weight")) else "F32" for name in names}
    model = Transformer(config, CpuOps(threads=1)).requires_grad_(False)
    modules = dict(packable(model))
    for name, tensor in random_tensors(config, types, seed=3):
        if name not in modules:
            model.get_parameter(name).copy_(tensor)
        elif tensor.dtype == torch.uint8:
            in_features = modules[name].shape[1]
            set_packed(modules[name], PackedWeight.from_blocks(stored.lower(), tensor, in_features))  # type: ignore[arg-type]
        else:
            weight_format = "f32" if tensor.dtype == torch.float32 else stored.lower()
            set_packed(modules[name], PackedWeight.from_tensor(tensor, weight_format))  # type: ignore[arg-type]
    finish(model)
    return model


def no_repeats(generated_token_ids: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
    """A processor that depends on the history: the last two tokens are not said again."""
    logits_V[list(generated_token_ids[-2:])] = float("-inf")
    return logits_V


KINDS = (
    SamplingParams(max_tokens=24, logprobs=2),
    SamplingParams(max_tokens=24),
    SamplingParams(max_tokens=16, logprobs=1, temperature=1.2, top_k=40, top_p=0.95, min_p=0.001, seed=11),
    SamplingParams(max_tokens=16, temperature=0.3, seed=4),  # sharp enough to repeat itself
    SamplingParams(max_tokens=12, temperature=0.8, seed=5, repetition_penalty=1.3, presence_penalty=0.5),
    SamplingParams(max_tokens=12, frequency_penalty=0.7, min_tokens=5, stop_token_ids=tuple(range(0, 101, 3))),
    SamplingParams(max_tokens=16, logits_processors=(no_repeats,), logprobs=0),
    SamplingParams(max_tokens=3, prompt_logprobs=1, logprobs=0),
    SamplingParams(max_tokens=8, n=3, temperature=0.9, seed=8),
)


def random_adapter(model: Transformer, seed: int, targets: Sequence[str] = ALL_LINEARS, rank: int = 3) -> Adapter:
    """Weights large enough that answers differ from the bare model's."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: (
            torch.randn(rank, module.in_features, generator=generator) / module.in_features**0.5,
            torch.randn(module.out_features, rank, generator=generator),
            0.5,
        )
        for name, module in model.named_modules()
        if isinstance(module, Linear) and name.rpartition(".")[2] in targets
    }
    return Adapter(model, weights, f"digest {seed}")


class FreeRows(StepCosts):
    """Rows that cost nothing, so that every guess is made."""

    def per_row(self, num_rows: int) -> float:
        return 0.0

    @property
    def mean_s(self) -> float:
        return float("inf")


@dataclass
class Trials:
    """Trials on one model; answers alone are computed once for each prompt and kind."""

    model: Transformer
    rng: random.Random
    num_trials: int = 0
    num_preemptions: int = 0
    num_cached_tokens: int = 0
    num_accepted_tokens: int = 0
    num_drafted_tokens: int = 0
    adapters: Sequence[Adapter | None] = (None,)  # each request carries one of them
    owners: Sequence[str] = ("",)  # each request is one's
    _alone: dict[Arrival, list[Answer]] = field(default_factory=dict)

    def alone(self, prompt: tuple[int, ...], kind: int, adapter: int) -> list[Answer]:
        key = prompt, kind, adapter
        if key not in self._alone:
            _cpu.set_num_threads(1)
            config = EngineConfig(max_batch_tokens=512, max_sequences=8, prefix_cache=False, max_draft_tokens=0)
            answers = []
            for index in range(KINDS[kind].n):
                engine = Engine(self.model, config)
                params, carried = replace(KINDS[kind], n=1), self.adapters[adapter]
                request_id = engine.add(prompt, params, first_index=index, adapter=carried)
                answers.append(run(engine).of(request_id, index))
            self._alone[key] = answers
        return self._alone[key]

    def run(self, num_trials: int) -> None:
        """Raises AssertionError, naming the trial, where a bit differs."""
        prompts = list(self._prompts(12))
        _cpu.set_num_threads(self.rng.choice([1, 1, 2, 3]))
        config = self._config()
        has_draft_model = config.max_draft_tokens > 0 and self.rng.random() < 0.3
        engine = Engine(self.model, config, draft_model=self._draft_model() if has_draft_model else None)
        if engine.lookup is not None:
            engine.lookup.costs = FreeRows()
        answers = Answers()
        arrivals: list[Arrival] = [
            (self.rng.choice(prompts), self.rng.randrange(len(KINDS)), self.rng.randrange(len(self.adapters)))
            for _ in range(num_trials)
        ]
        wanted: dict[int, Arrival] = {}
        expected = {arrival: self.alone(*arrival) for arrival in arrivals}
        _cpu.set_num_threads(self.rng.choice([1, 1, 2, 3]))
        doomed: list[int] = []
        while arrivals or engine.has_work:
            while arrivals and self.rng.random() < 0.4:
                prompt, kind, adapter = arrival = arrivals.pop()
                params = replace(KINDS[kind], prediction=self._prediction(expected[arrival][0].token_ids))
                priority, carried = self.rng.randint(-1, 1), self.adapters[adapter]
                owner = self.rng.choice(self.owners)
                wanted[engine.add(prompt, params, priority=priority, owner=owner, adapter=carried)] = arrival
            if self.rng.random() < 0.1:
                doomed.append(engine.add(self.rng.choice(prompts), self.rng.choice(KINDS), owner=self.owners[-1]))
            if doomed and self.rng.random() < 0.3:
                engine.abort(doomed.pop(self.rng.randrange(len(doomed))))
            answers.read(engine.step())
            engine.check_integrity()
        for request_id, arrival in wanted.items():
            for index, answer in enumerate(expected[arrival]):
                found = replace(answers.of(request_id, index), num_cached_tokens=0)
                assert found == answer, f"prompt, kind and adapter {arrival}, answer {index}, {engine.config}"
        self._count(engine, num_trials)

    def _count(self, engine: Engine, num_trials: int) -> None:
        stats = engine.stats()
        self.num_trials += num_trials
        self.num_preemptions += stats.num_preemptions
        self.num_cached_tokens += stats.num_cached_tokens
        self.num_accepted_tokens += stats.num_accepted_tokens
        self.num_drafted_tokens += stats.num_drafted_tokens

    def _prompts(self, count: int) -> Iterator[tuple[int, ...]]:
        """Prompts that share beginnings, some of them wholly, and some that repeat themselves."""
        rng = random.Random(self.rng.randrange(8))
        stems = [[rng.randrange(101) for _ in range(40)] for _ in range(3)]
        for _ in range(count):
            stem = rng.choice(stems)[: rng.randint(0, 40)]
            if rng.random() < 0.3:
                stem = (stem[:9] * 5)[:40]
            yield tuple(stem + [rng.randrange(101) for _ in range(rng.choice([1, 1, 3, 8]))])

    def _prediction(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """Right, wrong in places, short of the end, or none."""
        if self.rng.random() < 0.5:
            return ()
        guess = [token if self.rng.random() < 0.9 else self.rng.randrange(101) for token in token_ids]
        return tuple(guess[self.rng.randint(0, 2) :])

    def _draft_model(self) -> Transformer:
        """Itself, right mostly, or another one."""
        return self.model if self.rng.random() < 0.5 else native_model("BF16", (5, None))

    def _config(self) -> EngineConfig:
        rng = self.rng
        page_size, max_sequences = rng.randint(1, 20), rng.randint(1, 12)
        room = rng.choice([1.0, 1.2, 2.0, 5.0])
        pages = pages_to_fit(MAX_TOTAL_TOKENS, page_size, self.model.config.windows)
        return EngineConfig(
            page_size=page_size,
            max_sequences=max_sequences,
            max_batch_tokens=max_sequences + rng.choice([0, 1, 5, 20, 200]),
            num_pages=tuple(int(n * room) for n in pages),
            prefix_cache=rng.random() < 0.8,
            max_draft_tokens=rng.choice([0, 1, 4, 16]),
            max_shared_cost=rng.choice([1, 4, 48]),
        )
