from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tramontane.training.loss import (
    _fusible_step,
    _step,
    cross_entropy,
    load_balancing_loss,
    router_z_loss,
    token_logprobs,
)


def problem(num_tokens: int = 37, vocab_size: int = 19, dim: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_tokens, dim, generator=generator).requires_grad_()
    output = torch.randn(vocab_size, dim, generator=generator).requires_grad_()
    targets = torch.randint(0, vocab_size, (num_tokens,), generator=generator)
    weights = torch.rand(num_tokens, generator=generator)
    weights[::5] = 0
    return hidden, output, targets, weights


@pytest.mark.parametrize("chunk_len", [1, 7, 37, 100])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_equals_plain_cross_entropy_with_its_gradients(chunk_len: int, z_loss: float) -> None:
    hidden, output, targets, weights = problem()
    logits = hidden @ output.T
    expected = (F.cross_entropy(logits, targets, reduction="none") * weights).sum()
    expected_total = expected + z_loss * (logits.logsumexp(-1).square() * weights).sum()
    expected_gradients = torch.autograd.grad(3 * expected_total, (hidden, output))

    ours = cross_entropy(hidden, output, targets, weights, z_loss=z_loss, chunk_len=chunk_len)
    gradients = torch.autograd.grad(3 * ours.objective, (hidden, output))
    torch.testing.assert_close(ours.objective, expected_total)
    torch.testing.assert_close(ours.nll, expected)
    torch.testing.assert_close(ours.correct, ((logits.argmax(-1) == targets) * weights).sum())
    torch.testing.assert_close(ours.weight, weights.sum())
    torch.testing.assert_close(gradients, expected_gradients)


def test_gradient_can_be_wanted_of_one_side_alone() -> None:
    hidden, output, targets, _ = problem()
    whole = torch.autograd.grad(cross_entropy(hidden, output, targets).objective, (hidden, output))
    frozen_output = cross_entropy(hidden, output.detach(), targets).objective
    frozen_hidden = cross_entropy(hidden.detach(), output, targets).objective
    torch.testing.assert_close(torch.autograd.grad(frozen_output, hidden)[0], whole[0])
    torch.testing.assert_close(torch.autograd.grad(frozen_hidden, output)[0], whole[1])


def test_bfloat16_states_give_a_float32_gradient_to_the_master_weight() -> None:
    hidden, output, targets, _ = problem()
    half = hidden.detach().bfloat16().requires_grad_()
    ours = cross_entropy(half, output, targets)
    grad_hidden, grad_output = torch.autograd.grad(ours.objective, (half, output))
    assert (grad_hidden.dtype, grad_output.dtype, ours.objective.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )
    expected = torch.autograd.grad(cross_entropy(hidden, output, targets).objective, output)[0]
    assert float((grad_output - expected).norm() / expected.norm()) < 0.02  # 8 bits of mantissa


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_the_step_for_compilers_equals_the_plain_one(z_loss: float) -> None:
    hidden, output, targets, weights = (tensor.detach() for tensor in problem())
    for left, right in zip(
        _fusible_step(hidden, output, targets, weights, z_loss),
        _step(hidden, output, targets, weights, z_loss),
        strict=True,
    ):
        torch.testing.assert_close(left, right)


def test_scores_are_never_all_in_memory() -> None:
    """16,384 tokens x 4,096 entries are 256 MiB of scores; the largest tensor made is one chunk of 16 MiB."""
    hidden, output = torch.zeros(16384, 4, requires_grad=True), torch.zeros(4096, 4, requires_grad=True)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        cross_entropy(hidden, output, torch.zeros(16384, dtype=torch.int64)).objective.backward()  # type: ignore[no-untyped-call]
    largest = max(event.cpu_memory_usage / max(1, event.count) for event in profile.key_averages())
    assert 2**22 < largest < 2**25


@pytest.mark.parametrize("chunk_len", [5, 64])
def test_token_logprobs_are_those_of_log_softmax(chunk_len: int) -> None:
    hidden, output, targets, weights = problem()
    expected = (hidden @ output.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    ours = token_logprobs(hidden, output, targets, chunk_len=chunk_len)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (hidden, output), weights), torch.autograd.grad(expected, (hidden, output), weights)
    )


def test_router_losses_equal_transformers() -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(23, 5, generator=generator).requires_grad_() for _ in range(3)]
    theirs = load_balancing_loss_func(tuple(logits), 5, 2)
    ours = load_balancing_loss(logits, 2)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits))
    expected_z = torch.stack([torch.logsumexp(layer, -1) ** 2 for layer in logits]).mean()
    torch.testing.assert_close(router_z_loss(logits), expected_z)


def test_an_even_spread_over_experts_is_the_least_loss() -> None:
    even = torch.eye(4).repeat(3, 1) * 1e-4  # each expert is chosen equally often, all probabilities equal
    uneven = torch.tensor([[5.0, 0, 0, 0]]).repeat(12, 1)
    assert float(load_balancing_loss([even], 1)) == pytest.approx(1.0, rel=1e-3)
    assert float(load_balancing_loss([uneven], 1)) > 3
