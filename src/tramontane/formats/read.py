"""A checkpoint's tensors under canonical names, proved complete and of the right shapes before the first is read."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch

from tramontane.errors import CheckpointError
from tramontane.formats.names import TensorRead, detect_layout, plan, shown
from tramontane.formats.tensor_source import FLOAT_DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from tramontane.config.model_config import ModelConfig
    from tramontane.formats.names import TensorPart
    from tramontane.formats.tensor_source import TensorSource

_CHUNK_WEIGHTS = 1 << 24  # read at once: 64 MiB where quantised blocks become float32
_COMPARED_WEIGHTS = 1 << 22  # at once, when a tied copy is compared with its original


def plan_reads(source: TensorSource, config: ModelConfig) -> list[TensorRead]:
    """What to read from `source` for every canonical tensor of `config` exactly once, in order of computation.

    Raises CheckpointError naming what is missing, left over, of a wrong shape, or not stored as weights.
    """
    reads = _plan_named(source, config)
    for read in reads:
        info = source.info(read.file_name)
        if info.shape != read.shape:
            raise CheckpointError(
                f"{source.path}: {shown([read.file_name])} has shape {info.shape}, "
                f"but the configuration calls for {read.shape}"
            )
        if info.stored not in FLOAT_DTYPES and not info.is_quantised:
            raise CheckpointError(
                f"{source.path}: {shown([read.file_name])} is stored as {info.stored}; "
                f"weights must be {', '.join(FLOAT_DTYPES)} or GGUF blocks"
            )
        if info.is_quantised and any(part.transposed for part in read.parts):
            raise CheckpointError(f"{source.path}: {shown([read.file_name])} cannot be both quantised and transposed")
    return reads


def read_part(source: TensorSource, read: TensorRead, part: TensorPart) -> Tensor:
    """One canonical tensor in its stored dtype (float32 if it was quantised); a view of the file where it can be."""
    return part.arrange(source.read(read.file_name, part.rows)).reshape(part.shape)


def read_part_blocks(source: TensorSource, read: TensorRead, part: TensorPart) -> Tensor:
    """uint8 (rows, bytes per row): the packed blocks of one canonical tensor that is stored quantised."""
    return part.arrange(source.read_blocks(read.file_name, part.rows))


def row_chunks(part: TensorPart, multiple_of: int = 1) -> Iterator[tuple[int, int]]:
    """The canonical rows of a matrix in runs (first, past the last) that are worth reading at once."""
    num_rows, num_columns = part.shape
    step = max(1, _CHUNK_WEIGHTS // num_columns // multiple_of) * multiple_of
    for start in range(0, num_rows, step):
        yield start, min(start + step, num_rows)


def require_equal(source: TensorSource, file_name: str, canonical: str, config: ModelConfig) -> None:
    """Raises CheckpointError unless the stored tensor `file_name` has the values of the canonical one it is tied to."""
    reads = _plan_named(source, config)
    original = next(read.file_name for read in reads if read.parts[0].name == canonical)
    *leading, num_columns = source.info(original).shape
    step = max(1, _COMPARED_WEIGHTS // num_columns)
    for first in range(0, prod(leading), step):
        rows = first, min(first + step, prod(leading))
        if not torch.equal(source.read(file_name, rows), source.read(original, rows)):
            raise CheckpointError(
                f"{source.path}: {shown([file_name])} and {shown([original])} differ, "
                "but the configuration ties them; set tied embeddings to false in it"
            )


def _plan_named(source: TensorSource, config: ModelConfig) -> list[TensorRead]:
    names = source.names()
    try:
        return plan(detect_layout(names), names, config)
    except CheckpointError as error:
        raise CheckpointError(f"{source.path}: {error}") from None
