from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from tests.ops.weight_cases import BLOCK_FORMATS, shapes, weight_case
from tramontane.errors import ConfigError
from tramontane.ops import _cpu
from tramontane.ops.packed_weight import (
    WEIGHT_FORMATS,
    PackedWeight,
    WeightFormat,
    dequantise,
    packed_bytes,
    quantise,
)


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_packing_loses_nothing(format: WeightFormat) -> None:
    for out_features, in_features in shapes(format):
        case = weight_case(format, out_features, in_features)
        assert torch.equal(case.packed.dequantise(), case.values_OI.float())
        rows = torch.tensor([out_features - 1, 0, out_features - 1])
        assert torch.equal(case.packed.rows(rows), case.values_OI.float()[rows])


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_packed_size_is_that_of_the_blocks_in_whole_panels(format: WeightFormat) -> None:
    case = weight_case(format, 48, 512)
    assert case.packed.storage.numel() == case.blocks_OB.numel()
    assert weight_case(format, 49, 512).packed.storage.numel() == case.blocks_OB.numel() // 48 * 64


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_dequantisation_is_that_of_gguf_bit_for_bit(format: WeightFormat) -> None:
    """Random bytes everywhere, float16 scales included: subnormal, huge and negative ones (NaN compares as NaN)."""
    quant_type = gguf.GGMLQuantizationType[format.upper()]
    in_features = 512
    row_bytes = _cpu.row_bytes(format, in_features)
    raw = np.random.default_rng(0).integers(0, 256, (600, row_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, quant_type)
    out = dequantise(torch.from_numpy(raw), format, in_features).numpy()
    np.testing.assert_array_equal(out, expected)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.signbit(out[finite]), np.signbit(expected[finite]))


def _weights_of_every_size() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 512, generator=generator)
    weight *= torch.logspace(-9, 4, 64)[:, None]
    weight[3] = 0.0
    weight[4, ::2] = 0.0
    weight[5] = 2.5  # ties
    weight[6] = torch.arange(512) - 255.5
    weight[7] = 1e-42  # subnormal
    weight[8] = -weight[6]
    return weight


@pytest.mark.parametrize("format", ["q8_0", "q4_0"])
def test_quantisation_is_that_of_gguf_bit_for_bit(format: WeightFormat) -> None:
    weight = _weights_of_every_size()
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType[format.upper()])
    usable = torch.arange(64) != 7  # 1 / 1e-44 overflows: gguf casts infinity to an integer there
    out = quantise(weight, format)
    np.testing.assert_array_equal(out[usable].numpy(), expected[usable.numpy()])
    assert float(dequantise(out[7:8], format, 512).abs().max()) == 0.0


def test_q4_k_has_the_same_bytes_on_every_processor() -> None:
    weight = _weights_of_every_size()
    before, blocks = _cpu.instruction_set(), []
    try:
        for name in _cpu.instruction_sets():
            _cpu.set_instruction_set(name)
            blocks.append(quantise(weight, "q4_k"))
    finally:
        _cpu.set_instruction_set(before)
    assert all(torch.equal(block, blocks[0]) for block in blocks)


def test_q4_k_finds_the_steps_of_values_that_have_some() -> None:
    """Whole numbers of a step and a shared minimum come back exactly, up to the float16 of the steps."""
    levels = torch.arange(16.0).repeat(64, 16)[:, torch.randperm(256, generator=torch.Generator().manual_seed(2))]
    weight = levels * 0.0625 - 0.25
    assert float((dequantise(quantise(weight, "q4_k"), "q4_k", 256) - weight).abs().max()) <= 2**-10
    for value in (0.0, 2.5, -2.5, 1e-3):
        constant = torch.full((1, 256), value)
        assert float((dequantise(quantise(constant, "q4_k"), "q4_k", 256) - constant).abs().max()) <= abs(value) * 3e-3


def test_q4_k_searches_better_steps_than_those_of_the_range() -> None:
    """Against the plain choice (range over 15, minimum as it is, without rounding of the steps), per distribution."""
    generator = torch.Generator().manual_seed(3)
    gauss = torch.randn(64, 1024, generator=generator)
    for weight in (gauss, gauss.pow(3), gauss * torch.rand(1024, generator=generator)):
        low_high = torch.aminmax(weight.view(-1, 32), dim=1, keepdim=True)
        step = (low_high.max - low_high.min.clamp(max=0.0)) / 15
        plain = ((weight.view(-1, 32) - low_high.min.clamp(max=0.0)) / step).round() * step + low_high.min.clamp(
            max=0.0
        )
        plain_error = (plain.view_as(weight) - weight).square().mean()
        error = (dequantise(quantise(weight, "q4_k"), "q4_k", 1024) - weight).square().mean()
        assert float(error / plain_error) < 0.93


def test_a_float_weight_is_packed_in_any_format() -> None:
    weight = torch.randn(20, 256, generator=torch.Generator().manual_seed(1))
    assert torch.equal(PackedWeight.from_tensor(weight, "f32").dequantise(), weight)
    assert torch.equal(PackedWeight.from_tensor(weight, "bf16").dequantise(), weight.bfloat16().float())
    packed = PackedWeight.from_tensor(weight.bfloat16(), "q8_0").dequantise()
    assert torch.equal(packed, dequantise(quantise(weight.bfloat16(), "q8_0"), "q8_0", 256))


def test_what_cannot_be_packed_is_named() -> None:
    with pytest.raises(ConfigError, match="q4_k weights need a multiple of 256 inputs, not 384"):
        packed_bytes("q4_k", 8, 384)
    with pytest.raises(ConfigError, match="q9_9 is unknown; formats are f32"):
        packed_bytes("q9_9", 8, 384)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot be packed"):
        packed_bytes("f32", 1 << 31, 1 << 31)
    with pytest.raises(ConfigError, match="cannot be packed"):
        packed_bytes("f32", -1, 4)
    with pytest.raises(ConfigError, match="cannot be quantised to q6_k; use one of q8_0"):
        quantise(torch.zeros(1, 256), "q6_k")
    with pytest.raises(ConfigError, match="infinite or not a number"):
        quantise(torch.full((1, 32), float("nan")), "q8_0")
    with pytest.raises(ValueError, match="needs 544 bytes"):
        PackedWeight("q8_0", 16, 32, torch.zeros(543, dtype=torch.uint8))
    with pytest.raises(ValueError, match="take 34 bytes"):
        PackedWeight.from_blocks("q8_0", torch.zeros(16, 33, dtype=torch.uint8), 32)
    with pytest.raises(IndexError, match="row 16 of 16"):
        PackedWeight.from_tensor(torch.zeros(16, 32), "q8_0").rows(torch.tensor([16]))
