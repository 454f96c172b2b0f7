"""Block formats against the gguf package, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from tramontane.errors import CheckpointError
from tramontane.formats import quant_blocks
from tramontane.formats.quant_blocks import BLOCK_TYPES, dequantise, quantise

WRITABLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def theirs(stored: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[stored]


@pytest.mark.parametrize("stored", BLOCK_TYPES)
def test_sizes_are_ggmls(stored: str) -> None:
    block_type = BLOCK_TYPES[stored]
    assert (block_type.block_size, block_type.block_bytes) == gguf.GGML_QUANT_SIZES[theirs(stored)]


@pytest.mark.parametrize("stored", BLOCK_TYPES)
@pytest.mark.parametrize("finite", [True, False])
def test_random_bytes_dequantise_as_gguf_does(stored: str, finite: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any bytes are a legal block. `finite` False keeps the scales that are infinite or not a number."""
    monkeypatch.setattr(quant_blocks, "_CHUNK", 1024)  # several chunks, the last one short
    generator = np.random.default_rng(7)
    block_type = BLOCK_TYPES[stored]
    rows, columns = 11, 3 * block_type.block_size
    packed = generator.integers(0, 256, (rows, block_type.row_bytes(columns)), dtype=np.uint8)
    if finite:
        for start, stop in {"Q2_K": [(80, 84)], "Q3_K": [(108, 110)], "Q6_K": [(208, 210)]}.get(stored, [(0, 4)]):
            blocks = packed.reshape(-1, block_type.block_bytes)
            blocks[:, start + 1 : stop : 2] &= 0x3F
    with np.errstate(invalid="ignore", over="ignore"):
        expected = gguf.quants.dequantize(packed, theirs(stored))
    ours = dequantise(torch.from_numpy(packed), stored, (rows, columns))
    assert ours.dtype == torch.float32
    np.testing.assert_array_equal(ours.numpy(), expected)
    assert np.isfinite(expected).all() == finite or not finite


@pytest.mark.parametrize("stored", WRITABLE)
def test_quantises_as_gguf_does(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quant_blocks, "_CHUNK", 1024)
    weights = np.random.default_rng(3).standard_normal((37, 96), dtype=np.float32)
    weights[0] = 0  # a zero scale
    weights[1] = np.tile(np.array([1, -1], dtype=np.float32), 48)  # ties for the greatest magnitude
    weights[2] = np.arange(96, dtype=np.float32) - 63.5  # halves
    weights[3] *= 1e-9  # a scale that vanishes in float16
    weights[4] = 2.5
    packed = quantise(torch.from_numpy(weights), stored)
    assert packed.dtype == torch.uint8
    np.testing.assert_array_equal(packed.numpy(), gguf.quants.quantize(weights, theirs(stored)))


@pytest.mark.parametrize("stored", WRITABLE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_quantise_as_their_float32_values(stored: str, dtype: torch.dtype) -> None:
    weights = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(quantise(weights, stored), quantise(weights.to(torch.float32).reshape(8, 32), stored))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    weights = torch.zeros(4, 32)
    weights[3, 31] = bad
    with pytest.raises(CheckpointError, match="not a number"):
        quantise(weights, "Q8_0")


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(CheckpointError, match="rows of 33 weights are not whole Q8_0 blocks of 32"):
        quantise(torch.zeros(2, 33), "Q8_0")
    with pytest.raises(CheckpointError, match="cannot write Q4_K"):
        quantise(torch.zeros(2, 256), "Q4_K")
    with pytest.raises(CheckpointError, match="unknown block type 'IQ2_XS'"):
        quantise(torch.zeros(2, 256), "IQ2_XS")
    with pytest.raises(CheckpointError, match="unknown block type 'F32'"):
        dequantise(torch.zeros(4, dtype=torch.uint8), "F32", (1,))
    for size in (33, 35, 68):
        with pytest.raises(CheckpointError, match=f"{size} bytes of Q8_0 blocks do not make a tensor of shape"):
            dequantise(torch.zeros(1, size, dtype=torch.uint8), "Q8_0", (1, 32))
