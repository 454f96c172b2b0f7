from __future__ import annotations

import pytest
import torch

from tramontane.training.muon import Muon, orthogonalise


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 16, 48), (2, 48, 16), (1, 1, 7)])
def test_singular_values_become_one_and_directions_stay(shape: tuple[int, int, int]) -> None:
    matrices = random(*shape)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalise(matrices)
    values = torch.linalg.svdvals(result)
    assert float((values - 1).abs().max()) < 0.2
    assert float((result - u @ vh).norm() / (u @ vh).norm()) < 0.16


def test_matrices_of_a_batch_do_not_mix() -> None:
    matrices = random(4, 12, 20)
    together = orthogonalise(matrices)
    alone = torch.cat([orthogonalise(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_zero_gradient_moves_nothing() -> None:
    assert not orthogonalise(torch.zeros(1, 4, 4)).any()


@pytest.mark.parametrize("normalise_rows", [False, True])
def test_first_update_is_orthogonal_and_of_root_mean_square_a_fifth(normalise_rows: bool) -> None:
    weight = torch.nn.Parameter(random(24, 40))
    before = weight.detach().clone()
    weight.grad = random(24, 40, seed=1)
    Muon([weight], lr=0.1, weight_decay=0.5, normalise_rows=normalise_rows).step()
    update = (weight.detach() - before * (1 - 0.1 * 0.5)) / -0.1
    assert float(update.square().mean().sqrt()) == pytest.approx(0.2, rel=0.05)
    if not normalise_rows:
        expected = orthogonalise(random(24, 40, seed=1)[None])[0] * 0.2 * 40**0.5
        torch.testing.assert_close(update, expected, rtol=1e-3, atol=1e-4)
    else:
        rows = update.square().mean(1)
        assert float(rows.max() / rows.min()) == pytest.approx(1.0, rel=1e-3)


def test_iteration_in_bfloat16_moves_a_weight_as_in_float32() -> None:
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(torch.zeros(48, 96))
        weight.grad = random(48, 96)
        Muon([weight], lr=1.0, compute_dtype=dtype).step()
        moved[dtype] = weight.detach().flatten()
    exact, rounded = moved.values()
    assert not torch.equal(exact, rounded)
    assert float(torch.cosine_similarity(exact, rounded, dim=0)) > 0.995
    assert float(rounded.norm() / exact.norm()) == pytest.approx(1.0, rel=0.02)


def test_momentum_is_nesterovs_average() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=1.0, momentum=0.9)
    gradients = [random(8, 8, seed=seed) for seed in (1, 2)]
    average = torch.zeros(8, 8)
    for gradient in gradients:
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        optimizer.step()
        average = 0.9 * average + 0.1 * gradient
        expected = orthogonalise((0.1 * gradient + 0.9 * average)[None])[0] * 0.2 * 8**0.5
        torch.testing.assert_close(before - weight.detach(), expected, rtol=1e-3, atol=1e-4)


def test_finds_a_minimum_that_needs_all_directions() -> None:
    target = random(16, 16)
    weight = torch.nn.Parameter(torch.zeros(16, 16))
    optimizer = Muon([weight], lr=0.05)
    for step in range(300):
        weight.grad = weight.detach() - target
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 300)
        optimizer.step()
    assert float((weight.detach() - target).norm() / target.norm()) < 0.05
