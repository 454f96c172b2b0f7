"""GGUF's quantised blocks: their sizes, their values, and the simple formats' quantisation.

A row of a quantised matrix is a sequence of blocks; each holds `block_size` weights in `block_bytes` bytes, little
endian. Layouts are those of ggml (ggml-common.h); values equal `gguf.quants` of the gguf package bit for bit.
Below, N is a number of blocks, `d` a block's float16 scale and `m` its float16 minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch

from tramontane.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 18  # weights converted at once: 1 MB temporaries; as fast as larger ones (4096 x 4096, one core)


@dataclass(frozen=True, slots=True)
class BlockType:
    block_size: int  # weights
    block_bytes: int

    def row_bytes(self, num_columns: int) -> int:
        """Bytes of a row of `num_columns` weights, a multiple of `block_size`."""
        return num_columns // self.block_size * self.block_bytes


BLOCK_TYPES = {
    "Q4_0": BlockType(32, 2 + 16),
    "Q4_1": BlockType(32, 2 + 2 + 16),
    "Q5_0": BlockType(32, 2 + 4 + 16),
    "Q5_1": BlockType(32, 2 + 2 + 4 + 16),
    "Q8_0": BlockType(32, 2 + 32),
    "Q2_K": BlockType(256, 16 + 64 + 2 + 2),
    "Q3_K": BlockType(256, 32 + 64 + 12 + 2),
    "Q4_K": BlockType(256, 2 + 2 + 12 + 128),
    "Q5_K": BlockType(256, 2 + 2 + 12 + 32 + 128),
    "Q6_K": BlockType(256, 128 + 64 + 16 + 2),
}


def dequantise(blocks: Tensor, stored: str, shape: tuple[int, ...]) -> Tensor:
    """float32 tensor of `shape` from its packed blocks, uint8 (rows, bytes per row).

    Raises CheckpointError if the type is unknown or the bytes do not make up the shape.
    """
    block_type = _block_type(stored)
    num_weights = prod(shape)
    if blocks.numel() * block_type.block_size != num_weights * block_type.block_bytes:
        raise CheckpointError(f"{blocks.numel()} bytes of {stored} blocks do not make a tensor of shape {shape}")
    blocks_NB = blocks.reshape(-1, block_type.block_bytes)
    values = torch.empty(blocks_NB.shape[0], block_type.block_size)
    step = _CHUNK // block_type.block_size
    for start in range(0, blocks_NB.shape[0], step):
        values[start : start + step] = _DEQUANTISERS[stored](blocks_NB[start : start + step])
    return values.reshape(shape)


def quantise(tensor: Tensor, stored: str) -> Tensor:
    """uint8 (rows, bytes per row): the packed blocks of a float tensor, leading dimensions flattened into rows.

    Raises CheckpointError for a type without a quantiser here, rows that are not whole blocks, or weights that are
    not finite or too large for the format.
    """
    block_type = _block_type(stored)
    if stored not in _QUANTISERS:
        raise CheckpointError(f"cannot write {stored}; use one of {', '.join(_QUANTISERS)}")
    num_columns = tensor.shape[-1]
    if num_columns % block_type.block_size:
        raise CheckpointError(f"rows of {num_columns} weights are not whole {stored} blocks of {block_type.block_size}")
    weights_NB = tensor.reshape(-1, block_type.block_size)
    packed = torch.empty(weights_NB.shape[0], block_type.block_bytes, dtype=torch.uint8)
    step = _CHUNK // block_type.block_size
    for start in range(0, weights_NB.shape[0], step):
        chunk_NB = weights_NB[start : start + step].to(torch.float32)
        if not bool(chunk_NB.isfinite().all()):
            raise CheckpointError(f"a weight is infinite or not a number; it cannot be stored as {stored}")
        packed[start : start + step] = _QUANTISERS[stored](chunk_NB)
    return packed.reshape(-1, block_type.row_bytes(num_columns))


def _block_type(stored: str) -> BlockType:
    if stored not in BLOCK_TYPES:
        raise CheckpointError(f"unknown block type {stored!r}; known are {', '.join(BLOCK_TYPES)}")
    return BLOCK_TYPES[stored]


def _float16(bytes_N2: Tensor) -> Tensor:
    return bytes_N2.contiguous().view(torch.float16).to(torch.float32)


def _nibbles(packed_NB: Tensor) -> Tensor:
    """Low halves of all bytes, then high halves: (N, B) -> (N, 2B)."""
    return torch.cat([packed_NB & 0x0F, packed_NB >> 4], dim=1)


def _shifted(packed: Tensor, shifts: tuple[int, ...], mask: int) -> Tensor:
    """(N, G, B) bytes -> (N, G, len(shifts), B) bit fields."""
    fields = [(packed >> shift) & mask for shift in shifts]
    return torch.stack(fields, dim=2)


def _fifth_bits(bits_N4: Tensor) -> Tensor:
    """32 bits, least significant first: (N, 4) bytes -> (N, 32) of 0 or 16."""
    return torch.stack([(bits_N4 >> bit) & 1 for bit in range(8)], dim=2).reshape(-1, 32) << 4


def _dequantise_q4_0(blocks_NB: Tensor) -> Tensor:
    return _float16(blocks_NB[:, :2]) * (_nibbles(blocks_NB[:, 2:]).to(torch.float32) - 8)


def _dequantise_q4_1(blocks_NB: Tensor) -> Tensor:
    d, m = _float16(blocks_NB[:, :2]), _float16(blocks_NB[:, 2:4])
    return d * _nibbles(blocks_NB[:, 4:]).to(torch.float32) + m


def _dequantise_q5_0(blocks_NB: Tensor) -> Tensor:
    q = _nibbles(blocks_NB[:, 6:]) | _fifth_bits(blocks_NB[:, 2:6])
    return _float16(blocks_NB[:, :2]) * (q.to(torch.float32) - 16)


def _dequantise_q5_1(blocks_NB: Tensor) -> Tensor:
    d, m = _float16(blocks_NB[:, :2]), _float16(blocks_NB[:, 2:4])
    q = _nibbles(blocks_NB[:, 8:]) | _fifth_bits(blocks_NB[:, 4:8])
    return d * q.to(torch.float32) + m


def _dequantise_q8_0(blocks_NB: Tensor) -> Tensor:
    return _float16(blocks_NB[:, :2]) * blocks_NB[:, 2:].view(torch.int8).to(torch.float32)


def _dequantise_q2_k(blocks_NB: Tensor) -> Tensor:
    """16 groups of 16 weights, each with a 4-bit scale and a 4-bit minimum."""
    scales = blocks_NB[:, :16]
    d, m = _float16(blocks_NB[:, 80:82]), _float16(blocks_NB[:, 82:84])
    q = _shifted(blocks_NB[:, 16:80].reshape(-1, 2, 32), (0, 2, 4, 6), 3).reshape(-1, 16, 16)
    dl = (d * (scales & 0x0F).to(torch.float32))[:, :, None]
    ml = (m * (scales >> 4).to(torch.float32))[:, :, None]
    return (dl * q.to(torch.float32) - ml).reshape(-1, 256)


def _dequantise_q3_k(blocks_NB: Tensor) -> Tensor:
    """16 groups of 16 weights of 3 bits (the third kept apart, inverted), each group with a 6-bit scale."""
    third = _shifted(blocks_NB[:, None, :32], tuple(range(8)), 1).reshape(-1, 16, 16)
    low = _shifted(blocks_NB[:, 32:96].reshape(-1, 2, 32), (0, 2, 4, 6), 3).reshape(-1, 16, 16)
    scale_low = _nibbles(blocks_NB[:, 96:104])
    scale_high = _shifted(blocks_NB[:, None, 104:108], (0, 2, 4, 6), 3).reshape(-1, 16)
    scales = (scale_low | (scale_high << 4)).to(torch.float32) - 32
    q = low.to(torch.float32) - ((third ^ 1) << 2).to(torch.float32)
    return ((_float16(blocks_NB[:, 108:110]) * scales)[:, :, None] * q).reshape(-1, 256)


def _scales_and_minima(packed_N12: Tensor) -> tuple[Tensor, Tensor]:
    """Eight 6-bit scales and eight 6-bit minima out of 12 bytes (Q4_K, Q5_K): two (N, 8) of float32."""
    d, m, high = packed_N12[:, 0:4], packed_N12[:, 4:8], packed_N12[:, 8:12]
    scales = torch.cat([d & 0x3F, (high & 0x0F) | ((d >> 2) & 0x30)], dim=1)
    minima = torch.cat([m & 0x3F, (high >> 4) | ((m >> 2) & 0x30)], dim=1)
    return scales.to(torch.float32), minima.to(torch.float32)


def _dequantise_q4_k(blocks_NB: Tensor) -> Tensor:
    q = _shifted(blocks_NB[:, 16:144].reshape(-1, 4, 32), (0, 4), 0x0F)
    return _scaled_k(blocks_NB, q)


def _dequantise_q5_k(blocks_NB: Tensor) -> Tensor:
    low = _shifted(blocks_NB[:, 48:176].reshape(-1, 4, 32), (0, 4), 0x0F).reshape(-1, 8, 32)
    fifth = _shifted(blocks_NB[:, None, 16:48], tuple(range(8)), 1).reshape(-1, 8, 32)
    return _scaled_k(blocks_NB, low | (fifth << 4))


def _scaled_k(blocks_NB: Tensor, q: Tensor) -> Tensor:
    """`d * scale * q - m * minimum` over 8 groups of 32 weights."""
    d, m = _float16(blocks_NB[:, 0:2]), _float16(blocks_NB[:, 2:4])
    scales, minima = _scales_and_minima(blocks_NB[:, 4:16])
    q = q.reshape(-1, 8, 32).to(torch.float32)
    return ((d * scales)[:, :, None] * q - (m * minima)[:, :, None]).reshape(-1, 256)


def _dequantise_q6_k(blocks_NB: Tensor) -> Tensor:
    """16 groups of 16 weights of 6 bits (4 low, 2 high), each with an 8-bit scale."""
    low = _shifted(blocks_NB[:, :128].reshape(-1, 2, 64), (0, 4), 0x0F).reshape(-1, 256)
    high = _shifted(blocks_NB[:, 128:192].reshape(-1, 2, 32), (0, 2, 4, 6), 3).reshape(-1, 256)
    scales = blocks_NB[:, 192:208].contiguous().view(torch.int8).to(torch.float32)
    q = ((low | (high << 4)).to(torch.float32) - 32).reshape(-1, 16, 16)
    return ((_float16(blocks_NB[:, 208:210]) * scales)[:, :, None] * q).reshape(-1, 256)


def _float16_bytes(values_N1: Tensor) -> Tensor:
    halves = values_N1.to(torch.float16)
    if not bool(halves.isfinite().all()):
        raise CheckpointError("a weight is too large for the float16 scale of a quantised block; use F32 or BF16")
    return halves.view(torch.uint8)


def _inverse(d: Tensor) -> Tensor:
    return torch.where(d == 0, 0.0, 1 / d)


def _pack_nibbles(q_NB: Tensor) -> Tensor:
    half = q_NB.shape[1] // 2
    return (q_NB[:, :half] & 0x0F) | (q_NB[:, half:] << 4)


def _pack_fifth_bits(q_N32: Tensor) -> Tensor:
    bits = (q_N32 >> 4).reshape(-1, 4, 8)
    return torch.stack([bits[:, :, bit] << bit for bit in range(8)]).sum(dim=0, dtype=torch.uint8)


def _symmetric(weights_NB: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Scale so that the weight of greatest magnitude becomes -levels: (d, unsigned q)."""
    extreme = weights_NB.gather(1, weights_NB.abs().argmax(dim=1, keepdim=True))
    d = extreme / -levels
    q = (weights_NB * _inverse(d) + (levels + 0.5)).trunc().to(torch.uint8)
    return d, q.clamp(0, 2 * levels - 1)


def _affine(weights_NB: Tensor, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scale the range of the block to 0..levels: (d, m, unsigned q)."""
    low = weights_NB.amin(dim=1, keepdim=True)
    d = (weights_NB.amax(dim=1, keepdim=True) - low) / levels
    q = ((weights_NB - low) * _inverse(d) + 0.5).trunc().to(torch.uint8)
    return d, low, q.clamp(0, levels)


def _quantise_q4_0(weights_NB: Tensor) -> Tensor:
    d, q = _symmetric(weights_NB, 8)
    return torch.cat([_float16_bytes(d), _pack_nibbles(q)], dim=1)


def _quantise_q4_1(weights_NB: Tensor) -> Tensor:
    d, m, q = _affine(weights_NB, 15)
    return torch.cat([_float16_bytes(d), _float16_bytes(m), _pack_nibbles(q)], dim=1)


def _quantise_q5_0(weights_NB: Tensor) -> Tensor:
    d, q = _symmetric(weights_NB, 16)
    return torch.cat([_float16_bytes(d), _pack_fifth_bits(q), _pack_nibbles(q)], dim=1)


def _quantise_q5_1(weights_NB: Tensor) -> Tensor:
    d, m, q = _affine(weights_NB, 31)
    return torch.cat([_float16_bytes(d), _float16_bytes(m), _pack_fifth_bits(q), _pack_nibbles(q)], dim=1)


def _quantise_q8_0(weights_NB: Tensor) -> Tensor:
    d = weights_NB.abs().amax(dim=1, keepdim=True) / 127
    scaled = weights_NB * _inverse(d)
    magnitude = scaled.abs()
    whole = magnitude.floor()
    # halves away from zero, as ggml's roundf; torch.round would send them to even
    q = (scaled.sign() * (whole + (2 * (magnitude - whole)).floor())).to(torch.int8)
    return torch.cat([_float16_bytes(d), q.view(torch.uint8)], dim=1)


_DEQUANTISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _dequantise_q4_0,
    "Q4_1": _dequantise_q4_1,
    "Q5_0": _dequantise_q5_0,
    "Q5_1": _dequantise_q5_1,
    "Q8_0": _dequantise_q8_0,
    "Q2_K": _dequantise_q2_k,
    "Q3_K": _dequantise_q3_k,
    "Q4_K": _dequantise_q4_k,
    "Q5_K": _dequantise_q5_k,
    "Q6_K": _dequantise_q6_k,
}
_QUANTISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _quantise_q4_0,
    "Q4_1": _quantise_q4_1,
    "Q5_0": _quantise_q5_0,
    "Q5_1": _quantise_q5_1,
    "Q8_0": _quantise_q8_0,
}
