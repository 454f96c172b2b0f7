"""LoRA adapters in PEFT's format: adapter_config.json and adapter_model.safetensors with Hugging Face names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tramontane.config import ModelConfig
from tramontane.errors import CheckpointError, ConfigError
from tramontane.formats.names import file_names, rotary_heads
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.rotary_layout import half_to_interleaved, interleaved_to_half
from tramontane.formats.write import write_safetensors
from tramontane.model.lora import ALL_LINEARS, attach_lora
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


def adapter_tensors(model: Transformer) -> dict[str, Tensor]:
    """Every adapter weight by canonical name, such as `layers.0.attention.wq.lora.a`."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if ".lora." in name}


def write_adapter(
    folder: Path, model_config: ModelConfig, config: AdapterConfig, tensors: Mapping[str, Tensor]
) -> None:
    """`tensors` as `adapter_tensors` gives them, into `folder` (made if need be), as float32."""
    folder.mkdir(parents=True, exist_ok=True)
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
    (folder / CONFIG).write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def read_adapter_config(folder: Path, model_config: ModelConfig) -> AdapterConfig:
    """Raises ConfigError for an adapter of another kind, or with settings that change what its tensors mean."""
    try:
        document: Any = json.loads((folder / CONFIG).read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no {CONFIG}; is it an adapter in PEFT's format?") from None
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG}: not valid JSON: {error}") from None
    if not isinstance(document, dict) or document.get("peft_type") != "LORA":
        raise ConfigError(f"{folder / CONFIG}: peft_type must be LORA")
    inert = {"bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False, "modules_to_save": None}
    empty = ("rank_pattern", "alpha_pattern", "layers_to_transform", "layer_replication", "target_parameters")
    for key, allowed in inert.items():
        if document.get(key, allowed) not in (allowed, None):
            raise ConfigError(f"{folder / CONFIG}: {key}={document[key]!r} is not supported; only {allowed!r} is")
    for key in empty:
        if document.get(key):
            raise ConfigError(f"{folder / CONFIG}: {key}={document[key]!r} is not supported; leave it empty")
    rank, alpha, modules = document.get("r"), document.get("lora_alpha"), document.get("target_modules")
    if not isinstance(rank, int) or not isinstance(alpha, (int, float)) or not isinstance(modules, list):
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
    """The adapter's tensors by canonical name. Raises CheckpointError for a tensor that fits no linear."""
    canonical = {peft_name: place for place, peft_name in _peft_names(model_config).items()}
    tensors = {}
    with open_tensors(folder / WEIGHTS) as source:
        for peft_name in source.names():
            if peft_name not in canonical:
                raise CheckpointError(f"{folder / WEIGHTS}: {peft_name!r} belongs to no weight of this model")
            linear, side = canonical[peft_name]
            tensor = source.read(peft_name).float()
            heads = rotary_heads(f"{linear}.weight", model_config)
            rows = half_to_interleaved(tensor, heads) if heads is not None and side == "b" else tensor
            tensors[f"{linear}.lora.{side}"] = rows.clone()
    return tensors


@torch.no_grad()
def load_adapter(model: Transformer, folder: Path) -> AdapterConfig:
    """Attach the adapter in `folder` to `model`, everything else frozen. Raises CheckpointError if it does not fit."""
    config = read_adapter_config(folder, model.config)
    tensors = read_adapter(folder, model.config)
    attach_lora(model, rank=config.rank, alpha=config.alpha, dropout=config.dropout, targets=config.targets)
    places = adapter_tensors(model)
    if set(places) != set(tensors):
        differing = sorted(set(places) ^ set(tensors))
        raise CheckpointError(f"{folder / WEIGHTS}: {differing[0]!r} is missing or left over")
    for name, tensor in tensors.items():
        if tensor.shape != places[name].shape:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {name!r} has shape {tuple(tensor.shape)}, not {tuple(places[name].shape)}"
            )
        places[name].copy_(tensor)
    return config


def _peft_names(config: ModelConfig) -> dict[tuple[str, str], str]:
    """(canonical linear, side a or b) -> the name PEFT stores it under."""
    return {
        (name.removesuffix(".weight"), side): f"{PREFIX}{hf.removesuffix('.weight')}.lora_{side.upper()}.weight"
        for name, hf in file_names("hf", config).items()
        for side in "ab"
    }


def _last(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]
