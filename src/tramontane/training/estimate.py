"""What a run will take, before it is begun: tokens, updates, and time by the rate of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tramontane.errors import ConfigError
from tramontane.loading import open_checkpoint
from tramontane.loading.weight_formats import checkpoint_formats, packed_size
from tramontane.runtime import resolve_device, set_threads
from tramontane.training.assembly import choose_machine, open_inputs, packed_format
from tramontane.training.distributed import World
from tramontane.training.flops import measure_matmul_rate, training_flops
from tramontane.training.memory import run_memory_bytes
from tramontane.training.recipe import Recipe
from tramontane.training.streams import plan_stream

SHARE_OF_PEAK = 0.4
"""Of the rate of a large matrix product, what training of small models reaches (benchmarks/training.py)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """`data_tokens` is one pass over the data, `train_tokens` all passes. Padding is in neither: `padding_share` is its
    share of the batches, and it takes its time."""

    data_tokens: int
    train_tokens_per_step: int
    train_tokens: int
    padding_share: float
    num_steps: int
    epochs: float
    expected_seconds: float
    memory_bytes: int


def estimate(recipe: Recipe) -> Estimate:
    """Of a recipe whose data is built, on the device it names. Loads no weights. Raises what `train` would before it
    loads them, and ConfigError for a recipe without a checkpoint to start from."""
    if recipe.model.checkpoint is None:
        raise ConfigError(
            "only training that starts from model.checkpoint can be estimated; tramontane plan does others"
        )
    set_threads(recipe.machine.threads)
    device = resolve_device(recipe.machine.device)
    machine = choose_machine(recipe, World(device=device))
    train = open_inputs(recipe, machine)[0]
    plan = plan_stream(recipe, train)
    sources = train.sources.values()
    data_tokens = sum(source.epoch_len for source in sources)
    num_documents = sum(source.info.num_documents for source in sources)
    checkpoint = open_checkpoint(Path(recipe.model.checkpoint))
    config = checkpoint.config
    packed = packed_format(recipe, checkpoint, machine)
    packed_bytes = None if packed is None else packed_size(config, checkpoint_formats(checkpoint, packed))
    mean_len = max(1, round(sum(source.info.num_token_ids for source in sources) / num_documents))
    flops = training_flops(config, (mean_len,), trains_weights=recipe.lora is None) / mean_len * plan.num_places
    rate = measure_matmul_rate(device, machine.dtype)
    return Estimate(
        data_tokens=data_tokens,
        train_tokens_per_step=round(plan.num_token_ids / recipe.schedule.num_steps),
        train_tokens=plan.num_token_ids,
        padding_share=1 - plan.num_token_ids / plan.num_places,
        num_steps=recipe.schedule.num_steps,
        epochs=plan.epochs,
        expected_seconds=flops / (SHARE_OF_PEAK * rate),
        memory_bytes=run_memory_bytes(
            recipe,
            config,
            itemsize=machine.dtype.itemsize,
            packed_bytes=packed_bytes,
            on_cpu=device.type == "cpu",
        ),
    )
