"""LoRA adapters in files: PEFT's (adapter_config.json and adapter_model.safetensors, Hugging Face names), read and
written, and those of mistral-finetune (params.json and lora.safetensors, canonical names), read."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tramontane import durable
from tramontane.config import read_json
from tramontane.errors import CheckpointError, ConfigError
from tramontane.formats.names import canonical_shapes, hf_body, rotary_heads
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.rotary_layout import half_to_interleaved, interleaved_to_half
from tramontane.formats.write import write_safetensors
from tramontane.loading.peft_config import REMEDY, Stack, modules, read_peft_config
from tramontane.model.adapter import Adapter
from tramontane.model.lora import ALL_LINEARS, LowRankShape

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.config import ModelConfig
    from tramontane.formats.tensor_source import TensorSource
    from tramontane.model.transformer import Transformer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PARAMS, LORA = "params.json", "lora.safetensors"
PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """What an adapter's tensors mean: rank and scale by canonical linear, such as `layers.0.attention.wq`."""

    shapes: Mapping[str, LowRankShape]
    base: str | None = None
    dropout: float = 0.0

    @property
    def targets(self) -> tuple[str, ...]:
        """Last names of the adapted linears, in the model's order."""
        adapted = {_last(linear) for linear in self.shapes}
        return tuple(name for name in ALL_LINEARS if name in adapted)

    @property
    def ranks(self) -> tuple[int, ...]:
        """All there are, the smallest first."""
        return tuple(sorted({shape.rank for shape in self.shapes.values()}))

    @property
    def scales(self) -> tuple[float, ...]:
        return tuple(sorted({shape.scale for shape in self.shapes.values()}))


def write_adapter(
    folder: Path, model_config: ModelConfig, config: AdapterConfig, tensors: Mapping[str, Tensor]
) -> None:
    """`tensors` as `read_adapter` gives them, into `folder` (made if need be), as PEFT has them, in float32. An adapter
    that is there is replaced in one step, so that no reader finds half of each; what else lies there stays."""
    durable.make_folder(folder.parent)
    with durable.folder(folder) as made:
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_dir():
                shutil.copytree(path, made / path.name, symlinks=True)
            elif path.name not in (CONFIG, WEIGHTS):
                shutil.copy2(path, made / path.name, follow_symlinks=False)
        _write_peft(made, model_config, config, tensors)


def _write_peft(folder: Path, model_config: ModelConfig, config: AdapterConfig, tensors: Mapping[str, Tensor]) -> None:
    hf_modules = modules(model_config, "model.")
    named = {}
    for name, tensor in tensors.items():
        linear, _, side = name.partition(".lora.")
        heads = rotary_heads(f"{linear}.weight", model_config)
        rows = interleaved_to_half(tensor, heads) if heads is not None and side == "b" else tensor
        named[_peft_name(hf_modules[linear], side)] = rows.float().contiguous()
    write_safetensors(
        folder / WEIGHTS,
        {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in named.items()},
        named.items(),
    )
    document = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.base,
        **_peft_shapes(config, hf_modules),
        "lora_dropout": config.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    durable.write(folder / CONFIG, json.dumps(document, indent=2) + "\n")


def read_adapter(folder: Path, model_config: ModelConfig) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """What the adapter is, and its tensors by canonical name, such as `layers.0.attention.wq.lora.a`, in float32.

    Raises ConfigError for settings that are not honoured, CheckpointError unless there is exactly one pair for every
    linear that is adapted, in the right shapes.
    """
    if not is_adapter(folder):
        raise CheckpointError(f"{folder} holds no adapter: neither {CONFIG} of PEFT nor {LORA} of mistral-finetune")
    _refuse_pickle(folder)
    config, tensors = (_read_mistral if _is_mistral(folder) else _read_peft)(folder, model_config)
    _require_all(folder, model_config, config, tensors)
    return config, tensors


def open_adapter(folder: Path, model: Transformer) -> Adapter:
    """The adapter in `folder`, ready to be computed beside `model`. Errors as `read_adapter`."""
    digest = adapter_digest(folder)
    config, tensors = read_adapter(folder, model.config)
    weights = {
        linear: (tensors[f"{linear}.lora.a"], tensors[f"{linear}.lora.b"], shape.scale)
        for linear, shape in config.shapes.items()
    }
    return Adapter(model, weights, digest)


def adapter_digest(folder: Path) -> str:
    """SHA-256 of both files: what the adapter's answers depend on. Raises CheckpointError if one cannot be read."""
    _refuse_pickle(folder)
    digest = hashlib.sha256()
    for name in (PARAMS, LORA) if _is_mistral(folder) else (CONFIG, WEIGHTS):
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise CheckpointError(
                f"{folder / name}: {error.strerror}; an adapter is {CONFIG} and {WEIGHTS} (PEFT), or {PARAMS} and "
                f"{LORA} (mistral-finetune)"
            ) from None
    return digest.hexdigest()


def adapter_bytes(folder: Path) -> int:
    """Size of an adapter's weights on disk."""
    return (folder / (LORA if _is_mistral(folder) else WEIGHTS)).stat().st_size


def is_adapter(path: Path) -> bool:
    """Whether the folder is an adapter's: PEFT's, or mistral-finetune's without a model's weights beside it."""
    if (path / CONFIG).is_file():
        return True
    return (path / LORA).is_file() and not any(path.glob("consolidated*")) and not any(path.glob("model*.safetensors"))


def adapter_base(folder: Path) -> str:
    """The name of the model an adapter is for: `default`, a hub id or a folder, which may be relative to the adapter's
    own, wherever that is used.

    Raises ConfigError if it names none.
    """
    document = _read_document(folder) if (folder / CONFIG).exists() else {}
    base = document.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ConfigError(f"the adapter {folder} does not say which model it is for; name that with --base")
    return str(folder / base) if base != "default" and (folder / base).exists() else base


def _read_peft(folder: Path, model_config: ModelConfig) -> tuple[AdapterConfig, dict[str, Tensor]]:
    document, path = _read_document(folder), folder / WEIGHTS
    tensors: dict[str, Tensor] = {}
    with open_tensors(path) as source:
        names = source.names()
        body = hf_body(name.removeprefix(PREFIX) for name in names)
        targets = read_peft_config(document, str(folder / CONFIG), model_config, body)
        places = {
            _peft_name(module, side): (linear, side)
            for linear, module in modules(model_config, body).items()
            for side in "ab"
        }
        stacked = {_peft_name(stack.prefix, side): (stack, side) for stack in targets.stacks for side in "ab"}
        for name in names:
            if name in stacked:
                tensors |= _unstacked(source, name, *stacked[name])
            elif name in places:
                linear, side = places[name]
                heads = rotary_heads(f"{linear}.weight", model_config)
                tensor = source.read(name).float()
                if heads is not None and side == "b" and tensor.shape[0] % (2 * heads) == 0:
                    tensor = half_to_interleaved(tensor, heads)
                tensors[f"{linear}.lora.{side}"] = tensor.clone()
            else:
                raise CheckpointError(
                    f"{path}: {name!r} belongs to no weight of this model that can be adapted; {REMEDY}"
                )
    base = document.get("base_model_name_or_path")
    config = AdapterConfig(shapes=targets.shapes, base=base if isinstance(base, str) else None, dropout=targets.dropout)
    return config, tensors


def _unstacked(source: TensorSource, name: str, stack: Stack, side: str) -> dict[str, Tensor]:
    """The pairs of each expert. PEFT has A as (experts * rank, in), expert by expert, and B as (out, rank * experts),
    expert fastest; linears that share A have their rows one after the other in B."""
    num_experts, rank = len(stack.experts), stack.rank
    tensor = source.read(name).float()
    width = tensor.shape[0] if side == "a" else tensor.shape[1]
    if width != num_experts * rank:
        raise CheckpointError(f"{source.path}: {name!r} has {width} for {num_experts} experts of rank {rank}")
    found: dict[str, Tensor] = {}
    for e, linears in enumerate(stack.experts):
        if side == "a":
            parts = [tensor[e * rank : (e + 1) * rank]] * len(linears)
        else:
            parts = list(tensor.view(-1, rank, num_experts)[:, :, e].chunk(len(linears)))
        found |= {f"{linear}.lora.{side}": part.clone() for linear, part in zip(linears, parts, strict=True)}
    return found


def _read_mistral(folder: Path, model_config: ModelConfig) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """mistral-finetune's: names and layout are canonical, the scale is written down as such."""
    lora = read_json(folder / PARAMS).get("lora")
    rank, scale = (lora.get("rank"), lora.get("scaling")) if isinstance(lora, dict) else (None, None)
    if not isinstance(rank, int) or rank < 1 or not isinstance(scale, int | float):
        raise ConfigError(
            f"{folder / PARAMS}: lora must say rank and scaling, as mistral-finetune writes it: "
            '"lora": {"rank": 64, "scaling": 2.0}'
        )
    tensors = {}
    linears = {name.removesuffix(".weight") for name in canonical_shapes(model_config) if _last(name) in ALL_LINEARS}
    with open_tensors(folder / LORA) as source:
        for name in source.names():
            linear, _, side = name.removesuffix(".weight").rpartition(".lora_")
            if linear not in linears or side not in ("A", "B"):
                raise CheckpointError(
                    f"{folder / LORA}: {name!r} belongs to no weight of this model that can be adapted"
                )
            tensors[f"{linear}.lora.{side.lower()}"] = source.read(name).float().clone()
    adapted = {_last(name.partition(".lora.")[0]) for name in tensors}
    shapes = {linear: LowRankShape(rank, float(scale)) for linear in sorted(linears) if _last(linear) in adapted}
    return AdapterConfig(shapes=shapes), tensors


def _require_all(folder: Path, model_config: ModelConfig, config: AdapterConfig, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless the tensors are exactly the pairs that `config` calls for."""
    wanted = {}
    weights = canonical_shapes(model_config)
    for linear, shape in config.shapes.items():
        out_features, in_features = weights[f"{linear}.weight"]
        wanted[f"{linear}.lora.a"] = (shape.rank, in_features)
        wanted[f"{linear}.lora.b"] = (out_features, shape.rank)
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise CheckpointError(f"{folder}: {missing[0]!r} is missing, which its configuration calls for")
    if left_over := sorted(tensors.keys() - wanted.keys()):
        raise CheckpointError(f"{folder}: {left_over[0]!r} is left over; its configuration does not name it")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != wanted[name]:
            raise CheckpointError(f"{folder}: {name!r} has shape {tuple(tensor.shape)}, not {wanted[name]}")


def _peft_shapes(config: AdapterConfig, hf_modules: Mapping[str, str]) -> dict[str, Any]:
    """Rank, alpha and targets in PEFT's words: what most linears have, and patterns for the others; last names where
    they are enough, else whole ones."""
    adapted = {hf_modules[linear]: shape for linear, shape in config.shapes.items()}
    by_last: dict[str, dict[str, LowRankShape]] = {}
    for module, shape in adapted.items():
        by_last.setdefault(_last(module), {})[module] = shape
    # where transformers 5 has experts' w1 and w3 in one parameter, PEFT gives that twice the rank `r`, whatever a
    # pattern says; it knows w2 as down_proj
    usual = next(iter(by_last.get("w1", {}).values()), Counter(adapted.values()).most_common(1)[0][0])
    patterns: dict[str, LowRankShape] = {}
    for last, shapes in by_last.items():
        if len(set(shapes.values())) > 1:
            patterns |= {module.replace(".", r"\."): shape for module, shape in shapes.items() if shape != usual}
        elif (shape := next(iter(shapes.values()))) != usual:
            patterns |= dict.fromkeys(("w2", "down_proj") if last == "w2" else (last,), shape)
    is_enough = all(module in adapted for module in hf_modules.values() if _last(module) in by_last)
    return {
        "r": usual.rank,
        "lora_alpha": usual.scale * usual.rank,
        "rank_pattern": {module: shape.rank for module, shape in patterns.items()},
        "alpha_pattern": {module: shape.scale * shape.rank for module, shape in patterns.items()},
        "target_modules": sorted(by_last if is_enough else adapted),
    }


def _refuse_pickle(folder: Path) -> None:
    if (folder / "adapter_model.bin").exists() and not (folder / WEIGHTS).exists():
        raise CheckpointError(
            f"{folder} holds its weights only as a pickled adapter_model.bin, which can run code and is never read; "
            f"load it with PEFT and save it again (save_pretrained), which writes {WEIGHTS}"
        )


def _is_mistral(folder: Path) -> bool:
    return (folder / LORA).is_file() and not (folder / CONFIG).exists()


def _read_document(folder: Path) -> dict[str, Any]:
    document = read_json(folder / CONFIG)
    if document.get("peft_type") != "LORA":
        raise ConfigError(
            f"{folder / CONFIG}: peft_type must be LORA, not {document.get('peft_type')!r}; adapters of other kinds "
            "are merged into their base by PEFT (merge_and_unload)"
        )
    return document


def _peft_name(module: str, side: str) -> str:
    return f"{PREFIX}{module}.lora_{side.upper()}.weight"


def _last(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]
