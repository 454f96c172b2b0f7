"""Which stream of batches a recipe asks for, and what that holds, known before anything is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tramontane.data.shards import ShardSet
from tramontane.errors import ConfigError
from tramontane.training.distributed import World
from tramontane.training.microbatch import Stream
from tramontane.training.recipe import DataPaths, Recipe
from tramontane.training.sample_stream import Samples, SampleStream, Targets
from tramontane.training.token_stream import TokenStream

MAX_SAMPLES = 20_000_000
"""That a run of epochs gives in all: they are packed once before it begins, which takes minutes for so many."""
COUNTED_BATCHES = 4096
"""Of a run that begins its samples anew without end; it goes on alike."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What all processes are given in a run. Padding is not among `num_token_ids`, and takes time all the same:
    `num_places` counts it. `epochs` is how often the data is seen."""

    num_token_ids: int
    num_places: int
    epochs: float


def open_stream(recipe: Recipe, train: ShardSet, targets: Targets | None, world: World) -> Stream:
    """This process's batches. Raises ConfigError where `schedule.num_steps` is not what `data.epochs` takes, or for
    phases of a task that has none."""
    _require_planned(recipe, train)
    if takes_samples(recipe, train):
        return SampleStream(
            train,
            batch_len=recipe.data.microbatch_len,
            epochs=recipe.data.epochs,
            seed=recipe.seed,
            targets=targets,
            rank=world.rank,
            world_size=world.size,
        )
    return _token_stream(recipe, train, world)


def _token_stream(recipe: Recipe, train: ShardSet, world: World) -> TokenStream:
    return TokenStream(
        train,
        batch_len=recipe.data.microbatch_len,
        policy=recipe.data.policy,
        num_token_ids=recipe.schedule.num_steps * recipe.data.batch_len,
        seed=recipe.seed,
        phases=recipe.data.phases,
        rank=world.rank,
        world_size=world.size,
    )


def takes_samples(recipe: Recipe, train: ShardSet) -> bool:
    """Whether the run is over whole samples, each as often as any other, rather than over phases of a text. Raises
    ConfigError for phases where they have no effect."""
    is_even = not any(manifest.phases for manifest in train.manifests)
    is_even = is_even and len({source.info.epochs for source in train.sources.values()}) == 1
    if recipe.task.kind == "text":
        if recipe.data.epochs is not None and not is_even:
            raise ConfigError("data.epochs cannot be given for data whose sources have phases or epochs of their own")
        is_whole = recipe.data.policy == "whole" and is_even and not recipe.data.phases
        if not is_whole and any(source.info.num_repeats for source in train.sources.values()):
            raise ConfigError(
                f"data.policy={recipe.data.policy!r} and phases know no weights of samples, and the set has some; use "
                "data.policy='whole' without phases, or build the set without weights"
            )
        return is_whole
    if recipe.data.phases:
        raise ConfigError(f"data.phases have no effect on task.kind={recipe.task.kind!r}; remove them")
    return True


def steps_of_epochs(data: DataPaths, train: ShardSet, seed: int) -> int:
    """Updates that `data.epochs` takes, the last of which may be smaller than the others. Raises ConfigError for more
    samples than are counted."""
    samples = Samples(train)
    if data.epochs is not None and data.epochs * len(samples) > MAX_SAMPLES:
        raise ConfigError(
            f"{data.epochs:g} epochs of {len(samples):,} samples, as their weights count them, are more than the "
            f"{MAX_SAMPLES:,} that a run plans; say how many updates instead (--steps, over HTTP training_steps)"
        )
    found = samples.count(data.microbatch_len, data.epochs, seed)
    return math.ceil(found.num_batches * data.microbatch_len / data.batch_len)


def plan_stream(recipe: Recipe, train: ShardSet) -> StreamPlan:
    """Raises as `open_stream` does."""
    _require_planned(recipe, train)
    num_places = recipe.schedule.num_steps * recipe.data.batch_len
    if not takes_samples(recipe, train):
        num_token_ids = round(num_places * _token_stream(recipe, train, World()).fill_share)
        data_len = sum(source.info.num_token_ids for source in train.sources.values())
        return StreamPlan(num_token_ids, num_places, num_token_ids / data_len)
    samples = Samples(train)
    num_batches = num_places // recipe.data.microbatch_len
    counted = num_batches if recipe.data.epochs is not None else min(num_batches, COUNTED_BATCHES)
    found = samples.count(recipe.data.microbatch_len, recipe.data.epochs, recipe.seed, counted)
    more = num_batches / counted if recipe.data.epochs is None else 1.0
    return StreamPlan(
        round(more * found.num_token_ids),
        round(more * found.num_batches) * recipe.data.microbatch_len,
        more * found.num_samples / len(samples),
    )


def _require_planned(recipe: Recipe, train: ShardSet) -> None:
    if recipe.data.epochs is None or not takes_samples(recipe, train):
        return
    num_steps = steps_of_epochs(recipe.data, train, recipe.seed)
    if num_steps != recipe.schedule.num_steps:
        raise ConfigError(
            f"data.epochs={recipe.data.epochs:g} take {num_steps} updates of data.batch_len={recipe.data.batch_len}, "
            f"not schedule.num_steps={recipe.schedule.num_steps}; write that number, or leave out data.epochs"
        )
