"""From a recipe to the parts of its run: model, task, data, optimiser, trainer, evaluator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from tramontane.data.shards import ShardSet
from tramontane.errors import ConfigError, DataError
from tramontane.loading import Checkpoint, load_model, open_checkpoint, resolve_weight_format
from tramontane.loading.adapter_files import AdapterConfig, adapter_digest
from tramontane.loading.classifier_files import HEAD, open_classifier
from tramontane.loading.named_model import portable_name
from tramontane.model.lora import attach_lora, merge_lora
from tramontane.model.transformer import Transformer
from tramontane.ops.training_ops import TrainingOps
from tramontane.runtime import training_dtype
from tramontane.training.adapters import load_adapter, require_kind
from tramontane.training.classifier import ClassifierTask
from tramontane.training.distributed import World, shard
from tramontane.training.evaluation import Evaluator, SampleEvaluator, TextEvaluator
from tramontane.training.gradients import Ema
from tramontane.training.growth import grow
from tramontane.training.microbatch import Placement
from tramontane.training.model_setup import new_model, prepare
from tramontane.training.optim import OptimizerSet
from tramontane.training.preference import PreferenceTask
from tramontane.training.recipe import Recipe
from tramontane.training.release import Release, Vocabulary, find_vocabulary
from tramontane.training.sample_stream import Targets, read_targets
from tramontane.training.streams import open_stream
from tramontane.training.tasks import Task, TextTask, TrainingModule, keep_router_logits
from tramontane.training.trainer import Trainer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Machine:
    """What the run computes with."""

    world: World
    dtype: torch.dtype
    is_compiled: bool

    @property
    def device(self) -> torch.device:
        return self.world.device


@dataclass(frozen=True, slots=True)
class Parts:
    trainer: Trainer
    evaluator: Evaluator | None
    release: Release


def choose_machine(recipe: Recipe, world: World) -> Machine:
    """Compute dtype and whether to compile: `training_dtype`, and compiled on a GPU alone, unless the recipe says.
    Raises ConfigError for float32 on a GPU."""
    on_gpu = world.device.type == "cuda"
    dtype = training_dtype(world.device) if recipe.machine.dtype is None else DTYPES[recipe.machine.dtype]
    if on_gpu and dtype == torch.float32:
        raise ConfigError("machine.dtype='float32' is not supported on a GPU, whose attention is 16-bit; use bfloat16")
    compiled = recipe.machine.compile if recipe.machine.compile is not None else on_gpu
    return Machine(world, dtype, compiled)


def assemble(recipe: Recipe, machine: Machine) -> Parts:
    """Everything the recipe names. Raises ConfigError, DataError or CheckpointError; writes nothing."""
    world = machine.world
    train, valid, targets, vocabulary = open_inputs(recipe, machine)
    torch.manual_seed(recipe.seed)  # adapters start the same on every process
    model, adapter = _model(recipe, train, machine)
    task = _task(recipe, model, targets, machine)
    windows = prepare(
        model,
        compute_dtype=machine.dtype,
        compiled=machine.is_compiled,
        checkpointing=recipe.machine.activation_checkpointing,
    )
    module = TrainingModule(model, task).to(machine.device)
    torch.manual_seed(recipe.seed + world.rank)  # and drop out differently
    if world.size > 1:
        shard(module, world, machine.dtype)
    optimizers = OptimizerSet(module.trainable(), recipe.optimizer, compute_dtype=machine.dtype)
    decay = recipe.optimizer.ema_decay
    longest = max(each.max_document_len for each in (train, valid) if each is not None)
    trainer = Trainer(
        module,
        optimizers,
        recipe.schedule,
        open_stream(recipe, train, targets, world),
        placement=Placement(machine.device, windows, min(longest, recipe.data.microbatch_len), machine.is_compiled),
        num_microbatches=recipe.data.batch_len // (recipe.data.microbatch_len * world.size),
        max_grad_norm=recipe.optimizer.max_grad_norm,
        ema=None if decay is None else Ema(dict(optimizers.params), decay),
        world=world,
    )
    release = Release(
        model.config,
        recipe.checkpoint,
        vocabulary,
        adapter,
        None if targets is None else targets.labels,
        frozenset() if targets is None else targets.single,
    )
    return Parts(trainer, _evaluator(recipe, valid, targets), release)


def open_inputs(recipe: Recipe, machine: Machine) -> tuple[ShardSet, ShardSet | None, Targets | None, Vocabulary]:
    """What training reads, all but weights. Raises for whatever `assemble` would refuse before it loads them, so that
    a check refuses it too."""
    world = machine.world
    train = _open(recipe.data.train)
    valid = _open(recipe.data.valid) if recipe.data.valid else None
    rest = recipe.data.batch_len % (recipe.data.microbatch_len * world.size)
    if rest:
        raise ConfigError(
            f"batch_len={recipe.data.batch_len} must be a multiple of microbatch_len={recipe.data.microbatch_len} "
            f"times {world.size} processes"
        )
    if valid is not None and valid.vocab_size != train.vocab_size:
        raise DataError("data.valid was built with another tokenizer than data.train; build both with one")
    vocabulary = _vocabulary(recipe)
    targets = read_targets(Path(recipe.data.train[0])) if recipe.task.kind == "classify" else None
    if recipe.model.checkpoint is not None:
        checkpoint = open_checkpoint(Path(recipe.model.checkpoint))
        _require_vocabulary(checkpoint.config.vocab_size, train)
        packed_format(recipe, checkpoint, machine)
    open_stream(recipe, train, targets, world)
    _evaluator(recipe, valid, targets)
    return train, valid, targets, vocabulary


def _vocabulary(recipe: Recipe) -> Vocabulary:
    place = None if recipe.data.tokenizer is None else Path(recipe.data.tokenizer)
    folder = recipe.model.checkpoint
    return find_vocabulary(place, None if folder is None else open_checkpoint(Path(folder)))


def _open(folders: tuple[str, ...]) -> ShardSet:
    return ShardSet([Path(folder) for folder in folders])


def _model(recipe: Recipe, train: ShardSet, machine: Machine) -> tuple[Transformer, AdapterConfig | None]:
    """The model to train, and what its adapters are if it has any."""
    if recipe.model.checkpoint is None:
        config = recipe.model.config(train.vocab_size)
        _require_vocabulary(config.vocab_size, train)
        model = new_model(config, device=machine.device, seed=recipe.seed, std=recipe.model.init_std)
        if recipe.model.grown_from is not None:
            grow(model, load_model(open_checkpoint(Path(recipe.model.grown_from)), dtype="float32"))
    else:
        # the frozen base of adapters may be held in the compute dtype; FSDP wants one dtype for all that it gathers
        held = machine.dtype if recipe.lora is not None and machine.world.size == 1 else torch.float32
        checkpoint = open_checkpoint(Path(recipe.model.checkpoint))
        _require_vocabulary(checkpoint.config.vocab_size, train)
        model = load_model(
            checkpoint,
            weight_format=packed_format(recipe, checkpoint, machine),
            dtype=str(held).removeprefix("torch."),
            device=str(machine.device),
            ops=TrainingOps(compiled=machine.is_compiled),
        )
    start = None if recipe.model.adapter is None else _start(recipe, model)
    if recipe.lora is None:
        return model, None
    lora = recipe.lora
    shapes = (
        start.shapes
        if start is not None
        else attach_lora(model, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets)
    )
    base = portable_name(Path(recipe.model.checkpoint)) if recipe.model.checkpoint else None
    return model, AdapterConfig(shapes=shapes, base=base, dropout=lora.dropout)


def _start(recipe: Recipe, model: Transformer) -> AdapterConfig:
    """The adapter that the run goes on from, attached, or merged where all weights are trained."""
    folder = Path(recipe.model.adapter or "")
    if recipe.model.adapter_digest not in (None, adapter_digest(folder)):
        raise ConfigError(f"{folder} has changed since the run began; put it back, or begin anew with another --run")
    require_kind(folder, tells_labels=recipe.task.kind == "classify")
    start = load_adapter(model, folder, dropout=0.0 if recipe.lora is None else recipe.lora.dropout)
    if recipe.lora is None:
        merge_lora(model)
        model.requires_grad_(True)
    return start


def packed_format(recipe: Recipe, checkpoint: Checkpoint, machine: Machine) -> str | None:
    """What the frozen base is packed as; None: plain tensors."""
    if recipe.model.weight_format is None:
        return None
    if machine.world.size > 1 or machine.is_compiled:
        raise ConfigError("a packed base is trained beside by one process, and not compiled; leave out weight_format")
    weight_format, device, config = recipe.model.weight_format, machine.device, checkpoint.config
    return resolve_weight_format(weight_format, dtype="auto", device=device, config=config)


def _require_vocabulary(vocab_size: int, train: ShardSet) -> None:
    if vocab_size < train.vocab_size:
        raise DataError(
            f"the data holds ids of a vocabulary of {train.vocab_size}, the model has {vocab_size}; "
            "raise model.vocab_size or leave it out, or build the data with the model's tokenizer"
        )


def _task(recipe: Recipe, model: Transformer, targets: Targets | None, machine: Machine) -> Task:
    if targets is not None:
        task = ClassifierTask(targets, model.config.dim)
        if recipe.model.adapter is not None and (Path(recipe.model.adapter) / HEAD).exists():
            task.head.go_on(open_classifier(Path(recipe.model.adapter), model.config.dim), targets)
        return task
    if recipe.task.kind == "preference":
        return PreferenceTask(
            recipe.task,
            model,
            compute_dtype=machine.dtype,
            compiled=machine.is_compiled,
            goes_on=recipe.model.adapter is not None,
        )
    if model.config.moe is not None:
        keep_router_logits(model)
    return TextTask(recipe.loss, compiled=machine.is_compiled)


def _evaluator(recipe: Recipe, valid: ShardSet | None, targets: Targets | None) -> Evaluator | None:
    if valid is None:
        return None
    batch_len, max_batches = recipe.data.microbatch_len, recipe.metrics.valid_batches
    if recipe.task.kind == "text":
        return TextEvaluator(valid, batch_len=batch_len, max_batches=max_batches)
    if targets is not None:
        folder = Path(recipe.data.valid[0])
        targets = read_targets(folder).matched_to(targets, folder)
    return SampleEvaluator(valid, batch_len=batch_len, max_batches=max_batches, targets=targets)
