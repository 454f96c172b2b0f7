"""TensorSource: the named tensors of one checkpoint, whatever files it consists of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import TYPE_CHECKING, NamedTuple, Self

import torch

from tramontane.errors import CheckpointError
from tramontane.formats.names import shown
from tramontane.formats.quant_blocks import BLOCK_TYPES, dequantise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from torch import Tensor

    from tramontane.formats.mapped_file import MappedFile

FLOAT_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class TensorInfo(NamedTuple):
    """What a header says of a tensor: `shape` in torch order (rows first), `stored` as in "F32", "BF16", "Q4_K"."""

    name: str
    shape: tuple[int, ...]
    stored: str

    @property
    def is_quantised(self) -> bool:
        return self.stored in BLOCK_TYPES


class TensorSource(ABC):
    """Context manager over the tensors of one checkpoint; its headers are proved sane before it exists.

    Tensors come as views of the mapped file where they can, so reading one costs no memory until it is touched.
    They may be written to (in memory only) and stay valid after `close`.
    """

    path: Path

    @abstractmethod
    def names(self) -> list[str]:
        """Every tensor, in the file's own spelling and order."""

    @abstractmethod
    def info(self, name: str) -> TensorInfo:
        """Raises CheckpointError for a name that is not there."""

    @abstractmethod
    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """The tensor in its stored dtype; quantised blocks come dequantised to float32.

        With `rows` = (first, past the last): those rows of the tensor seen as a matrix (leading dimensions
        flattened), and nothing else is read.
        """

    @abstractmethod
    def read_blocks(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """uint8 (rows, bytes per row): the packed blocks as stored. Raises CheckpointError for a float tensor."""

    @abstractmethod
    def release(self, name: str) -> None:
        """Give back the memory that reading `name` took, after it was copied; see `MappedFile.release`."""

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that hold the tensors."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class MappedTensor(NamedTuple):
    """A tensor and its place in the file: row-major elements of `dtype` (uint8 for packed blocks)."""

    info: TensorInfo
    offset: int
    size_bytes: int
    dtype: torch.dtype


class MappedSource(TensorSource):
    """The tensors of one mapped file."""

    def __init__(self, file: MappedFile, tensors: Mapping[str, MappedTensor]) -> None:
        self.path = file.path
        self._file = file
        self._tensors = tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def info(self, name: str) -> TensorInfo:
        return self._find(name).info

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        tensor = self._find(name)
        shape = tensor.info.shape
        if rows is not None:
            shape = (rows[1] - rows[0], shape[-1])
        if tensor.info.is_quantised:
            return dequantise(self.read_blocks(name, rows), tensor.info.stored, shape)
        skipped_bytes = rows[0] * shape[-1] * tensor.dtype.itemsize if rows is not None else 0
        return self._file.tensor(tensor.offset + skipped_bytes, tensor.dtype, shape)

    def read_blocks(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        tensor = self._find(name)
        info = tensor.info
        if not info.is_quantised:
            raise CheckpointError(f"{self.path}: {shown([name])} is stored as {info.stored}, not in packed blocks")
        row_bytes = BLOCK_TYPES[info.stored].row_bytes(info.shape[-1])
        first, stop = rows if rows is not None else (0, prod(info.shape[:-1]))
        return self._file.tensor(tensor.offset + first * row_bytes, torch.uint8, (stop - first, row_bytes))

    def release(self, name: str) -> None:
        tensor = self._find(name)
        self._file.release(tensor.offset, tensor.size_bytes)

    def files(self) -> list[Path]:
        return [self._file.path]

    def close(self) -> None:
        self._file.close()

    def _find(self, name: str) -> MappedTensor:
        if name not in self._tensors:
            raise CheckpointError(f"{self.path} has no tensor {shown([name])}")
        return self._tensors[name]


class ShardedSource(TensorSource):
    """Several files with different tensors each, as one. Raises CheckpointError if two hold the same name."""

    def __init__(self, path: Path, sources: Iterable[TensorSource]) -> None:
        self.path = path
        self._sources: dict[str, TensorSource] = {}
        self._files = list(sources)
        for source in self._files:
            for name in source.names():
                if name in self._sources:
                    raise CheckpointError(
                        f"{shown([name])} is stored in both {self._sources[name].path.name} and {source.path.name}"
                    )
                self._sources[name] = source

    def names(self) -> list[str]:
        return list(self._sources)

    def info(self, name: str) -> TensorInfo:
        return self._find(name).info(name)

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        return self._find(name).read(name, rows)

    def read_blocks(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        return self._find(name).read_blocks(name, rows)

    def release(self, name: str) -> None:
        self._find(name).release(name)

    def files(self) -> list[Path]:
        return [path for source in self._files for path in source.files()]

    def close(self) -> None:
        for source in self._files:
            source.close()

    def file_of(self, name: str) -> str:
        """Name of the file that holds the tensor."""
        return self._find(name).path.name

    def _find(self, name: str) -> TensorSource:
        if name not in self._sources:
            raise CheckpointError(f"{self.path} has no tensor {shown([name])}")
        return self._sources[name]
