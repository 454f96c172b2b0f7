"""load_model: weights stream from the files into a model built without any, tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tramontane.errors import ConfigError
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.read import plan_reads, read_part, require_equal, row_chunks
from tramontane.loading.checkpoint import stored_bytes
from tramontane.loading.fill import place_parameter, require_filled
from tramontane.loading.load_packed import load_packed
from tramontane.loading.memory import memory_reported, require_memory
from tramontane.loading.progress import Progress
from tramontane.model.transformer import Transformer
from tramontane.ops.torch_ops import TorchOps
from tramontane.runtime import resolve_device, resolve_dtype

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.formats.names import TensorPart, TensorRead
    from tramontane.formats.tensor_source import TensorSource
    from tramontane.loading.checkpoint import Checkpoint
    from tramontane.ops.interface import Ops


def load_model(
    checkpoint: Checkpoint,
    *,
    weight_format: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    beside_bytes: int = 0,
    ops: Ops | None = None,
    progress: Progress | None = None,
) -> Transformer:
    """The model in memory, every weight filled from the checkpoint exactly once.

    `weight_format` None: plain tensors in `dtype`, for `ops` (torch's if None), which training changes. `auto` or a
    format, as `resolve_weight_format` returns it: packed for the native CPU kernels, quantised blocks as they are
    stored; `dtype`, `device` and `ops` then have nothing to say.

    Peak memory is the weights and a part of one tensor. Raises CapacityError, before reading, if they do not fit
    with `beside_bytes` besides;
    ConfigError for a format, dtype or device that cannot be had; CheckpointError for weights that cannot be read.
    """
    if weight_format is not None:
        return load_packed(checkpoint, weight_format, progress, beside_bytes=beside_bytes)
    place = resolve_device(device)
    compute = resolve_dtype(dtype, checkpoint.dtype, place)
    what = f"{checkpoint.path} as {str(compute).removeprefix('torch.')}"
    remedy = "free some, use a 16-bit dtype, or a smaller model"
    needed = checkpoint.memory_bytes(compute)
    require_memory(needed, place, what, remedy, beside_bytes=beside_bytes, mapped_bytes=checkpoint.size_bytes)
    with memory_reported(what, place, remedy):
        with torch.device("meta"):
            model = Transformer(checkpoint.config, ops or TorchOps())
        _fill(model, checkpoint, compute, place, progress)
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
                    place_parameter(model, part.name, weight)
            source.release(read.file_name)
            done_bytes += stored_bytes(source.info(read.file_name))
            if progress is not None:
                progress(done_bytes, checkpoint.size_bytes)
    require_filled(model, checkpoint)


def _copy(weight: Tensor, source: TensorSource, read: TensorRead, part: TensorPart) -> None:
    """Fill `weight`, row by row where the rows are stored in their order, so that little else is in memory."""
    if len(part.shape) != 2 or not part.is_in_order:
        weight.copy_(read_part(source, read, part))
        return
    for start, stop in row_chunks(part):
        weight[start:stop].copy_(source.read(read.file_name, part.stored_rows(start, stop)))


def _require_finite(weight: Tensor, source: TensorSource, read: TensorRead) -> None:
    """float16 is the one dtype that finite stored weights can leave."""
    if weight.dtype != torch.float16 or source.info(read.file_name).stored == "F16":
        return
    if not bool(weight.isfinite().all()):
        raise ConfigError(f"{read.file_name} has weights beyond the range of float16; use --dtype bfloat16")
