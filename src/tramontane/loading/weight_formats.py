"""Which format each weight is held in for the CPU kernels, and whether they are used at all.

`auto` holds what is stored as it is stored. A format asked for by name holds for every weight, with two exceptions: the
router of a mixture stays float32, it is tiny and decides discretely; and beside 4-bit weights the output matrix is
q8_0, since its errors reach the scores unattenuated and it is a small part of the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from tramontane.errors import ConfigError
from tramontane.formats.names import EMBEDDINGS, OUTPUT, canonical_shapes
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.read import plan_reads

if TYPE_CHECKING:
    import torch

    from tramontane.config import ModelConfig
    from tramontane.formats.tensor_source import TensorSource
    from tramontane.loading.checkpoint import Checkpoint
    from tramontane.ops.packed_weight import WeightFormat

AUTO, TORCH = "auto", "torch"
_OF_STORED: dict[str, WeightFormat] = {
    "F32": "f32",
    "BF16": "bf16",
    "F16": "f16",
    "Q8_0": "q8_0",
    "Q4_0": "q4_0",
    "Q4_K": "q4_k",
    "Q5_K": "q5_k",
    "Q6_K": "q6_k",
}
_WITHOUT_KERNELS: WeightFormat = "bf16"  # GGUF types that the kernels do not multiply: more bits than their blocks have
_FOUR_BIT = ("q4_0", "q4_k")


def resolve_weight_format(weight_format: str, *, dtype: str, device: torch.device, config: ModelConfig) -> str | None:
    """`auto` or a format to pack to; None: plain tensors in the compute dtype, computed by torch.

    `auto` means the native kernels on a CPU, unless a 16-bit dtype is asked for, in which only torch computes,
    or the model's heads are of a shape they do not cover. `torch` is torch everywhere. Raises ConfigError for a format
    that is unknown or cannot be had with this dtype or device.
    """
    is_float32 = dtype in ("auto", "float32")
    if weight_format == TORCH or (weight_format == AUTO and (device.type != "cpu" or not is_float32)):
        return None
    if weight_format == AUTO:
        return AUTO if _is_covered(config) else None
    from tramontane.ops.packed_weight import WEIGHT_FORMATS

    if weight_format not in WEIGHT_FORMATS:
        raise ConfigError(
            f"weight_format={weight_format!r} is unknown; use {AUTO}, {TORCH} or one of {', '.join(WEIGHT_FORMATS)}"
        )
    if device.type != "cpu":
        raise ConfigError(f"weight_format={weight_format} is for CPUs; leave it out on {device}, or run on the CPU")
    if not is_float32:
        raise ConfigError(f"{weight_format} weights are computed in float32, not {dtype}; leave out one of the two")
    return weight_format


def packed_formats(source: TensorSource, config: ModelConfig, weight_format: str) -> dict[str, WeightFormat]:
    """Canonical name -> format of every weight but the norms, of a format that `resolve_weight_format` returned.

    Raises ConfigError if the format cannot hold a weight, naming it.
    """
    from tramontane.ops.packed_weight import QUANTISERS, packed_bytes

    formats: dict[str, WeightFormat] = {}
    for read in plan_reads(source, config):
        stored = source.info(read.file_name).stored
        for part in read.parts:
            if part.must_equal is not None or len(part.shape) != 2:
                continue
            chosen = _choose(part.name, stored, weight_format, config)
            try:
                packed_bytes(chosen, *part.shape)
            except ConfigError:
                raise ConfigError(
                    f"{part.name}: {chosen} holds no rows of {part.shape[1]} weights; {_remedy(part.shape[1])}"
                ) from None
            is_kept = _OF_STORED.get(stored) == chosen
            if not is_kept and chosen in _OF_STORED.values() and chosen not in (*QUANTISERS, "f32", "bf16", "f16"):
                raise ConfigError(
                    f"{part.name} is stored as {stored} and cannot be made {chosen}; "
                    f"weights are quantised to {', '.join(QUANTISERS)}"
                )
            formats[part.name] = chosen
    return formats


def checkpoint_formats(checkpoint: Checkpoint, weight_format: str) -> dict[str, WeightFormat]:
    """`packed_formats` of a checkpoint, from its headers."""
    with open_tensors(checkpoint.weights) as source:
        return packed_formats(source, checkpoint.config, weight_format)


def packed_size(config: ModelConfig, formats: Mapping[str, WeightFormat]) -> int:
    """Bytes of all weights in these formats; norms are float32."""
    from tramontane.ops.packed_weight import packed_bytes

    return sum(
        packed_bytes(formats[name], *shape) if len(shape) == 2 else 4 * prod(shape)
        for name, shape in canonical_shapes(config).items()
    )


def shown_formats(config: ModelConfig, formats: Mapping[str, WeightFormat]) -> str:
    """The formats by how many weights are held in each, most first: `q4_k, q6_k`."""
    num_weights: Counter[str] = Counter()
    for name, shape in canonical_shapes(config).items():
        if name in formats and not _is_router(name):
            num_weights[formats[name]] += prod(shape)
    return ", ".join(name for name, _ in num_weights.most_common())


def _choose(name: str, stored: str, weight_format: str, config: ModelConfig) -> WeightFormat:
    if _is_router(name):
        return "f32"
    if weight_format == AUTO:
        return _OF_STORED.get(stored, _WITHOUT_KERNELS)
    is_output = name == (EMBEDDINGS if config.tied_embeddings else OUTPUT)
    if is_output and weight_format in _FOUR_BIT:
        return "q8_0"
    return weight_format  # type: ignore[return-value]  # proved by resolve_weight_format


def _remedy(num_columns: int) -> str:
    return "use q8_0 or q4_0" if num_columns % 32 == 0 else "use auto, bf16 or f32"


def _is_covered(config: ModelConfig) -> bool:
    """Whether the attention kernels compute heads of this shape."""
    from tramontane.ops import _cpu

    heads_per_kv = config.n_heads // config.n_kv_heads
    return config.head_dim % 2 == 0 and config.head_dim <= _cpu.max_head_dim and heads_per_kv <= _cpu.max_heads_per_kv


def _is_router(name: str) -> bool:
    return name.endswith(".feed_forward.gate.weight")
