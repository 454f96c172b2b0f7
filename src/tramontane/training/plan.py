"""What a training run will cost and bring, worked out before it is paid for.

The loss of a model of N weights after D tokens is taken as E + A / N^alpha + B / D^beta (Chinchilla, arXiv:2203.15556)
with the constants of its replication (arXiv:2404.10102), which were fitted on web text with a vocabulary of 32,000: the
values differ on other data, the order of the choices hardly does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tramontane.config import ModelConfig
from tramontane.errors import ConfigError
from tramontane.training.flops import forward_flops, training_flops
from tramontane.training.memory import activation_bytes
from tramontane.training.recipe import ModelRecipe

E, A, ALPHA, B, BETA = 1.8172, 482.01, 0.3478, 2085.43, 0.3658
SMALLER = (1.0, 0.5, 0.25, 0.125)  # sizes shown, as shares of the compute-optimal one
MAX_OVER_TRAINING = 100  # times the tokens of the optimum, beyond which the formula was never tried
USEFUL_EPOCHS = 4  # up to which seeing text again is about as good as new text (arXiv:2305.16264)
HEAD_DIM, MAX_HEADS = 64, 128


@dataclass(frozen=True, slots=True)
class Machine:
    """`flops_per_s` is what training reaches, all told."""

    flops_per_s: float
    watts: float | None = None
    price_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One way to spend the budget."""

    model: ModelRecipe
    config: ModelConfig
    num_tokens: float
    seconds: float
    loss: float
    memory_bytes: int  # weights, gradients, optimiser and activations of one microbatch, about
    inference_flops: float  # per token
    energy_kwh: float | None
    price: float | None

    @property
    def num_parameters(self) -> int:
        return self.config.num_parameters()


@dataclass(frozen=True, slots=True)
class OverTrained:
    """A smaller model trained until it is as good as the compute-optimal one: dearer to make, cheaper to use."""

    run: Run
    extra_training: float  # compute relative to the optimum: 1.2 is a fifth more
    inference_saving: float  # share of the compute of each generated token that is saved
    break_even_tokens: float  # generated tokens after which it was the cheaper one in all


def predicted_loss(num_parameters: float, num_tokens: float) -> float:
    """Nats per token."""
    return float(E + A / num_parameters**ALPHA + B / num_tokens**BETA)


def tokens_for_loss(num_parameters: float, loss: float) -> float | None:
    """Tokens after which a model of this size has that loss; None if it never does."""
    rest = loss - E - A / num_parameters**ALPHA
    return float((B / rest) ** (1 / BETA)) if rest > 0 else None


def optimal_parameters(flops: float) -> float:
    """The N that minimises the loss where 6 N D = flops."""
    return float(_g() * (flops / 6) ** (BETA / (ALPHA + BETA)))


def optimal_parameters_for_tokens(num_tokens: float) -> float:
    """The N for which `num_tokens` are the compute-optimal number."""
    flops = 6 * (_g() * num_tokens) ** ((ALPHA + BETA) / ALPHA)
    return optimal_parameters(flops)


def _g() -> float:
    return float((ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)))


def shape_of_size(num_parameters: float, vocab_size: int, max_seq_len: int = 2048) -> ModelRecipe:
    """The sensible shape whose size, embeddings included, is nearest: heads of 64, a third of them for keys, and a
    width that grows with the depth (48 dimensions a layer at 8 layers, 128 at 32, as Mistral's)."""

    def shape(num_heads: int) -> ModelRecipe:
        dim = num_heads * HEAD_DIM
        n_kv_heads = max(n for n in range(1, max(1, num_heads // 3) + 1) if num_heads % n == 0)
        return ModelRecipe(
            dim=dim,
            n_layers=max(2, round(dim / (40 + dim * 11 / 512))),
            n_heads=num_heads,
            n_kv_heads=n_kv_heads,
            head_dim=HEAD_DIM,
            hidden_dim=HEAD_DIM * round(dim * 8 / 3 / HEAD_DIM),
            max_seq_len=max_seq_len,
            sliding_window=min(512, max_seq_len),
        )

    def distance(recipe: ModelRecipe) -> float:
        return abs(math.log(recipe.config(vocab_size).num_parameters() / num_parameters))

    return min(map(shape, range(1, MAX_HEADS + 1)), key=distance)


def plan_budget(
    flops: float, machine: Machine, *, vocab_size: int, document_len: int = 2048, microbatch_len: int = 8192
) -> list[Run]:
    """The compute-optimal model of a budget, first, and smaller ones trained for as long."""
    optimum = optimal_parameters(flops)
    runs: dict[int, Run] = {}
    for share in SMALLER:
        recipe = shape_of_size(optimum * share, vocab_size, document_len)
        config = recipe.config(vocab_size)
        num_tokens = flops / _per_token(config, document_len)
        run = make_run(recipe, config, num_tokens, machine, document_len=document_len, microbatch_len=microbatch_len)
        runs.setdefault(run.num_parameters, run)
    return list(runs.values())


def plan_tokens(
    num_tokens: float, machine: Machine, *, vocab_size: int, document_len: int = 2048, microbatch_len: int = 8192
) -> list[Run]:
    """The model for which a data set is compute-optimal, first, and smaller ones trained on all of it."""
    optimum = optimal_parameters_for_tokens(num_tokens)
    runs: dict[int, Run] = {}
    for share in SMALLER:
        recipe = shape_of_size(optimum * share, vocab_size, document_len)
        config = recipe.config(vocab_size)
        run = make_run(recipe, config, num_tokens, machine, document_len=document_len, microbatch_len=microbatch_len)
        runs.setdefault(run.num_parameters, run)
    return list(runs.values())


def make_run(
    recipe: ModelRecipe,
    config: ModelConfig,
    num_tokens: float,
    machine: Machine,
    *,
    document_len: int,
    microbatch_len: int,
) -> Run:
    seconds = num_tokens * _per_token(config, document_len) / machine.flops_per_s
    hours = seconds / 3600
    return Run(
        recipe,
        config,
        num_tokens,
        seconds,
        predicted_loss(config.num_parameters(), num_tokens),
        training_memory_bytes(config, microbatch_len),
        forward_flops(config, (document_len,)) / document_len,
        None if machine.watts is None else machine.watts * hours / 1000,
        None if machine.price_per_hour is None else machine.price_per_hour * hours,
    )


def over_trained(runs: Sequence[Run], machine: Machine, *, document_len: int, microbatch_len: int) -> list[OverTrained]:
    """The smaller ones of `runs` trained to the loss of the first, where they can reach it."""
    first = runs[0]
    spent = first.seconds * machine.flops_per_s
    found = []
    for run in runs[1:]:
        num_tokens = tokens_for_loss(run.num_parameters, first.loss)
        if num_tokens is None or num_tokens > MAX_OVER_TRAINING * first.num_tokens:
            continue
        longer = make_run(
            run.model, run.config, num_tokens, machine, document_len=document_len, microbatch_len=microbatch_len
        )
        extra_flops = longer.seconds * machine.flops_per_s - spent
        saved_flops = first.inference_flops - longer.inference_flops
        saving = saved_flops / first.inference_flops
        found.append(OverTrained(longer, 1 + extra_flops / spent, saving, max(0.0, extra_flops / saved_flops)))
    return found


def training_memory_bytes(config: ModelConfig, microbatch_len: int, itemsize: int = 4) -> int:
    """About: float32 weights and gradients, one moment for the matrices of layers (Muon) and two for the rest, and
    what a layer keeps for its backward pass (inputs of norms and products, queries, keys, values, gates)."""
    embeddings = config.vocab_size * config.dim * (1 if config.tied_embeddings else 2)
    held = 4 * (2 * config.num_parameters() + (config.num_parameters() - embeddings) + 2 * embeddings)
    return held + activation_bytes(config, microbatch_len, itemsize)


def require_positive(**values: float | None) -> None:
    """Raises ConfigError for a number that is not above 0."""
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name}={value:g} must be a number above 0")


def _per_token(config: ModelConfig, document_len: int) -> float:
    return training_flops(config, (document_len,)) / document_len
