from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tramontane.ops import _cpu, packed_cpu, packed_native, reference
from tramontane.ops.packed_varlen import packed_varlen

LENS = [5, 300, 1, 130, 0, 77]
# Those that multiply bfloat16; few processors have any.
BF16_SETS = [name for name in _cpu.instruction_sets() if name in ("avx512_bf16", "avx512_amx")]


def problem(
    lens: list[int], dtype: torch.dtype = torch.float32, *, head_dim: int = 16, device: str = "cpu"
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(sum(lens), heads, head_dim) for heads in (6, 2, 2)]
    q, k, v = (torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes)
    return q, k, v, torch.tensor([0, *lens], device=device).cumsum(0).int()


def expected(q: Tensor, k: Tensor, v: Tensor, lens: list[int], window: int | None) -> Tensor:
    parts = zip(*(torch.split(x, lens) for x in (q, k, v)), strict=True)
    return torch.cat([reference.attention(part[0], part[1], part[2], window) for part in parts if part[0].shape[0]])


@pytest.mark.parametrize("head_dim", [10, 16, 32])  # the kernels want whole vectors
@pytest.mark.parametrize("window", [None, 1, 7, 128, 129, 200, 1000])
def test_output_and_gradients_equal_the_definition(window: int | None, head_dim: int) -> None:
    q, k, v, starts = problem(LENS, head_dim=head_dim)
    assert packed_native.is_native(q) == (head_dim != 10)
    ours, definition = packed_varlen(q, k, v, starts, 300, window), expected(q, k, v, LENS, window)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, definition, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (q, k, v), weights),
        torch.autograd.grad(definition, (q, k, v), weights),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_and_neighbours_do_not_change_a_bit(instruction_set: str, dtype: torch.dtype) -> None:
    q, k, v, _ = problem(LENS, dtype, head_dim=32)
    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    rows = slice(306, 436)  # the document of 130

    def results(document_lens: list[int], *tensors: Tensor) -> list[Tensor]:
        q, k, v, grad = (x.detach().contiguous() for x in tensors)
        out, lse = packed_native.packed_attention_forward(q, k, v, document_lens, 100)
        return [out, *packed_native.packed_attention_backward(grad, q, k, v, out, lse, document_lens, 100)]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results(LENS, q, k, v, grad)
        alone = results([130], q[rows], k[rows], v[rows], grad[rows])
        torch.set_num_threads(3)
        three = results(LENS, q, k, v, grad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))
    assert all(torch.equal(a[rows], b) for a, b in zip(one, alone, strict=True))


def test_what_does_not_fit_is_refused_before_it_is_read() -> None:
    q, k, v, _ = (x.detach() for x in problem([40], head_dim=32))
    with pytest.raises(ValueError, match="41 tokens in 40 rows"):
        packed_native.packed_attention_forward(q, k, v, [41], None)
    with pytest.raises(ValueError, match="do not fit together"):
        packed_native.packed_attention_forward(q, k[:30], v, [40], None)
    with pytest.raises(ValueError, match="float16"):
        packed_native.packed_attention_forward(q, k.half(), v, [40], None)
    if not _cpu.computes_bf16_documents():
        with pytest.raises(ValueError, match="does not compute attention in bfloat16"):
            _cpu.packed_attention_forward_bf16([40], (6, 2, 32, 0), 0, 0, 0, 0, 0)


@pytest.mark.parametrize("head_dim", [10, 16])
def test_bfloat16_is_as_near_as_its_mantissa_allows(head_dim: int) -> None:
    q, k, v, starts = problem(LENS, torch.bfloat16, head_dim=head_dim)
    assert packed_native.is_native(q) == (head_dim != 10)
    exact = tuple(x.detach().float().requires_grad_() for x in (q, k, v))
    ours, definition = packed_varlen(q, k, v, starts, 300, 64), expected(exact[0], exact[1], exact[2], LENS, 64)
    assert ours.dtype == torch.bfloat16
    assert float((ours.detach().float() - definition.detach()).abs().max()) < 2**-6
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(ours, (q, k, v), weights.bfloat16())
    for gradient, wanted in zip(gradients, torch.autograd.grad(definition, exact, weights), strict=True):
        assert gradient.dtype == torch.bfloat16
        assert float((gradient.float() - wanted).norm() / wanted.norm()) < 0.02


@pytest.mark.parametrize("window", [None, 7, 64, 65, 200])
@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("instruction_set", BF16_SETS, indirect=True)
def test_bfloat16_multiplied_as_such_sees_the_same_keys(
    instruction_set: str, head_dim: int, window: int | None
) -> None:
    assert _cpu.computes_bf16_documents()
    q, k, v, starts = problem(LENS, torch.bfloat16, head_dim=head_dim)
    exact = tuple(x.detach().float().requires_grad_() for x in (q, k, v))
    weights = torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    ours, definition = packed_varlen(q, k, v, starts, 300, window), expected(exact[0], exact[1], exact[2], LENS, window)
    gradients = torch.autograd.grad(ours, (q, k, v), weights)
    wanted = torch.autograd.grad(definition, exact, weights.float())
    # a key too many or too few among 200 is worth more than what rounding to bfloat16 costs
    for left, right in zip((ours, *gradients), (definition, *wanted), strict=True):
        assert float((left.detach().float() - right.detach()).norm() / right.detach().norm()) < 2**-8


def test_the_operation_keeps_the_rules_that_compilers_rely_on() -> None:
    torch.library.opcheck(
        torch.ops.tramontane.packed_attention.default,
        (*problem([9, 0, 30]), 30, 8),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_a_window_costs_what_it_covers() -> None:
    """Keys multiplied per query stay below window + tile, however long the document."""
    tiles = list(packed_cpu.tiles([5000], 200, torch.device("cpu")))
    assert sum(rows.stop - rows.start for rows, _, _ in tiles) == 5000
    assert max(keys.stop - keys.start for _, keys, _ in tiles) <= 200 + packed_cpu.TILE_LEN


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 1, 64, 512])
def test_flash_attention_on_the_gpu_equals_the_definition(window: int | None) -> None:
    q, k, v, starts = problem([5, 700, 1, 130, 0, 77], torch.bfloat16, device="cuda")
    ours = packed_varlen(q, k, v, starts, 700, window)
    inputs = [x.detach().float().requires_grad_() for x in (q, k, v)]
    definition = expected(inputs[0], inputs[1], inputs[2], [5, 700, 1, 130, 0, 77], window)
    weights = torch.randn_like(definition)
    assert float((ours.detach().float() - definition.detach()).abs().max()) < 2**-6
    gradients = torch.autograd.grad(ours, (q, k, v), weights.bfloat16())
    for left, right in zip(gradients, torch.autograd.grad(definition, inputs, weights), strict=True):
        assert float((left.float() - right).norm() / right.norm()) < 0.02
