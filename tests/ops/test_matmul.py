"""Products with packed weights: every format, every instruction set, against exact sums; and the same bits in any
company."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tests.ops.weight_cases import WeightCase, shapes, weight_case
from tramontane.ops import _cpu
from tramontane.ops.packed_weight import WEIGHT_FORMATS, PackedWeight, WeightFormat, linear, linears

ROWS = (1, 2, 3, 5, 8, 33)


def _x(num_rows: int, in_features: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, in_features, generator=torch.Generator().manual_seed(seed))


def _assert_close(case: WeightCase, x_TI: Tensor) -> None:
    exact_TO = x_TI.double() @ case.values_OI.T
    error_TO = (linear(x_TI, case.packed).double() - exact_TO).abs()
    assert bool((error_TO <= case.bound(x_TI) + 1e-37).all()), float((error_TO / case.bound(x_TI)).max())


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_products_are_exact_within_the_bound(format: WeightFormat, instruction_set: str) -> None:
    for out_features, in_features in shapes(format):
        case = weight_case(format, out_features, in_features)
        for num_rows in (1, 3, 5, 33):
            _assert_close(case, _x(num_rows, in_features))


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_extreme_activations(format: WeightFormat, instruction_set: str) -> None:
    case = weight_case(format, 20, 512)
    x = _x(6, 512)
    x[0] = 0.0
    x[1] *= 1e30
    x[2] *= 1e-20
    x[3, 1:] = 0.0
    x[4, ::7] *= 1e4  # one value rules its block
    x[5] = torch.tensor([127.0, -127.0]).repeat(256)  # the largest integer sums
    _assert_close(case, x)
    assert bool((linear(x, case.packed)[0] == 0.0).all())
    assert bool((linear(torch.full((1, 512), 1e-42), case.packed).abs() < 1e-30).all())


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_shows_in_its_row_and_nowhere_else(
    format: WeightFormat, bad: float, instruction_set: str
) -> None:
    case = weight_case(format, 20, 512)
    for num_rows in (3, 12, 37):
        x = _x(num_rows, 512)
        clean = linear(x, case.packed)
        x[1, 300] = bad
        out = linear(x, case.packed)
        assert not bool(out[1].isfinite().any())
        others = torch.arange(num_rows) != 1
        assert torch.equal(out[others], clean[others])


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_largest_integer_sums_do_not_wrap(format: WeightFormat, instruction_set: str) -> None:
    """All bits of weights and scales set, then all cleared, against activations of one sign: sums reach their limit."""
    for byte in (0xFF, 0x00, 0x80, 0x7F):
        case = weight_case(format, 16, 512)
        if format not in ("f32", "bf16", "f16"):
            filled = torch.full_like(case.blocks_OB, byte)
            scales = {"q6_k": [208, 209], "q4_k": [0, 1, 2, 3], "q5_k": [0, 1, 2, 3]}.get(format, [0, 1])
            block_bytes = _cpu.row_bytes(format, 512) // (16 if format in ("q8_0", "q4_0") else 2)
            for offset in scales:
                filled.view(16, -1, block_bytes)[:, :, offset] = 0x14  # float16 0x1414, about 0.001
            packed = PackedWeight.from_blocks(format, filled, 512)
            case = WeightCase(packed, filled, packed.dequantise().double())
        for sign in (1.0, -1.0):
            _assert_close(case, torch.full((5, 512), sign * 3.0))


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_a_row_has_the_same_bits_in_any_company(format: WeightFormat, instruction_set: str) -> None:
    for out_features, in_features in shapes(format)[-3:]:
        weight = weight_case(format, out_features, in_features).packed
        x = _x(300, in_features)
        _cpu.set_num_threads(1)
        alone = torch.cat([linear(row[None], weight) for row in x])
        for threads in (1, 2):
            _cpu.set_num_threads(threads)
            for num_rows in (2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 21, 33, 47, 129, 300):
                assert torch.equal(linear(x[:num_rows], weight), alone[:num_rows]), (num_rows, threads)
            assert torch.equal(linear(x[41:46], weight), alone[41:46])


def test_weights_that_share_x_give_what_they_give_alone(instruction_set: str) -> None:
    weights = [weight_case(format, 40 + i, 512).packed for i, format in enumerate(WEIGHT_FORMATS)]
    _cpu.set_num_threads(2)
    for num_rows in ROWS:
        x = _x(num_rows, 512)
        for out, weight in zip(linears(x, weights), weights, strict=True):
            assert torch.equal(out, linear(x, weight))


def test_other_dtypes_are_computed_in_float32() -> None:
    weight = weight_case("q8_0", 20, 64).packed
    x = _x(4, 64).bfloat16()
    assert torch.equal(linear(x, weight), linear(x.float(), weight).bfloat16())
    assert torch.equal(linear(x.float().T.contiguous().T, weight), linear(x.float(), weight))


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_output_is_written_whole_and_nothing_beside_it(format: WeightFormat, instruction_set: str) -> None:
    """SECURITY row 8: no poison left inside, none touched outside."""
    guard, poison = 64, 12345.0
    for out_features, in_features in shapes(format):
        weight = weight_case(format, out_features, in_features).packed
        for num_rows in ROWS:
            x = _x(num_rows, in_features)
            buffer = torch.full((guard + num_rows * out_features + guard,), poison)
            inside = buffer[guard:-guard]
            _cpu.linear(x.data_ptr(), num_rows, weight.native, inside.data_ptr())
            assert torch.equal(inside.view(num_rows, -1), linear(x, weight))
            assert not bool((inside == poison).any())
            assert bool((buffer[:guard] == poison).all())
            assert bool((buffer[-guard:] == poison).all())


def test_a_wrong_x_is_refused() -> None:
    weight = weight_case("q8_0", 20, 64).packed
    with pytest.raises(ValueError, match="weights of 64 inputs cannot multiply"):
        linear(torch.zeros(2, 32), weight)
    with pytest.raises(ValueError, match="need the same in_features"):
        _cpu.linears(0, 1, [weight.native, weight_case("q8_0", 20, 96).packed.native], [0, 0])


def test_no_rows_is_no_work() -> None:
    assert linear(torch.zeros(0, 64), weight_case("q8_0", 20, 64).packed).shape == (0, 20)


@pytest.mark.parametrize("name", ["scalar", "mmx"])
def test_the_environment_chooses_the_instruction_set(name: str) -> None:
    code = "from tramontane.ops import _cpu; print(_cpu.instruction_set())"
    env = {**os.environ, "TRAMONTANE_CPU": name}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    if name == "scalar":
        assert run.stdout.strip() == "scalar"
    else:
        assert run.returncode != 0
        assert "TRAMONTANE_CPU=mmx is not available here; use one of scalar" in run.stderr
