"""Random weights in any stored type, as fast as memory: pieces of one pool of random numbers, scaled per tensor.

The number of weights or blocks in a pool is prime and exceeds that of a matrix's rows, so no two rows are alike
although the pool repeats. Matrices have deviation
1 / sqrt(inputs), those that write to the residual stream less with depth, so that activations stay of order one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from tramontane.formats.names import canonical_shapes
from tramontane.formats.quant_blocks import BLOCK_TYPES, dequantise, quantise
from tramontane.formats.tensor_source import FLOAT_DTYPES

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.config import ModelConfig

# the first primes above powers of two; the large ones are for vocabularies of up to 2^18 tokens
_LARGE_POOL, _LARGE_POOL_BLOCKS = 16_777_259, 262_147
_SMALL_POOL, _SMALL_POOL_BLOCKS = 1_048_583, 32_771
_SMALLEST = 2.0**-10  # of the pool's magnitudes: no weight is zero

# where the float16 scales of a block stand; all its weights are proportional to them
_SCALE_PLACES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
# the minimum, in units of the scale, that makes a block's weights symmetric around zero
_K_MINIMA = {"Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}


def random_tensors(config: ModelConfig, types: Mapping[str, str], *, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """(canonical name, tensor) of every tensor of the model, as `types` says it is stored.

    Quantised types come as packed blocks, uint8 (rows, bytes per row). The same seed gives the same weights.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = torch.empty(_LARGE_POOL if config.num_parameters() > 2**28 else _SMALL_POOL).normal_(generator=generator)
    pool = torch.where(pool.abs() < _SMALLEST, pool.sign() * _SMALLEST + (pool == 0) * _SMALLEST, pool)
    pools: dict[str, Tensor] = {}
    for name, shape in canonical_shapes(config).items():
        start = int(torch.randint(0, len(pool), (1,), generator=generator))
        stored = types[name]
        if len(shape) == 1:
            noise = _tiled(pool, start, shape[0])
            yield name, (1 + 0.1 * noise.clamp(-3, 3)).to(FLOAT_DTYPES[stored])
            continue
        if stored not in pools:
            is_packed = stored in BLOCK_TYPES
            pools[stored] = _packed_pool(pool, stored, generator) if is_packed else pool.to(FLOAT_DTYPES[stored])
        deviation = _deviation(name, shape, config)
        if stored in BLOCK_TYPES:
            row_bytes = BLOCK_TYPES[stored].row_bytes(shape[-1])
            blocks = _scaled(pools[stored], stored, deviation)
            num_blocks = math.prod(shape) // BLOCK_TYPES[stored].block_size
            yield name, _tiled(blocks, start % len(blocks), num_blocks).reshape(-1, row_bytes)
        else:
            yield name, _tiled(pools[stored] * deviation, start, math.prod(shape)).reshape(shape)


def _deviation(name: str, shape: tuple[int, ...], config: ModelConfig) -> float:
    inputs = config.dim if name == "tok_embeddings.weight" else shape[-1]
    writes_to_residual = name.endswith((".wo.weight", ".w2.weight"))
    return 1 / math.sqrt(inputs * (2 * config.n_layers if writes_to_residual else 1))


def _tiled(pool: Tensor, start: int, length: int) -> Tensor:
    """`length` rows of `pool` from `start` on, beginning again at its end."""
    out = torch.empty(length, *pool.shape[1:], dtype=pool.dtype)
    filled = 0
    while filled < length:
        step = min(length - filled, len(pool) - start)
        out[filled : filled + step] = pool[start : start + step]
        filled, start = filled + step, 0
    return out


def _packed_pool(pool: Tensor, stored: str, generator: torch.Generator) -> Tensor:
    """uint8 (N, bytes per block): blocks whose weights have deviation one."""
    block_type = BLOCK_TYPES[stored]
    num_blocks = _LARGE_POOL_BLOCKS if len(pool) == _LARGE_POOL else _SMALL_POOL_BLOCKS
    if stored.endswith("_K"):
        blocks = _random_k_blocks(num_blocks, stored, generator)
    else:
        weights = _tiled(pool, 0, num_blocks * block_type.block_size)
        blocks = quantise(weights[None], stored).reshape(num_blocks, block_type.block_bytes)
    sample = blocks[: 1 << 12]
    deviation = float(dequantise(sample, stored, (len(sample), block_type.block_size)).std())
    return _scaled(blocks, stored, 1 / deviation)


def _random_k_blocks(num_blocks: int, stored: str, generator: torch.Generator) -> Tensor:
    """Blocks of a format that has no quantiser here: every bit random, but the scales sensible."""
    block_bytes = BLOCK_TYPES[stored].block_bytes
    blocks = torch.randint(0, 256, (num_blocks, block_bytes), dtype=torch.uint8, generator=generator)
    d = torch.empty(num_blocks).uniform_(0.5, 1.5, generator=generator) / 64
    places = _SCALE_PLACES[stored]
    blocks[:, places[0] : places[0] + 2] = _halves(d)
    if stored in _K_MINIMA:
        blocks[:, places[1] : places[1] + 2] = _halves(d * _K_MINIMA[stored])
        # each group's 6-bit (4-bit in Q2_K) minimum equals its scale, and neither is small
        if stored == "Q2_K":
            scales = torch.randint(8, 16, (num_blocks, 16), dtype=torch.uint8, generator=generator)
            blocks[:, :16] = scales | scales << 4
        else:
            low = torch.randint(32, 64, (num_blocks, 4), dtype=torch.uint8, generator=generator)
            high = torch.randint(32, 64, (num_blocks, 4), dtype=torch.uint8, generator=generator)
            blocks[:, 4:8] = blocks[:, 8:12] = low | (high >> 4) << 6
            blocks[:, 12:16] = (high & 0x0F) | (high & 0x0F) << 4
    return blocks


def _scaled(blocks: Tensor, stored: str, factor: float) -> Tensor:
    """A copy of the blocks with every weight times `factor`."""
    blocks = blocks.clone()
    for place in _SCALE_PLACES[stored]:
        d = blocks[:, place : place + 2].contiguous().view(torch.float16).float()
        blocks[:, place : place + 2] = _halves(d[:, 0] * factor)
    return blocks


def _halves(values_N: Tensor) -> Tensor:
    return values_N.to(torch.float16)[:, None].view(torch.uint8)
