from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tramontane.ops import reference
from tramontane.ops.training_ops import TrainingOps

PLAIN, COMPILED = TrainingOps(compiled=False), TrainingOps(compiled=True)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def assert_same(ours: Callable[..., Tensor], definition: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    """Equal output, and equal gradient of every input."""
    weights = random(*definition(*inputs).shape, seed=9).detach()
    torch.testing.assert_close(ours(*inputs), definition(*inputs))
    torch.testing.assert_close(
        torch.autograd.grad(ours(*inputs), inputs, weights), torch.autograd.grad(definition(*inputs), inputs, weights)
    )


@pytest.mark.parametrize("ops", [PLAIN, COMPILED])
def test_operations_equal_their_definitions(ops: TrainingOps) -> None:
    angles = torch.rand(7, 4)
    assert_same(
        lambda x, w: ops.rms_norm(x, w, 1e-5), lambda x, w: reference.rms_norm(x, w, 1e-5), (random(7, 12), random(12))
    )
    assert_same(
        lambda x: ops.rotate(x, angles.cos(), angles.sin()),
        lambda x: reference.rotate(x, angles.cos(), angles.sin()),
        (random(7, 3, 8),),
    )
    assert_same(ops.swiglu, reference.swiglu, (random(7, 12), random(7, 12, seed=1)))
    assert_same(ops.linear, reference.linear, (random(7, 12), random(5, 12, seed=1)))


@pytest.mark.parametrize("ops", [PLAIN, COMPILED])
def test_float32_masters_work_on_bfloat16_activations(ops: TrainingOps) -> None:
    x, weight, scale = random(7, 12), random(5, 12, seed=1), random(12, seed=2)
    half = x.detach().bfloat16().requires_grad_()
    out = ops.linear(ops.rms_norm(half, scale, 1e-5), weight)
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().square().sum(), (half, weight, scale))
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    exact = reference.linear(reference.rms_norm(x, scale, 1e-5), weight)
    for ours, expected in zip(gradients, torch.autograd.grad(exact.square().sum(), (x, weight, scale)), strict=True):
        assert float((ours.float() - expected).norm() / expected.norm()) < 0.03


def test_a_frozen_norm_gets_no_gradient_but_passes_it_on() -> None:
    x, scale = random(7, 12), random(12, seed=2).detach()
    expected = torch.autograd.grad(reference.rms_norm(x, scale, 1e-5).square().sum(), x)
    torch.testing.assert_close(torch.autograd.grad(PLAIN.rms_norm(x, scale, 1e-5).square().sum(), x), expected)
