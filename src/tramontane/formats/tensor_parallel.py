"""Llama's consolidated.00.pth, .01.pth, ...: every file holds a slice of every matrix.

The slicing is that of Megatron-style model parallelism, as Llama 1, Llama 2 and Code Llama were released.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from tramontane.errors import CheckpointError
from tramontane.formats.names import shown
from tramontane.formats.tensor_source import TensorInfo, TensorSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

_SPLIT_BY_ROWS = re.compile(r"output\.weight|.+\.(wq|wk|wv|w1|w3)\.weight")
_SPLIT_BY_COLUMNS = re.compile(r"tok_embeddings\.weight|.+\.(wo|w2)\.weight")
_REPLICATED = re.compile(r"norm\.weight|.+\.(attention_norm|ffn_norm)\.weight|(.+\.)?rope\.freqs")


class TensorParallelSource(TensorSource):
    """The shards, rank by rank, as whole tensors; reading one copies it together.

    Raises CheckpointError if the shards do not hold the same names, or a name whose slicing is not known.
    """

    def __init__(self, path: Path, shards: Sequence[TensorSource]) -> None:
        self.path = path
        self._shards = shards
        self._dimensions = {name: self._split_dimension(name) for name in shards[0].names()}
        for shard in shards[1:]:
            difference = sorted(set(shard.names()) ^ self._dimensions.keys())
            if difference:
                raise CheckpointError(
                    f"{shards[0].path.name} and {shard.path.name} disagree on {shown(difference)}; "
                    "are they shards of one model?"
                )

    def names(self) -> list[str]:
        return list(self._dimensions)

    def info(self, name: str) -> TensorInfo:
        dimension = self._find(name)
        infos = [shard.info(name) for shard in self._shards]
        first = infos[0]
        if any((len(info.shape), info.stored) != (len(first.shape), first.stored) for info in infos):
            raise CheckpointError(f"{self.path}: shards store {shown([name])} in different ways")
        if dimension is None:
            return first
        if dimension >= len(first.shape):
            raise CheckpointError(f"{self.path}: {shown([name])} has shape {first.shape}, not that of a matrix")
        lengths = list(first.shape)
        lengths[dimension] = sum(info.shape[dimension] for info in infos)
        for info in infos:
            if any(a != b for d, (a, b) in enumerate(zip(info.shape, first.shape, strict=True)) if d != dimension):
                raise CheckpointError(f"{self.path}: shards of {shown([name])} do not fit together")
        return TensorInfo(name, tuple(lengths), first.stored)

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        dimension = self._find(name)
        self.info(name)
        if dimension is None:
            tensor = self._shards[0].read(name)
        else:
            tensor = torch.cat([shard.read(name) for shard in self._shards], dim=dimension)
        return tensor if rows is None else tensor.reshape(-1, tensor.shape[-1])[slice(*rows)]

    def read_blocks(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        return self._shards[0].read_blocks(name, rows)  # .pth files hold no blocks: raises

    def release(self, name: str) -> None:
        for shard in self._shards:
            shard.release(name)

    def files(self) -> list[Path]:
        return [path for shard in self._shards for path in shard.files()]

    def close(self) -> None:
        for shard in self._shards:
            shard.close()

    def _find(self, name: str) -> int | None:
        if name not in self._dimensions:
            raise CheckpointError(f"{self.path} has no tensor {shown([name])}")
        return self._dimensions[name]

    def _split_dimension(self, name: str) -> int | None:
        if _SPLIT_BY_ROWS.fullmatch(name):
            return 0
        if _SPLIT_BY_COLUMNS.fullmatch(name):
            return 1
        if _REPLICATED.fullmatch(name):
            return None
        raise CheckpointError(f"{self.path}: it is not known how {shown([name])} was split over the files")
