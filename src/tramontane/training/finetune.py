"""From a model, a file of samples and a few choices to the recipe of a fine-tuning run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tramontane.data.packing import least_padded
from tramontane.data.sample_lines import TooLong
from tramontane.data.sample_shapes import SampleKind
from tramontane.data.sample_shards import HeldOut, write_sample_shards
from tramontane.data.shards import ShardSet
from tramontane.errors import ConfigError
from tramontane.loading import open_checkpoint, open_tokenizer
from tramontane.loading.adapter_files import adapter_digest, read_adapter
from tramontane.loading.tokenizer import require_same_tokenizer
from tramontane.training.adapters import require_kind
from tramontane.training.recipe import (
    CheckpointRecipe,
    DataPaths,
    LoraRecipe,
    MachineRecipe,
    MetricsRecipe,
    ModelRecipe,
    OptimizerRecipe,
    PreferenceLoss,
    Recipe,
    TaskRecipe,
)
from tramontane.training.sample_stream import Samples
from tramontane.training.schedule import Schedule
from tramontane.training.streams import steps_of_epochs

Method = Literal["lora", "full"]
TaskKind = Literal["chat", "preference", "classify"]
KINDS: dict[TaskKind, SampleKind] = {"chat": "chat", "preference": "preference", "classify": "classifier"}

# Few samples still deserve this many updates an epoch; many are not worth more than BATCH_LEN tokens each.
UPDATES_PER_EPOCH = 16
BATCH_LEN = 16384
MICROBATCH_LEN = 2048  # more where a sample needs it, or where samples fill it better
LEN_MULTIPLE = 128
DEFAULT_RANK = 16
DEFAULT_MAX_LEN = 2048
NUM_VALIDATIONS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneOptions:
    """Choices of a fine-tuning run. None: chosen from the model and the data. `valid` is a file, or a share of the
    samples such as `5%` or `0.05`. `steps` updates take the place of `epochs`, samples begun anew as needed."""

    model: Path
    data: Path | Sequence[str | Path]
    run: Path
    adapter: Path | None = None  # of the model, to go on from
    valid: Path | str | None = None
    task: TaskKind = "chat"
    method: Method = "lora"
    loss: PreferenceLoss | None = None  # None: dpo, of preferences alone
    epochs: float = 3.0
    steps: int | None = None
    repeats: Path | None = None  # JSON of the (lines, times) of `data`, one file
    lr: float | None = None
    rank: int | None = None
    alpha: float | None = None
    dropout: float = 0.0
    max_len: int | None = None  # None: DEFAULT_MAX_LEN, or the model's context where that is shorter
    too_long: TooLong = "error"
    batch_len: int | None = None
    max_invalid_share: float = 0.0
    seed: int = 0
    device: str = "auto"
    weight_format: str | None = None  # of the frozen base


def finetune_recipe(options: FinetuneOptions) -> Recipe:
    """Check and tokenise the samples into the run folder, and return the recipe that trains on them.

    Raises DataError with file, line and remedy for samples that are not sound, ConfigError for impossible choices;
    then nothing is left behind but what was there.
    """
    if not options.model.is_dir():
        raise ConfigError(f"{options.model} is no folder of float weights; convert it with --layout hf and name that")
    if options.weight_format is not None and options.method == "full":
        raise ConfigError(f"weight_format={options.weight_format} packs a frozen base; use it with method lora")
    if options.rank is not None and options.method == "full":
        raise ConfigError(f"rank={options.rank} is that of an adapter; leave it out with method full")
    if options.loss is not None and options.task != "preference":
        raise ConfigError(f"loss={options.loss} is one on preferences; leave it out with task {options.task}")
    if not (options.epochs > 0 and math.isfinite(options.epochs)):
        raise ConfigError(f"epochs={options.epochs} must be a number above 0")
    if options.steps is not None and options.steps < 1:
        raise ConfigError(f"steps={options.steps} must be at least 1")
    default_lr = 5e-4 if options.method == "lora" else 5e-5
    if options.task == "preference":
        default_lr /= 5  # preferences overfit an order of magnitude sooner than samples
    lr = default_lr if options.lr is None else options.lr
    # all that can be refused before the samples are read
    model, lora = _model(options), None if options.method == "full" else _lora(options)
    optimizer = OptimizerRecipe(kind="adamw", lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    train, valid = _write(options)
    samples = Samples(train)
    longest = max(samples.longest, 0 if valid is None else Samples(valid).longest)
    batch_len = options.batch_len or min(BATCH_LEN, math.ceil(samples.num_token_ids / UPDATES_PER_EPOCH))
    microbatch_len = _microbatch_len(samples.lens, longest, min(batch_len, MICROBATCH_LEN))
    num_microbatches = max(1, round(batch_len / microbatch_len))
    data = DataPaths(
        train=(str(_folder(options, "train")),),
        valid=() if valid is None else (str(_folder(options, "valid")),),
        tokenizer=str(options.model),
        batch_len=num_microbatches * microbatch_len,
        microbatch_len=microbatch_len,
        policy="whole",
        epochs=options.epochs if options.steps is None else None,
    )
    num_steps = options.steps or steps_of_epochs(data, train, options.seed)
    return Recipe(
        run=str(options.run),
        seed=options.seed,
        data=data,
        model=model,
        task=TaskRecipe(kind="text" if options.task == "chat" else options.task, loss=options.loss or "dpo"),
        lora=lora,
        optimizer=optimizer,
        schedule=Schedule(num_steps=num_steps, kind="cosine", warmup_steps=min(num_steps // 10, 50), final=0.1),
        machine=MachineRecipe(device=options.device),
        checkpoint=CheckpointRecipe(every_seconds=300.0),
        metrics=MetricsRecipe(every_steps=1, valid_every_steps=math.ceil(num_steps / NUM_VALIDATIONS)),
    )


def max_len_of(options: FinetuneOptions) -> int:
    """Tokens of the longest sample. Raises ConfigError for more than the model reads."""
    context = open_checkpoint(options.model).config.max_seq_len
    if options.max_len is None:
        return min(DEFAULT_MAX_LEN, context)
    if options.max_len > context:
        raise ConfigError(f"max_len={options.max_len} is more than the {context} tokens of the model's context")
    return options.max_len


def _model(options: FinetuneOptions) -> ModelRecipe:
    adapter = options.adapter
    if adapter is not None:
        require_same_tokenizer(open_tokenizer(open_checkpoint(options.model)), adapter)
    return ModelRecipe(
        checkpoint=str(options.model),
        adapter=None if adapter is None else str(adapter.resolve()),
        adapter_digest=None if adapter is None else adapter_digest(adapter),
        weight_format=options.weight_format,
    )


def _lora(options: FinetuneOptions) -> LoraRecipe:
    """A fresh adapter, or the one gone on from. Raises ConfigError where that is another than what is asked for."""
    if options.adapter is None:
        rank = DEFAULT_RANK if options.rank is None else options.rank
        return LoraRecipe(
            rank=rank, alpha=2.0 * rank if options.alpha is None else options.alpha, dropout=options.dropout
        )
    require_kind(options.adapter, tells_labels=options.task == "classify")
    start, _ = read_adapter(options.adapter, open_checkpoint(options.model).config)
    rank, scale = start.ranks[-1], start.scales[-1]
    instead = f"leave it out to go on from {options.adapter}, or merge that first and train a new one: tramontane merge"
    if options.rank is not None and (options.rank,) != start.ranks:
        raise ConfigError(f"rank={options.rank} is not the adapter's, {', '.join(map(str, start.ranks))}; {instead}")
    if options.alpha is not None and (options.alpha / rank,) != start.scales:
        raise ConfigError(f"alpha={options.alpha} is not the adapter's, {scale * rank:g}; {instead}")
    return LoraRecipe(rank=rank, alpha=scale * rank, dropout=options.dropout, targets=start.targets)


def with_steps_of_epochs(recipe: Recipe) -> Recipe:
    """`recipe` with as many updates as its `data.epochs` take, whatever has changed since they were counted."""
    if recipe.data.epochs is None:
        return recipe
    train = ShardSet([Path(folder) for folder in recipe.data.train])
    num_steps = steps_of_epochs(recipe.data, train, recipe.seed)
    warmup_steps = min(recipe.schedule.warmup_steps, num_steps)
    return replace(recipe, schedule=replace(recipe.schedule, num_steps=num_steps, warmup_steps=warmup_steps))


def _microbatch_len(lens: Sequence[int], longest: int, wanted: int) -> int:
    """That holds the longest sample and wastes little: up to a quarter more than `wanted` where that helps."""
    shortest = _rounded_up(longest, LEN_MULTIPLE)
    preferred = max(shortest, _rounded_up(wanted, LEN_MULTIPLE))
    candidates = range(shortest, preferred * 5 // 4 + 1, LEN_MULTIPLE)
    return least_padded(lens, candidates, preferred)


def _folder(options: FinetuneOptions, split: str) -> Path:
    return options.run / "data" / split


_SHARE = re.compile(r"(\d+(?:\.\d+)?)(%?)")


def share_of(valid: Path | str | None) -> float | None:
    """The part of the samples that `valid` says is to be held out; None where it names a file or nothing."""
    match = _SHARE.fullmatch(str(valid))
    if match is None or Path(str(valid)).exists():
        return None
    share = float(match[1]) / (100 if match[2] else 1)
    if not 0 < share < 1:
        raise ConfigError(f"--valid {valid} must be a file, or a share between 0 and 1 such as 5% or 0.05")
    return share


def _write(options: FinetuneOptions) -> tuple[ShardSet, ShardSet | None]:
    """The samples to train on and to measure with, in the run's folder."""
    share = share_of(options.valid)
    held_out = None if share is None else HeldOut(_folder(options, "valid"), share, options.seed)
    train = _write_files(options, options.data, "train", held_out, _repeats(options))
    if held_out is not None:
        return train, ShardSet([held_out.folder])
    return train, None if options.valid is None else _write_files(options, Path(options.valid), "valid", None)


def _repeats(options: FinetuneOptions) -> list[tuple[int, int]]:
    """Raises ConfigError for a file that holds none."""
    if options.repeats is None:
        return []
    try:
        return [(int(num_lines), int(times)) for num_lines, times in json.loads(options.repeats.read_text("utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{options.repeats}: no JSON list of [lines, times] ({error})") from None


def _write_files(
    options: FinetuneOptions,
    files: Path | Sequence[str | Path],
    split: str,
    held_out: HeldOut | None,
    repeats: Sequence[tuple[int, int]] = (),
) -> ShardSet:
    folder = _folder(options, split)
    write_sample_shards(
        files,
        KINDS[options.task],
        options.model,
        folder,
        max_len=max_len_of(options),
        max_invalid_share=options.max_invalid_share,
        too_long=options.too_long,
        held_out=held_out,
        repeats=repeats,
    )
    return ShardSet([folder])


def _rounded_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
