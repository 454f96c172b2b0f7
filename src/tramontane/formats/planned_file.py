"""A file whose header and layout are known before the first tensor arrives, so that tensors stream through."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple, Self

import torch

from tramontane.errors import CapacityError, CheckpointError
from tramontane.formats.names import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from torch import Tensor


class Place(NamedTuple):
    """Bytes of a file."""

    offset: int
    size_bytes: int


class PlannedFile:
    """Context manager; `put` the tensors in any order. What is never put stays zero."""

    def __init__(self, path: Path, header: bytes, places: Mapping[str, Place], size_bytes: int) -> None:
        self._places = places
        self._file = path.open("xb")
        try:
            self._file.write(header)
            self._file.truncate(size_bytes)  # padding between and after the tensors is zeros
        except BaseException:
            self._file.close()
            raise

    def put(self, name: str, data: Tensor) -> None:
        """Write the elements of `data`, row-major, to the place planned for `name`. Raises ValueError on a misfit."""
        place = self._places[name]
        raw = data.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        if raw.numel() != place.size_bytes:
            raise ValueError(f"{raw.numel()} bytes given for {name}, {place.size_bytes} planned")
        self._file.seek(place.offset)
        self._file.write(raw.numpy().data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def require_room(folder: Path, size_bytes: int) -> None:
    """Raises CapacityError if the disk of `folder` (where that exists) has no room for `size_bytes`."""
    if folder.is_dir() and size_bytes > (free_bytes := shutil.disk_usage(folder).free):
        raise CapacityError(
            f"{folder} has {free_bytes / 1e9:.1f} GB free, but {size_bytes / 1e9:.1f} GB are to be written"
        )


def every_tensor_once(
    tensors: Iterable[tuple[str, Tensor]], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """Pass `tensors` on, in whatever order they come.

    Raises CheckpointError for a name that is not in `shapes` or comes twice, a wrong shape, and, at the end, for
    names that did not come.
    """
    missing = dict.fromkeys(shapes)
    for name, tensor in tensors:
        if name not in shapes:
            raise CheckpointError(f"tensor {shown([name])} does not belong to this model")
        if name not in missing:
            raise CheckpointError(f"tensor {shown([name])} was given twice")
        if tuple(tensor.shape) != shapes[name]:
            raise CheckpointError(
                f"tensor {shown([name])} has shape {tuple(tensor.shape)}, "
                f"but the configuration calls for {shapes[name]}"
            )
        del missing[name]
        yield name, tensor
    if missing:
        raise CheckpointError(f"{len(missing)} tensors were not given: {shown(list(missing))}")


def cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` as `dtype`. Raises CheckpointError if a finite weight would become infinite."""
    converted = tensor.to(dtype)
    if dtype == torch.float16 and tensor.dtype != dtype and bool((converted.isinf() & tensor.isfinite()).any()):
        raise CheckpointError(f"tensor {shown([name])} has weights beyond the range of float16; write bfloat16 instead")
    return converted
