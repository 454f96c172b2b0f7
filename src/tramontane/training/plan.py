"""Which model to train on a budget or a data set, and what it costs, worked out before it is paid for.

The size is chosen by a rule alone: TOKENS_PER_WEIGHT tokens for every weight, which Chinchilla (arXiv:2203.15556) found
to give the lowest loss for the arithmetic spent, on web text and from tens of millions of weights on. No loss is
predicted: what a model reaches depends on text and vocabulary, and the formulas that were published were fitted on
others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tramontane.config import ModelConfig
from tramontane.errors import ConfigError
from tramontane.training.flops import forward_flops, training_flops
from tramontane.training.memory import activation_bytes
from tramontane.training.recipe import ModelRecipe

TOKENS_PER_WEIGHT = 20
SMALLER = (1.0, 0.5, 0.25, 0.125)  # sizes shown, as shares of the first
FEWEST_TOKENS_PER_WEIGHT = 5  # below which no model makes much of its weights
USEFUL_EPOCHS = 4  # up to which seeing text again is about as good as new text (arXiv:2305.16264)
HEAD_DIM, MAX_HEADS, MAX_HEADS_PER_KEY_HEAD = 64, 512, 8


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
    memory_bytes: int  # weights, gradients, optimiser and activations of one microbatch, about
    inference_flops: float  # per token
    energy_kwh: float | None
    price: float | None

    @property
    def num_parameters(self) -> int:
        return self.config.num_parameters()

    @property
    def tokens_per_weight(self) -> float:
        return self.num_tokens / self.num_parameters


def shapes(max_seq_len: int = 2048) -> Iterator[ModelRecipe]:
    """Sensible shapes from small to large: heads of 64, a third of them for keys, and a width that grows with the depth
    (48 dimensions a layer at 8 layers, 128 at 32, as Mistral's)."""
    for num_heads in range(1, MAX_HEADS + 1):
        dim = num_heads * HEAD_DIM
        n_kv_heads = max(n for n in range(1, max(1, num_heads // 3) + 1) if num_heads % n == 0)
        if num_heads > MAX_HEADS_PER_KEY_HEAD * n_kv_heads:  # prime numbers and their like
            continue
        yield ModelRecipe(
            dim=dim,
            n_layers=max(2, round(dim / (40 + dim * 11 / 512))),
            n_heads=num_heads,
            n_kv_heads=n_kv_heads,
            head_dim=HEAD_DIM,
            hidden_dim=HEAD_DIM * round(dim * 8 / 3 / HEAD_DIM),
            max_seq_len=max_seq_len,
            sliding_window=min(512, max_seq_len),
        )


def shape_of_size(num_parameters: float, vocab_size: int, max_seq_len: int = 2048) -> ModelRecipe:
    """The shape whose size, embeddings included, is nearest."""

    def distance(recipe: ModelRecipe) -> float:
        return abs(math.log(recipe.config(vocab_size).num_parameters() / num_parameters))

    return min(shapes(max_seq_len), key=distance)


def plan_budget(
    flops: float, machine: Machine, *, vocab_size: int, document_len: int = 2048, microbatch_len: int = 8192
) -> list[Run]:
    """The model that such a budget trains on TOKENS_PER_WEIGHT tokens a weight, first, and smaller ones trained for as
    long, on more tokens."""
    return _plan(
        lambda config: flops / _per_token(config, document_len),
        machine,
        vocab_size=vocab_size,
        document_len=document_len,
        microbatch_len=microbatch_len,
    )


def plan_tokens(
    num_tokens: float, machine: Machine, *, vocab_size: int, document_len: int = 2048, microbatch_len: int = 8192
) -> list[Run]:
    """The model for which a data set is TOKENS_PER_WEIGHT tokens a weight, first, and smaller ones trained on all of
    it."""
    return _plan(
        lambda config: num_tokens,
        machine,
        vocab_size=vocab_size,
        document_len=document_len,
        microbatch_len=microbatch_len,
    )


def _plan(
    tokens_of: Callable[[ModelConfig], float],
    machine: Machine,
    *,
    vocab_size: int,
    document_len: int,
    microbatch_len: int,
) -> list[Run]:
    """`tokens_of` a model is what it would be trained on. Raises ConfigError where that is too little for any."""

    def distance(recipe: ModelRecipe) -> float:
        config = recipe.config(vocab_size)
        return abs(math.log(tokens_of(config) / config.num_parameters() / TOKENS_PER_WEIGHT))

    first = min(shapes(document_len), key=distance).config(vocab_size)
    if tokens_of(first) < FEWEST_TOKENS_PER_WEIGHT * first.num_parameters():
        raise ConfigError(
            f"that is {tokens_of(first):,.0f} tokens for the smallest model of {vocab_size:,} different tokens, which "
            f"has {first.num_parameters():,} weights: too few to train any; plan for more, or for a smaller vocabulary"
        )
    runs: dict[int, Run] = {}
    for share in SMALLER:
        recipe = shape_of_size(first.num_parameters() * share, vocab_size, document_len)
        config = recipe.config(vocab_size)
        run = make_run(
            recipe, config, tokens_of(config), machine, document_len=document_len, microbatch_len=microbatch_len
        )
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
        training_memory_bytes(config, microbatch_len),
        forward_flops(config, (document_len,)) / document_len,
        None if machine.watts is None else machine.watts * hours / 1000,
        None if machine.price_per_hour is None else machine.price_per_hour * hours,
    )


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
