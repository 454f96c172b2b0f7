"""LoRA adapters in PEFT's format: adapter_config.json and adapter_model.safetensors with Hugging Face names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tramontane import durable
from tramontane.config import ModelConfig
from tramontane.errors import CheckpointError, ConfigError
from tramontane.formats.names import canonical_shapes, file_names, rotary_heads
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.rotary_layout import half_to_interleaved, interleaved_to_half
from tramontane.formats.write import write_safetensors
from tramontane.model.adapter import Adapter
from tramontane.model.lora import ALL_LINEARS
from tramontane.model.transformer import Transformer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """What an adapter's tensors mean. `targets` are canonical names of linears (wq … w3)."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    base: str | None = None
    dropout: float = 0.0


def write_adapter(
    folder: Path, model_config: ModelConfig, config: AdapterConfig, tensors: Mapping[str, Tensor]
) -> None:
    """`tensors` as `adapter_tensors` gives them, into `folder` (made if need be), as float32."""
    durable.make_folder(folder)
    peft_names = _peft_names(model_config)
    named = {}
    for name, tensor in tensors.items():
        linear, _, side = name.partition(".lora.")
        heads = rotary_heads(f"{linear}.weight", model_config)
        rows = interleaved_to_half(tensor, heads) if heads is not None and side == "b" else tensor
        named[peft_names[linear, side]] = rows.float().contiguous()
    write_safetensors(
        folder / WEIGHTS,
        {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in named.items()},
        named.items(),
        overwrite=True,
    )
    hf_names = file_names("hf", model_config)
    modules = sorted({_last(hf_names[f"{name.partition('.lora.')[0]}.weight"]) for name in tensors})
    document = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    durable.write(folder / CONFIG, json.dumps(document, indent=2) + "\n")


def read_adapter_config(folder: Path, model_config: ModelConfig) -> AdapterConfig:
    """Raises ConfigError for an adapter of another kind, or with settings that change what its tensors mean."""
    document = _read_document(folder)
    inert = {"bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False, "modules_to_save": None}
    empty = ("rank_pattern", "alpha_pattern", "layers_to_transform", "layer_replication", "target_parameters")
    for key, allowed in inert.items():
        if document.get(key, allowed) not in (allowed, None):
            raise ConfigError(f"{folder / CONFIG}: {key}={document[key]!r} is not supported; only {allowed!r} is")
    for key in empty:
        if document.get(key):
            raise ConfigError(f"{folder / CONFIG}: {key}={document[key]!r} is not supported; leave it empty")
    rank, alpha, modules = document.get("r"), document.get("lora_alpha"), document.get("target_modules")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)) or not isinstance(modules, list):
        raise ConfigError(f"{folder / CONFIG}: r, lora_alpha and target_modules must be a number, a number and a list")
    canonical = {_last(hf): _last(name) for name, hf in file_names("hf", model_config).items()}
    unknown = [module for module in modules if canonical.get(module) not in ALL_LINEARS]
    if unknown:
        raise ConfigError(f"{folder / CONFIG}: target_modules names {unknown[0]!r}, which this model has not")
    base = document.get("base_model_name_or_path")
    return AdapterConfig(
        rank=rank,
        alpha=float(alpha),
        targets=tuple(canonical[module] for module in modules),
        base=base if isinstance(base, str) else None,
        dropout=float(document.get("lora_dropout") or 0.0),
    )


def read_adapter(folder: Path, model_config: ModelConfig) -> dict[str, Tensor]:
    """The adapter's tensors by canonical name, such as `layers.0.attention.wq.lora.a`, in float32.

    Raises CheckpointError unless there is exactly one pair for every linear its configuration names, in the right
    shapes; ConfigError as `read_adapter_config`.
    """
    config = read_adapter_config(folder, model_config)
    canonical = {peft_name: place for place, peft_name in _peft_names(model_config).items()}
    shapes = _shapes(model_config, config)
    tensors = {}
    with open_tensors(folder / WEIGHTS) as source:
        for peft_name in source.names():
            if peft_name not in canonical:
                raise CheckpointError(f"{folder / WEIGHTS}: {peft_name!r} belongs to no weight of this model")
            linear, side = canonical[peft_name]
            name, shape = f"{linear}.lora.{side}", tuple(source.info(peft_name).shape)
            if shape != shapes.get(name, shape):
                raise CheckpointError(f"{folder / WEIGHTS}: {name!r} has shape {shape}, not {shapes[name]}")
            tensor = source.read(peft_name).float()
            heads = rotary_heads(f"{linear}.weight", model_config)
            rows = half_to_interleaved(tensor, heads) if heads is not None and side == "b" else tensor
            tensors[name] = rows.clone()
    if differing := sorted(set(shapes) ^ set(tensors)):
        raise CheckpointError(f"{folder / WEIGHTS}: {differing[0]!r} is missing or left over")
    return tensors


def open_adapter(folder: Path, model: Transformer) -> Adapter:
    """The adapter in `folder`, ready to be computed beside `model`. Errors as `read_adapter`."""
    digest = adapter_digest(folder)
    config = read_adapter_config(folder, model.config)
    tensors = read_adapter(folder, model.config)
    linears = [name.removesuffix(".lora.a") for name in tensors if name.endswith(".lora.a")]
    pairs = {name: (tensors[f"{name}.lora.a"], tensors[f"{name}.lora.b"]) for name in linears}
    return Adapter(model, pairs, config.alpha / config.rank, digest)


def adapter_digest(folder: Path) -> str:
    """SHA-256 of both files: what the adapter's answers depend on. Raises CheckpointError if one cannot be read."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise CheckpointError(
                f"{folder / name}: {error.strerror}; an adapter in PEFT's format is {CONFIG} and {WEIGHTS}"
            ) from None
    return digest.hexdigest()


def is_adapter(path: Path) -> bool:
    return (path / CONFIG).is_file()


def adapter_base(folder: Path) -> str:
    """The name of the model an adapter is for: a hub id or a folder, which may be relative to the adapter's own,
    wherever that is used.

    Raises ConfigError if it names none.
    """
    base = _read_document(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{folder / CONFIG} names no base_model_name_or_path; open its base and load the adapter")
    return str(folder / base) if base != "default" and (folder / base).exists() else base


def _read_document(folder: Path) -> dict[str, Any]:
    try:
        document: Any = json.loads((folder / CONFIG).read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no {CONFIG}; is it an adapter in PEFT's format?") from None
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG}: not valid JSON: {error}") from None
    if not isinstance(document, dict) or document.get("peft_type") != "LORA":
        raise ConfigError(f"{folder / CONFIG}: peft_type must be LORA")
    return document


def _shapes(model_config: ModelConfig, config: AdapterConfig) -> dict[str, tuple[int, int]]:
    """Of every tensor the configuration calls for, by canonical name."""
    shapes = {}
    for name, shape in canonical_shapes(model_config).items():
        if _last(name) in config.targets:
            linear = name.removesuffix(".weight")
            shapes[f"{linear}.lora.a"] = (config.rank, shape[1])
            shapes[f"{linear}.lora.b"] = (shape[0], config.rank)
    return shapes


def _peft_names(config: ModelConfig) -> dict[tuple[str, str], str]:
    """(canonical linear, side a or b) -> the name PEFT stores it under."""
    return {
        (name.removesuffix(".weight"), side): f"{PREFIX}{hf.removesuffix('.weight')}.lora_{side.upper()}.weight"
        for name, hf in file_names("hf", config).items()
        for side in "ab"
    }


def _last(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]
