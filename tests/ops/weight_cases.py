"""Random weights of every format beside the float values they stand for, and how far a product may be off."""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES
from torch import Tensor

from tramontane.ops import _cpu
from tramontane.ops.packed_weight import WEIGHT_FORMATS, PackedWeight, WeightFormat

FLOAT_FORMATS: tuple[WeightFormat, ...] = ("f32", "bf16", "f16")
BLOCK_FORMATS: tuple[WeightFormat, ...] = tuple(f for f in WEIGHT_FORMATS if f not in FLOAT_FORMATS)
BLOCK_SIZE = {"f32": 1, "bf16": 1, "f16": 1, "q8_0": 32, "q4_0": 32, "q4_k": 256, "q5_k": 256, "q6_k": 256}
# Where the float16 scales of a block lie, as (first byte, number of scales).
_SCALES = {"q8_0": (0, 1), "q4_0": (0, 1), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208, 1)}


@dataclass(frozen=True)
class WeightCase:
    packed: PackedWeight
    blocks_OB: Tensor  # as in a file
    values_OI: Tensor  # float64, what the blocks stand for

    def bound(self, x_TI: Tensor) -> Tensor:
        """How far a float32 product may be from the exact one, (T, O).

        Every activation is off by at most half a step of its block's 8-bit scale, or of bf16's mantissa where bf16
        weights multiply such; float32 sums add a rounding of at most one unit per term.
        """
        size = {32: 32, 256: 256}.get(BLOCK_SIZE[self.packed.format])
        x64_TI, weight_IO = x_TI.double().abs(), self.values_OI.abs().T
        rounding_TO = x64_TI @ weight_IO * (2.0**-24 * (x_TI.shape[1] + 4))
        if self.packed.format == "bf16" and _cpu.instruction_set() in ("avx512_bf16", "avx512_amx"):
            return rounding_TO + x64_TI @ weight_IO * (2.0**-8 * 1.01)
        if size is None:
            return rounding_TO
        half_steps_TB = x64_TI.view(x_TI.shape[0], -1, size).amax(-1) / 127 / 2
        return half_steps_TB.repeat_interleave(size, dim=1) @ weight_IO * 1.001 + 2 * rounding_TO


def weight_case(format: WeightFormat, out_features: int, in_features: int, *, seed: int = 0) -> WeightCase:
    """Every bit pattern of the quantised values and inner scales occurs; the float16 scales are moderate."""
    rng = np.random.default_rng(seed)
    if format in FLOAT_FORMATS:
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[format]
        weight = torch.from_numpy(rng.standard_normal((out_features, in_features))).to(dtype)
        blocks = weight.view(torch.uint8)
        return WeightCase(PackedWeight.from_blocks(format, blocks, in_features), blocks, weight.double())
    quant_type = gguf.GGMLQuantizationType[format.upper()]
    block_size, block_bytes = GGML_QUANT_SIZES[quant_type]
    raw = rng.integers(0, 256, (out_features, in_features // block_size, block_bytes), dtype=np.uint8)
    first, count = _SCALES[format]
    scales = (rng.random((*raw.shape[:2], count)) * 0.02 + 0.001).astype(np.float16)
    raw[..., first : first + 2 * count] = scales.view(np.uint8)
    blocks_OB = raw.reshape(out_features, -1)
    values = gguf.quants.dequantize(blocks_OB, quant_type)
    blocks = torch.from_numpy(blocks_OB)
    return WeightCase(PackedWeight.from_blocks(format, blocks, in_features), blocks, torch.from_numpy(values).double())


def shapes(format: WeightFormat) -> list[tuple[int, int]]:
    """(out_features, in_features): whole and partial panels, one and several chunks, as the format allows."""
    size = BLOCK_SIZE[format]
    if size == 1:
        return [(1, 1), (5, 37), (33, 131), (50, 300), (150, 131)]
    if size == 32:
        return [(1, 32), (5, 96), (33, 288), (50, 800)]
    return [(1, 256), (33, 512), (50, 1280)]
