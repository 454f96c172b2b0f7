"""The recipe of a run: frozen dataclasses read from TOML, changed by `--set a.b=value`, saved resolved in the run.

One direction only: dataclass -> TOML -> flags. Every field has its default here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tramontane.config import ModelConfig, MoeConfig
from tramontane.data.shards import PhaseInfo
from tramontane.data.strict_toml import parse_toml, read_recipe_table, read_table
from tramontane.errors import ConfigError, DataError
from tramontane.model.lora import ALL_LINEARS, require_lora
from tramontane.training.schedule import Schedule

PreferenceLoss = Literal["dpo", "ipo", "simpo", "orpo"]
BESIDE_CHECKPOINT = ("checkpoint", "adapter", "adapter_digest", "weight_format")
"""What of [model] has a meaning where that starts from a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecipe:
    """A new model's shape, or `checkpoint`: the folder to start from (its own shape then holds).

    `grown_from`: the folder of a smaller model that the new one begins as (training.growth).
    `full_attention_every` = n leaves every n-th layer without a window. `vocab_size` None: that of the data.
    `weight_format`: the frozen base of adapters is held packed, as q4_0 or another format of the CPU kernels, or `auto`
    as it is stored (QLoRA, arXiv:2305.14314).
    `adapter`: the folder of an adapter of `checkpoint`, whose digest it must have. With [lora] it is gone on with, and
    its ranks, scales and targets hold; without, it is merged, and all weights go on from there.
    """

    checkpoint: str | None = None
    adapter: str | None = None
    adapter_digest: str | None = None
    weight_format: str | None = None
    grown_from: str | None = None
    dim: int = 384
    n_layers: int = 8
    n_heads: int = 6
    n_kv_heads: int = 2
    head_dim: int = 64
    hidden_dim: int = 1024
    vocab_size: int | None = None
    max_seq_len: int = 2048
    sliding_window: int | None = 512
    full_attention_every: int | None = None
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied_embeddings: bool = True
    num_experts: int | None = None
    num_experts_per_tok: int = 2
    init_std: float = 0.02

    def config(self, vocab_size: int) -> ModelConfig:
        """The ModelConfig of a new model. Raises ConfigError for an impossible shape."""
        every = self.full_attention_every
        windows = tuple(
            None if every is not None and (layer + 1) % every == 0 else self.sliding_window
            for layer in range(self.n_layers)
        )
        moe = None
        if self.num_experts is not None:
            moe = MoeConfig(num_experts=self.num_experts, num_experts_per_tok=self.num_experts_per_tok)
        return ModelConfig(
            family="mistral" if moe is None else "mixtral",
            dim=self.dim,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            head_dim=self.head_dim,
            hidden_dim=self.hidden_dim,
            vocab_size=self.vocab_size or vocab_size,
            norm_eps=self.norm_eps,
            rope_theta=self.rope_theta,
            max_seq_len=self.max_seq_len,
            sliding_windows=windows,
            moe=moe,
            tied_embeddings=self.tied_embeddings,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPaths:
    """Folders of token shards. `microbatch_len` tokens run through the model at once, `batch_len` per update (a
    multiple). `phases` take the place of those the shards were built with; either are stretched to the run's length,
    sources repeated as needed.

    `epochs`: every document (pair, sample) is seen exactly so often, and `schedule.num_steps` is what that takes.
    """

    train: tuple[str, ...]
    valid: tuple[str, ...] = ()
    tokenizer: str | None = None  # file or folder copied beside the weights
    batch_len: int = 8192
    microbatch_len: int = 8192
    policy: Literal["cut", "whole"] = "cut"
    epochs: float | None = None
    phases: tuple[PhaseInfo, ...] = ()

    def __post_init__(self) -> None:
        if not self.train:
            raise DataError("data.train is empty; name at least one folder of shards")
        if self.epochs is not None and not (self.epochs > 0 and math.isfinite(self.epochs)):
            raise ConfigError(f"data.epochs={self.epochs} must be a number above 0")
        if self.epochs is not None and (self.policy != "whole" or self.phases):
            raise ConfigError("data.epochs counts whole documents; set data.policy='whole' and leave out data.phases")
        if self.microbatch_len < 2 or self.batch_len % self.microbatch_len:
            raise DataError(
                f"batch_len={self.batch_len} must be a multiple of microbatch_len={self.microbatch_len} (2 or more)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerRecipe:
    """`lr` is AdamW's peak rate, `muon_lr` that of the matrices inside layers, `embedding_lr` that of embeddings and
    output (None: lr). Weight decay is decoupled and acts on matrices alone, on embeddings only if `decay_embeddings`.
    """

    kind: Literal["adamw", "muon"] = "muon"
    lr: float = 1e-3
    embedding_lr: float | None = None
    muon_lr: float = 3e-3
    muon_momentum: float = 0.95
    normalise_rows: bool = False
    betas: tuple[float, ...] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay_embeddings: bool = False
    max_grad_norm: float | None = 1.0
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas={self.betas} must be two numbers from 0 to below 1")
        for name in ("lr", "muon_lr", "eps"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be above 0")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"ema_decay={self.ema_decay} must lie between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRecipe:
    """Coefficients of what is added to the cross-entropy; those of the router act in mixtures of experts alone."""

    z_loss: float = 0.0
    load_balancing: float = 0.01
    router_z_loss: float = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraRecipe:
    """Train low-rank adapters beside the frozen weights (arXiv:2106.09685)."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ALL_LINEARS

    def __post_init__(self) -> None:
        require_lora(self.rank, self.alpha, self.dropout, self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecipe:
    """What is learned: `text` (next tokens; chat data too, whose masks say which), `preference`, `classify`.

    preference: `loss` with `beta`; simpo adds the margin `gamma`, orpo weighs its odds ratio by `beta`.
    classify: `num_classes`.
    """

    kind: Literal["text", "preference", "classify"] = "text"
    loss: PreferenceLoss = "dpo"
    beta: float = 0.1
    gamma: float = 0.5
    num_classes: int | None = None

    def __post_init__(self) -> None:
        means = {"text": (), "preference": ("loss", "beta", "gamma"), "classify": ("num_classes",)}[self.kind]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("kind", *means) and value != field.default:
                raise ConfigError(f"task.{field.name}={value} has no effect with task.kind={self.kind!r}; leave it out")
        if self.gamma != 0.5 and self.loss != "simpo":
            raise ConfigError(f"task.gamma={self.gamma} is the margin of simpo, not of {self.loss}; leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecipe:
    """How the run uses its machine. None: chosen for it, and printed. `compile` is torch.compile of a whole layer."""

    device: str = "auto"
    dtype: Literal["float32", "bfloat16"] | None = None
    threads: int | None = None
    compile: bool | None = None
    activation_checkpointing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecipe:
    """Every `every_steps` updates or `every_seconds`; the newest `keep` stay, and each `keep_every_steps`-th for good.

    `layout` and `dtype` are those of the weights in release form; `max_shard_mib` splits them into files.
    """

    every_steps: int | None = None
    every_seconds: float | None = 600.0
    keep: int = 2
    keep_every_steps: int | None = None
    layout: Literal["hf", "consolidated"] = "hf"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    max_shard_mib: float | None = None

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ConfigError(f"checkpoint.keep={self.keep} must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsRecipe:
    """A line every `every_steps`; held-out loss every `valid_every_steps` over `valid_batches` microbatches per
    source (None: all)."""

    every_steps: int = 10
    valid_every_steps: int = 250
    valid_batches: int | None = None
    sample_prompts: tuple[str, ...] = ()
    tensorboard: bool = False
    wandb_project: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A whole run. `run` is its folder."""

    run: str
    data: DataPaths
    schedule: Schedule
    seed: int = 0
    model: ModelRecipe = ModelRecipe()
    task: TaskRecipe = TaskRecipe()
    lora: LoraRecipe | None = None
    loss: LossRecipe = LossRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    machine: MachineRecipe = MachineRecipe()
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    metrics: MetricsRecipe = MetricsRecipe()

    def __post_init__(self) -> None:
        if self.model.weight_format is not None and (self.lora is None or self.model.checkpoint is None):
            raise ConfigError("model.weight_format packs the base of adapters; it needs model.checkpoint and [lora]")
        if self.model.adapter is not None and self.model.checkpoint is None:
            raise ConfigError("model.adapter is an adapter of model.checkpoint; name that too")


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of a TOML file, with `a.b=value` changes applied (value in TOML, or a bare string).

    Raises DataError naming file, key and remedy for anything unknown, missing or of the wrong type.
    """
    table = read_recipe_table(path)
    for change in changes:
        _apply(table, change)
    model = table.get("model")
    extra = next((key for key in model or () if key not in BESIDE_CHECKPOINT), None)
    if isinstance(model, dict) and "checkpoint" in model and extra is not None:
        raise DataError(f"{path}: model.{extra} has no effect beside model.checkpoint; remove one of them")
    try:
        return read_table(table, Recipe, str(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _apply(table: dict[str, Any], change: str) -> None:
    dotted, equals, text = change.partition("=")
    *parents, key = dotted.strip().split(".")
    if not equals or not key:
        raise DataError(f"--set {change!r} must look like optimizer.lr=0.001")
    try:
        value = parse_toml(f"value = {text}", "--set")["value"]
    except DataError:
        value = text.strip()
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise DataError(f"--set {change!r}: {parent!r} is not a table of the recipe")
    table[key] = value


def write_recipe(recipe: Recipe) -> str:
    """The recipe as TOML, every default written out; `read_recipe` reads it back to an equal object."""
    table = dataclasses.asdict(recipe)
    if recipe.model.checkpoint is not None:
        table["model"] = {name: getattr(recipe.model, name) for name in BESIDE_CHECKPOINT}
    return "\n".join(_lines(table, "")) + "\n"


def _lines(table: Mapping[str, Any], name: str) -> list[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, dict) and value is not None}
    lines = ([f"\n[{name}]"] if name else []) + [f"{key} = {_toml(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{name}.{key}" if name else key)
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
    return repr(value)
