"""load_packed: weights in the packed form of the native CPU kernels, from the cache or from the checkpoint.

From the checkpoint they stream tensor by tensor: blocks that are stored in the format wanted are moved, never changed;
anything else is quantised as it comes. Large models are packed straight into the cache and then mapped from there, so
that the first start leaves in memory what the next one will.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING

import torch

from tramontane.errors import CapacityError, CheckpointError, ConfigError
from tramontane.formats.names import canonical_shapes
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.read import plan_reads, read_part, read_part_blocks, require_equal, row_chunks
from tramontane.loading.checkpoint import stored_bytes
from tramontane.loading.fill import place_parameter, require_filled
from tramontane.loading.memory import memory_reported, require_memory
from tramontane.loading.packed_cache import PackedCache
from tramontane.loading.weight_formats import packed_formats, packed_size, shown_formats
from tramontane.model.transformer import Transformer
from tramontane.runtime import home, packed_cache_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.config import ModelConfig
    from tramontane.formats.names import TensorPart, TensorRead
    from tramontane.formats.tensor_source import TensorSource
    from tramontane.loading.checkpoint import Checkpoint
    from tramontane.loading.progress import Progress
    from tramontane.ops.packed_weight import WeightFormat

CACHED_FROM_BYTES = 256 * 2**20  # smaller models are packed within a second
_CPU = torch.device("cpu")

Formats = Mapping[str, "WeightFormat"]


def load_packed(
    checkpoint: Checkpoint, weight_format: str, progress: Progress | None = None, *, beside_bytes: int = 0
) -> Transformer:
    """`load_model` with `weight_format`: every weight packed, norms in float32."""
    from tramontane.ops.cpu import CpuOps

    config = checkpoint.config
    with open_tensors(checkpoint.weights) as source:
        formats = packed_formats(source, config, weight_format)
        what = f"{checkpoint.path} as {shown_formats(config, formats)}"
        remedy = "free some, use a smaller weight format such as q4_0, or a smaller model"
        size_bytes = packed_size(config, formats)
        require_memory(size_bytes, _CPU, what, remedy, beside_bytes=beside_bytes, mapped_bytes=checkpoint.size_bytes)
        with memory_reported(what, _CPU, remedy):
            with torch.device("meta"):
                model = Transformer(config, CpuOps()).requires_grad_(False)
            tensors = None
            if CACHED_FROM_BYTES <= size_bytes <= (limit_bytes := packed_cache_bytes()):
                cache = PackedCache(home() / "packed", limit_bytes)
                tensors = _cached(cache, source, checkpoint, formats, progress)
            if tensors is None:
                tensors = dict(_packed_tensors(source, checkpoint, formats, progress))
            _fill(model, checkpoint, formats, tensors)
    return model


def _cached(
    cache: PackedCache, source: TensorSource, checkpoint: Checkpoint, formats: Formats, progress: Progress | None
) -> dict[str, Tensor] | None:
    """Every tensor as bytes of a mapped file, written first where it is not there; None where that cannot be."""
    sizes = _sizes(checkpoint.config, formats)
    key = cache.key(source, checkpoint.config, formats)
    with cache.locked(key):
        tensors = cache.find(key, sizes)
        if tensors is None:
            # a fault of the checkpoint itself comes up again, and is reported, when it is packed without the cache
            with suppress(CapacityError, CheckpointError):
                cache.store(key, sizes, _packed_tensors(source, checkpoint, formats, progress))
                tensors = cache.find(key, sizes)
        elif progress is not None:
            progress(checkpoint.size_bytes, checkpoint.size_bytes)
    return tensors


def _sizes(config: ModelConfig, formats: Formats) -> dict[str, int]:
    """Bytes of every tensor in memory."""
    from tramontane.ops.packed_weight import packed_bytes

    shapes = canonical_shapes(config)
    return {
        name: packed_bytes(formats[name], *shape) if name in formats else 4 * prod(shape)
        for name, shape in shapes.items()
    }


def _fill(model: Transformer, checkpoint: Checkpoint, formats: Formats, tensors: Mapping[str, Tensor]) -> None:
    from tramontane.model.packed import finish, packable, set_packed
    from tramontane.ops.packed_weight import PackedWeight

    for name, module in packable(model):
        set_packed(module, PackedWeight(formats[name], *module.shape, tensors[name]))
    for name, norm in list(model.named_parameters()):
        place_parameter(model, name, tensors[name].view(torch.float32).reshape(norm.shape))
    require_filled(model, checkpoint)
    finish(model)


def _packed_tensors(
    source: TensorSource, checkpoint: Checkpoint, formats: Formats, progress: Progress | None
) -> Iterator[tuple[str, Tensor]]:
    """(canonical name, bytes in memory) of every tensor."""
    done_bytes = 0
    for read in plan_reads(source, checkpoint.config):
        for part in read.parts:
            if part.must_equal is not None:
                require_equal(source, read.file_name, part.must_equal, checkpoint.config)
            elif part.name in formats:
                yield part.name, _pack(source, read, part, formats[part.name])
            else:
                norm_D = read_part(source, read, part).to(torch.float32, copy=True)
                yield part.name, norm_D.view(torch.uint8)
        source.release(read.file_name)
        done_bytes += stored_bytes(source.info(read.file_name))
        if progress is not None:
            progress(done_bytes, checkpoint.size_bytes)


def _pack(source: TensorSource, read: TensorRead, part: TensorPart, weight_format: WeightFormat) -> Tensor:
    from tramontane.ops.packed_weight import PackedWeight

    num_rows, num_columns = part.shape
    is_kept = source.info(read.file_name).stored.lower() == weight_format
    rows = _stored_rows(source, read, part) if is_kept else _quantised_rows(source, read, part, weight_format)
    return PackedWeight.from_chunks(weight_format, num_rows, num_columns, rows).storage


def _stored_rows(source: TensorSource, read: TensorRead, part: TensorPart) -> Iterator[Tensor]:
    """uint8 (rows, bytes per row), as they are stored."""
    if source.info(read.file_name).is_quantised:
        yield read_part_blocks(source, read, part)  # a view of the file where the rows are in order
    else:
        for chunk_OI in _float_chunks(source, read, part):
            yield chunk_OI.contiguous().view(torch.uint8)


def _quantised_rows(
    source: TensorSource, read: TensorRead, part: TensorPart, weight_format: WeightFormat
) -> Iterator[Tensor]:
    from tramontane.ops.packed_weight import to_rows

    for chunk_OI in _float_chunks(source, read, part):
        try:
            yield to_rows(chunk_OI, weight_format)
        except ConfigError as error:
            raise ConfigError(f"{read.file_name}: {error}") from None


def _float_chunks(source: TensorSource, read: TensorRead, part: TensorPart) -> Iterator[Tensor]:
    """Some canonical rows at a time, whole panels of them."""
    from tramontane.ops.packed_weight import PANEL_ROWS

    whole_OI = None if part.is_in_order else read_part(source, read, part)
    for start, stop in row_chunks(part, multiple_of=PANEL_ROWS):
        yield source.read(read.file_name, part.stored_rows(start, stop)) if whole_OI is None else whole_OI[start:stop]
