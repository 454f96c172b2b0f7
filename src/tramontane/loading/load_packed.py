"""load_packed: weights stream from the files into the packed form of the native CPU kernels.

Blocks that are stored in the format wanted are moved, never changed; anything else is quantised as it comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from tramontane.errors import ConfigError
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.read import plan_reads, read_part, read_part_blocks, require_equal, row_chunks
from tramontane.loading.checkpoint import stored_bytes
from tramontane.loading.fill import place_parameter, require_filled
from tramontane.loading.memory import memory_reported, require_memory
from tramontane.loading.weight_formats import packed_formats, packed_size, shown_formats
from tramontane.model.transformer import Transformer

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.formats.names import TensorPart, TensorRead
    from tramontane.formats.tensor_source import TensorSource
    from tramontane.loading.checkpoint import Checkpoint
    from tramontane.loading.progress import Progress
    from tramontane.ops.packed_weight import PackedWeight, WeightFormat

_CPU = torch.device("cpu")


def load_packed(checkpoint: Checkpoint, weight_format: str, progress: Progress | None = None) -> Transformer:
    """`load_model` with `weight_format`: every weight packed, norms in float32."""
    from tramontane.model.packed import finish, packable, set_packed
    from tramontane.ops.cpu import CpuOps

    config = checkpoint.config
    with open_tensors(checkpoint.weights) as source:
        formats = packed_formats(source, config, weight_format)
        what = f"{checkpoint.path} as {shown_formats(config, formats)}"
        remedy = "free some, use a smaller weight format such as q4_0, or a smaller model"
        mapped_bytes = checkpoint.size_bytes
        require_memory(packed_size(config, formats), _CPU, what, remedy, mapped_bytes=mapped_bytes)
        with memory_reported(what, _CPU, remedy):
            with torch.device("meta"):
                model = Transformer(config, CpuOps()).requires_grad_(False)
            modules = dict(packable(model))
            done_bytes = 0
            for read in plan_reads(source, config):
                for part in read.parts:
                    if part.must_equal is not None:
                        require_equal(source, read.file_name, part.must_equal, config)
                    elif part.name in modules:
                        set_packed(modules[part.name], _pack(source, read, part, formats[part.name]))
                    else:
                        norm_D = read_part(source, read, part).to(torch.float32, copy=True)
                        place_parameter(model, part.name, norm_D)
                source.release(read.file_name)
                done_bytes += stored_bytes(source.info(read.file_name))
                if progress is not None:
                    progress(done_bytes, checkpoint.size_bytes)
            require_filled(model, checkpoint)
            finish(model)
    return model


def _pack(source: TensorSource, read: TensorRead, part: TensorPart, weight_format: WeightFormat) -> PackedWeight:
    from tramontane.ops.packed_weight import PackedWeight

    num_rows, num_columns = part.shape
    is_kept = source.info(read.file_name).stored.lower() == weight_format
    rows = _stored_blocks(source, read, part) if is_kept else _quantised_rows(source, read, part, weight_format)
    return PackedWeight.from_chunks(weight_format, num_rows, num_columns, rows)


def _stored_blocks(source: TensorSource, read: TensorRead, part: TensorPart) -> Iterator[Tensor]:
    """uint8 (rows, bytes per row), as they are stored."""
    if not source.info(read.file_name).is_quantised:
        for chunk_OI in _float_chunks(source, read, part):
            yield chunk_OI.contiguous().view(torch.uint8)
    else:
        yield read_part_blocks(source, read, part)  # a view of the file where rows are in order


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
