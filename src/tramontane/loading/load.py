"""load_model: weights stream from the files into a model built without any, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import nn

from tramontane.errors import CapacityError, CheckpointError, ConfigError
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.read import plan_reads, read_part, require_equal
from tramontane.loading.checkpoint import stored_bytes
from tramontane.loading.memory import require_memory
from tramontane.model.transformer import Transformer
from tramontane.ops.torch_ops import TorchOps
from tramontane.runtime import resolve_device, resolve_dtype

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.formats.names import TensorPart, TensorRead
    from tramontane.formats.tensor_source import TensorSource
    from tramontane.loading.checkpoint import Checkpoint
    from tramontane.ops.interface import Ops

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

_CHUNK_WEIGHTS = 1 << 24  # read at once: 64 MiB where quantised blocks become float32


def load_model(
    checkpoint: Checkpoint,
    *,
    weight_format: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    ops: Ops | None = None,
    progress: Progress | None = None,
) -> Transformer:
    """The model in memory, every parameter filled from the checkpoint exactly once.

    Peak memory is the weights and a part of one tensor. Raises CapacityError, before reading, if they do not fit;
    ConfigError for a dtype or device that cannot be had; CheckpointError for weights that cannot be read.
    """
    if weight_format is not None:
        raise ConfigError(
            f"weight_format={weight_format!r} is not available in this version, which holds weights in the compute "
            "dtype; leave it out, or choose with --dtype"
        )
    place = resolve_device(device)
    compute = resolve_dtype(dtype, checkpoint.dtype, place)
    what = f"{checkpoint.path} as {str(compute).removeprefix('torch.')}"
    remedy = "free some, use a 16-bit dtype, or a smaller model"
    require_memory(checkpoint.memory_bytes(compute), place, what, remedy, mapped_bytes=checkpoint.size_bytes)
    with torch.device("meta"):
        model = Transformer(checkpoint.config, ops or TorchOps())
    try:
        _fill(model, checkpoint, compute, place, progress)
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate" not in str(error):
            raise
        raise CapacityError(f"{what} did not fit into the memory of {place}; {remedy}") from None
    return model


def _fill(
    model: Transformer, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, progress: Progress | None
) -> None:
    done_bytes = 0
    with open_tensors(checkpoint.weights) as source:
        for read in plan_reads(source, checkpoint.config):
            for part in read.parts:
                if part.must_equal is not None:
                    require_equal(source, read.file_name, part.must_equal, checkpoint.config)
                else:
                    weight = torch.empty(part.shape, dtype=dtype, device=device)
                    _copy(weight, source, read, part)
                    _require_finite(weight, source, read)
                    _place(model, part.name, weight)
            source.release(read.file_name)
            done_bytes += stored_bytes(source.info(read.file_name))
            if progress is not None:
                progress(done_bytes, checkpoint.size_bytes)
    empty = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if empty:
        raise CheckpointError(f"{checkpoint.path}: {len(empty)} tensors were not filled, {empty[0]!r} the first")


def _copy(weight: Tensor, source: TensorSource, read: TensorRead, part: TensorPart) -> None:
    """Fill `weight`, row by row where the rows are stored in their order, so that little else is in memory."""
    if len(part.shape) != 2 or part.half_heads is not None or part.transposed:
        weight.copy_(read_part(source, read, part))
        return
    num_rows, num_columns = part.shape
    first_row = part.start_row or 0
    step = max(1, _CHUNK_WEIGHTS // num_columns)
    for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        weight[start:stop].copy_(source.read(read.file_name, (first_row + start, first_row + stop)))


def _require_finite(weight: Tensor, source: TensorSource, read: TensorRead) -> None:
    """float16 is the one dtype that finite stored weights can leave."""
    if weight.dtype != torch.float16 or source.info(read.file_name).stored == "F16":
        return
    if not bool(weight.isfinite().all()):
        raise ConfigError(f"{read.file_name} has weights beyond the range of float16; use --dtype bfloat16")


def _place(model: nn.Module, name: str, weight: Tensor) -> None:
    """Replace the parameter `name`, still without data, by `weight`."""
    owner, _, attribute = name.rpartition(".")
    module = model.get_submodule(owner)
    empty = module.get_parameter(attribute)
    if prod(empty.shape) != weight.numel() or empty.shape != weight.shape or not empty.is_meta:
        raise CheckpointError(f"{name} has no place of shape {tuple(weight.shape)} in the model")
    setattr(module, attribute, nn.Parameter(weight, requires_grad=empty.requires_grad))
