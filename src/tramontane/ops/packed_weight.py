"""PackedWeight: a weight in the form the native kernels multiply with, whatever format it is stored in.

Rows are interleaved in panels of 16 (csrc/weight_formats.h). Packing moves bytes and never changes a value, so that a
quantised weight takes exactly the memory of its blocks in a GGUF file; the storage may be a memory-mapped file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

from tramontane.errors import ConfigError
from tramontane.ops import _cpu
from tramontane.ops.huge_pages import Arena

WeightFormat = Literal["f32", "bf16", "f16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
QUANTISERS: tuple[WeightFormat, ...] = ("q8_0", "q4_0", "q4_k")
PANEL_ROWS = 16  # rows that lie interleaved (csrc/weight_formats.h)
_arena = Arena()
_FLOAT_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class PackedWeight:
    """An (out_features, in_features) weight; `storage` is uint8, `packed_bytes(...)` long, and never written to."""

    __slots__ = ("format", "in_features", "native", "out_features", "storage")

    def __init__(self, format: WeightFormat, out_features: int, in_features: int, storage: Tensor) -> None:
        """Raises ConfigError if the format cannot hold the shape, ValueError if `storage` is not its packed form."""
        size = packed_bytes(format, out_features, in_features)
        if storage.dtype != torch.uint8 or storage.device.type != "cpu" or tuple(storage.shape) != (size,):
            raise ValueError(f"a packed {format} weight needs {size} bytes, got {storage.dtype} {tuple(storage.shape)}")
        self.format: WeightFormat = format
        self.out_features = out_features
        self.in_features = in_features
        self.storage = storage.contiguous()
        self.native = _cpu.PackedMatrix(format, self.storage.data_ptr(), out_features, in_features, self.storage)

    @classmethod
    def from_blocks(cls, format: WeightFormat, blocks_OB: Tensor, in_features: int) -> PackedWeight:
        """Pack rows as they lie in a file: uint8 (out_features, bytes per row), GGUF blocks or little-endian floats."""
        return cls.from_chunks(format, blocks_OB.shape[0], in_features, [blocks_OB])

    @classmethod
    def from_chunks(
        cls, format: WeightFormat, out_features: int, in_features: int, chunks: Iterable[Tensor]
    ) -> PackedWeight:
        """As `from_blocks`, of rows that come in several chunks, in order, so that few of them are in memory at once;
        each but the last holds a multiple of PANEL_ROWS. Raises ValueError for chunks that do not make up the weight.
        """
        storage = _arena.take(packed_bytes(format, out_features, in_features))
        row_bytes = _cpu.row_bytes(format, in_features)
        num_rows = num_packed = 0
        for chunk_OB in chunks:
            if chunk_OB.dtype != torch.uint8 or tuple(chunk_OB.shape[1:]) != (row_bytes,):
                raise ValueError(
                    f"{format} rows of {in_features} weights take {row_bytes} bytes, got {tuple(chunk_OB.shape)}"
                )
            if num_rows % PANEL_ROWS or num_rows + len(chunk_OB) > out_features:
                raise ValueError(f"{num_rows} rows and then {len(chunk_OB)} cannot be packed into {out_features}")
            chunk_OB = chunk_OB.contiguous()
            panels = storage.data_ptr() + num_packed
            _cpu.pack(format, chunk_OB.data_ptr(), len(chunk_OB), in_features, panels)
            num_rows += len(chunk_OB)
            num_packed += packed_bytes(format, len(chunk_OB), in_features)
        if num_rows != out_features:
            raise ValueError(f"{num_rows} rows were given for a weight of {out_features}")
        return cls(format, out_features, in_features, storage)

    @classmethod
    def from_tensor(cls, weight_OI: Tensor, format: WeightFormat) -> PackedWeight:
        """Pack a float weight, quantising it for q8_0, q4_0 and q4_k.

        Raises ConfigError if the format has no quantiser or cannot hold the shape.
        """
        out_features, in_features = weight_OI.shape
        packed_bytes(format, out_features, in_features)
        return cls.from_blocks(format, to_rows(weight_OI, format), in_features)

    def multiply(self, x_TI: Tensor) -> Tensor:
        """`linear(x, self)`, for whoever holds a packed weight without importing the native kernels."""
        return linear(x_TI, self)

    def rows(self, indices_T: Tensor) -> Tensor:
        """The rows `indices_T` (int64) as float32 (T, in_features): an embedding's lookup.

        Raises IndexError if one is out of range.
        """
        indices_T = indices_T.to("cpu", torch.int64).contiguous()
        out_TI = torch.empty(indices_T.numel(), self.in_features)
        self.native.read_rows(indices_T.data_ptr(), indices_T.numel(), out_TI.data_ptr())
        return out_TI

    def dequantise(self) -> Tensor:
        """The whole weight, float32 (out_features, in_features)."""
        return self.rows(torch.arange(self.out_features))

    def __repr__(self) -> str:
        return f"PackedWeight({self.format}, {self.out_features} x {self.in_features})"


def packed_bytes(format: WeightFormat, out_features: int, in_features: int) -> int:
    """Size of a packed weight. Raises ConfigError if the format is unknown or cannot hold the shape."""
    try:
        return _cpu.packed_bytes(format, out_features, in_features)
    except ValueError as error:
        raise ConfigError(f"{error}; formats are {', '.join(WEIGHT_FORMATS)}") from None


def to_rows(weight_OI: Tensor, format: WeightFormat) -> Tensor:
    """The rows of a float weight as they would lie in a file of that format, uint8 (rows, bytes per row).

    Raises ConfigError if a finite weight lies beyond float16, or as `quantise`.
    """
    if format not in _FLOAT_DTYPES:
        return quantise(weight_OI, format)
    rows_OI = weight_OI.to(_FLOAT_DTYPES[format])
    if format == "f16" and weight_OI.dtype != torch.float16 and not bool(rows_OI.isfinite().all()):
        raise ConfigError("a weight lies beyond the range of f16; hold the weights in bf16")
    return rows_OI.contiguous().view(torch.uint8).view(len(rows_OI), -1)


def quantise(weight_OI: Tensor, format: WeightFormat) -> Tensor:
    """GGUF blocks of a float weight, uint8 (rows, bytes per row).

    q8_0 and q4_0 equal `gguf.quants.quantize` bit for bit; q4_k searches its scales. Raises ConfigError if the format
    has no quantiser, its blocks do not divide the rows, or a weight is not finite.
    """
    if format not in QUANTISERS:
        raise ConfigError(f"weights cannot be quantised to {format}; use one of {', '.join(QUANTISERS)}")
    in_features = weight_OI.shape[-1]
    packed_bytes(format, 1, in_features)
    weight_OI = weight_OI.to(torch.float32).reshape(-1, in_features).contiguous()
    if not bool(weight_OI.isfinite().all()):
        raise ConfigError(f"a weight is infinite or not a number; it cannot be quantised to {format}")
    blocks_OB = torch.empty(weight_OI.shape[0], _cpu.row_bytes(format, in_features), dtype=torch.uint8)
    _cpu.quantize(format, weight_OI.data_ptr(), weight_OI.numel(), blocks_OB.data_ptr())
    return blocks_OB


@cache
def layout_digest(format: WeightFormat) -> str:
    """Changes whenever the packed form of the same weights would: the digest of fixed weights, packed and quantised."""
    num_rows, num_columns = 3 * PANEL_ROWS + 1, 1024
    generator = torch.Generator().manual_seed(0)
    shape = num_rows, _cpu.row_bytes(format, num_columns)
    rows_OB = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    digest = hashlib.sha256(PackedWeight.from_blocks(format, rows_OB, num_columns).storage.numpy().data)
    with suppress(ConfigError):  # formats without a quantiser
        digest.update(quantise(torch.randn(num_rows, num_columns, generator=generator), format).numpy().data)
    return digest.hexdigest()


def dequantise(blocks_OB: Tensor, format: WeightFormat, in_features: int) -> Tensor:
    """float32 (rows, in_features) of GGUF blocks, bit for bit what `gguf.quants.dequantize` gives."""
    row_bytes = _cpu.row_bytes(format, in_features)
    if blocks_OB.dtype != torch.uint8 or tuple(blocks_OB.shape[1:]) != (row_bytes,):
        raise ValueError(f"{format} rows of {in_features} weights take {row_bytes} bytes, got {blocks_OB.shape}")
    blocks_OB = blocks_OB.contiguous()
    out_OI = torch.empty(blocks_OB.shape[0], in_features)
    if out_OI.numel():
        _cpu.dequantize(format, blocks_OB.data_ptr(), out_OI.numel(), out_OI.data_ptr())
    return out_OI


def linear(x_TI: Tensor, weight: PackedWeight) -> Tensor:
    """x times the transposed weight, (T, out_features) in the dtype of x; computed in float32.

    The same bits for a row of x whatever other rows it comes with and whatever the number of threads.
    """
    return linears(x_TI, [weight])[0]


def linears(x_TI: Tensor, weights: Sequence[PackedWeight]) -> list[Tensor]:
    """`linear` of several weights that share x, in one native call. Raises ValueError if x does not fit them."""
    in_features = weights[0].in_features
    if x_TI.dim() != 2 or x_TI.shape[1] != in_features or x_TI.device.type != "cpu":
        raise ValueError(f"weights of {in_features} inputs cannot multiply {tuple(x_TI.shape)} on {x_TI.device}")
    num_rows = x_TI.shape[0]
    x32_TI = x_TI.detach().to(torch.float32).contiguous()
    outs = [torch.empty(num_rows, weight.out_features) for weight in weights]
    _cpu.linears(x32_TI.data_ptr(), num_rows, [w.native for w in weights], [out.data_ptr() for out in outs])
    return outs if x_TI.dtype == torch.float32 else [out.to(x_TI.dtype) for out in outs]
