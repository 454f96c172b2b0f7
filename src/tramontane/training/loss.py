"""Losses that never hold all logits: scores of a chunk of tokens are made, used for loss and gradient, and dropped.

A batch of 4,096 tokens over a vocabulary of 32,768 would hold 512 MiB of float32 logits and as much again for each
intermediate; here the largest tensor is one chunk's. Sums, not means: whoever adds up microbatches and processes
divides once, by the total weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Scores held at a time. On a CPU 16 MiB stay near the caches; on a GPU a chunk must fill the machine.
CHUNK_SCORES = {"cpu": 4 * 2**20, "cuda": 64 * 2**20}

ChunkStep = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Sums over the tokens of one microbatch, each token weighted. `objective` alone carries gradient."""

    objective: Tensor  # nll + z_loss * log(Z)^2, summed
    nll: Tensor  # negative log-likelihood in nats, summed, float32
    correct: Tensor  # weight of the tokens whose target scored highest
    weight: Tensor  # sum of the weights


def cross_entropy(
    hidden_TD: Tensor,
    output_VD: Tensor,
    targets_T: Tensor,
    weights_T: Tensor | None = None,
    *,
    z_loss: float = 0.0,
    chunk_len: int | None = None,
    compiled: bool = False,
) -> CrossEntropy:
    """Softmax cross-entropy of `hidden @ output.T` with the targets; softmax in float32.

    `weights_T` (float32; None: one each) weighs tokens. `z_loss` adds
    z_loss * log(Z)^2 per token, which keeps the normaliser near 1 (arXiv:2204.02311, 5). Gradients are formed in the
    forward pass. `output_VD` may have another dtype than the hidden states (float32 masters): it is cast, and its
    gradient summed in its own dtype.
    """
    if weights_T is None:
        weights_T = torch.ones(targets_T.shape, dtype=torch.float32, device=targets_T.device)
    chunk_len = chunk_len or _chunk_len(output_VD.shape[0], hidden_TD.device.type)
    objective, nll, correct = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_TD, output_VD, targets_T, weights_T, z_loss, chunk_len, compiled
    )
    return CrossEntropy(objective, nll, correct, weights_T.sum())


def token_logprobs(hidden_TD: Tensor, output_VD: Tensor, targets_T: Tensor, *, chunk_len: int | None = None) -> Tensor:
    """log p(target) of each token, (T,) float32, differentiable; the backward pass makes each chunk's scores again.

    For losses that are not a sum over tokens (preferences, sequence scores).
    """
    chunk_len = chunk_len or _chunk_len(output_VD.shape[0], hidden_TD.device.type)
    logprobs_T: Tensor = _TokenLogprobs.apply(hidden_TD, output_VD, targets_T, chunk_len)  # type: ignore[no-untyped-call]
    return logprobs_T


def load_balancing_loss(router_logits: list[Tensor], num_active: int) -> Tensor:
    """Switch-style balance of the experts over all layers (arXiv:2101.03961, eq. 4-6), as transformers computes it:
    E * sum over experts of (share of choices) * (mean probability), choices counted per rank and added.

    router_logits: one (T, E) per layer. The smallest value, `num_active`, is reached by an even spread.
    """
    logits_NE = torch.cat([logits.float() for logits in router_logits])
    num_experts = logits_NE.shape[-1]
    probs_NE = logits_NE.softmax(-1)
    chosen_NA = probs_NE.topk(num_active, dim=-1).indices
    share_E = F.one_hot(chosen_NA, num_experts).float().mean(0).sum(0)
    return num_experts * (share_E * probs_NE.mean(0)).sum()


def router_z_loss(router_logits: list[Tensor]) -> Tensor:
    """Mean of log(Z)^2 of the router, over tokens and layers (arXiv:2202.08906, eq. 5)."""
    return torch.cat([logits.float() for logits in router_logits]).logsumexp(-1).square().mean()


def _chunk_len(vocab_size: int, device_type: str) -> int:
    return max(64, CHUNK_SCORES.get(device_type, CHUNK_SCORES["cuda"]) // vocab_size)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        output_VD: Tensor,
        targets_T: Tensor,
        weights_T: Tensor,
        z_loss: float,
        chunk_len: int,
        compiled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wants_hidden, wants_output = ctx.needs_input_grad[:2]
        cast_VD = output_VD.to(hidden_TD.dtype)
        grad_hidden_TD = torch.empty_like(hidden_TD) if wants_hidden else None
        grad_output_VD = torch.zeros_like(output_VD, dtype=torch.float32) if wants_output else None
        sums = torch.zeros(3, dtype=torch.float32, device=hidden_TD.device)
        for start in range(0, hidden_TD.shape[0], chunk_len):
            rows = slice(start, start + chunk_len)
            hidden_CD = hidden_TD[rows]
            # compiled for one shape only: a last, shorter chunk is computed step by step
            step = _compiled_step() if compiled and hidden_CD.shape[0] == chunk_len else _step
            nll_C, lse_C, hit_C, slope_CV = step(hidden_CD, cast_VD, targets_T[rows], weights_T[rows], z_loss)
            weights_C = weights_T[rows]
            sums += torch.stack(
                (
                    (weights_C * (nll_C + z_loss * lse_C.square())).sum(),
                    (weights_C * nll_C).sum(),
                    (weights_C * hit_C).sum(),
                )
            )
            if grad_hidden_TD is not None:
                torch.mm(slope_CV, cast_VD, out=grad_hidden_TD[rows])
            if grad_output_VD is not None:
                if slope_CV.dtype == torch.float32:
                    grad_output_VD.addmm_(slope_CV.T, hidden_CD)
                else:
                    grad_output_VD += slope_CV.T @ hidden_CD
        ctx.save_for_backward(grad_hidden_TD, grad_output_VD)
        ctx.output_dtype = output_VD.dtype
        objective, nll, correct = (each.clone() for each in sums.unbind())  # FSDP wants no views
        ctx.mark_non_differentiable(nll, correct)
        return objective, nll, correct

    @staticmethod
    def backward(ctx: Any, grad_objective: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_TD, grad_output_VD = ctx.saved_tensors
        if grad_hidden_TD is not None:
            grad_hidden_TD = grad_hidden_TD * grad_objective.to(grad_hidden_TD.dtype)
        if grad_output_VD is not None:
            grad_output_VD = (grad_output_VD * grad_objective).to(ctx.output_dtype)
        return grad_hidden_TD, grad_output_VD, None, None, None, None, None


def _step(
    hidden_CD: Tensor, output_VD: Tensor, targets_C: Tensor, weights_C: Tensor, z_loss: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(nll, log(Z), target is the likeliest, d objective / d scores) of one chunk; the scores are overwritten."""
    scores_CV = F.linear(hidden_CD, output_VD).float()
    top_C1 = scores_CV.amax(-1, keepdim=True)
    target_C = scores_CV.gather(1, targets_C[:, None])[:, 0]
    hit_C = target_C >= top_C1[:, 0]
    mass_C = scores_CV.sub_(top_C1).exp_().sum(-1)
    lse_C = mass_C.log() + top_C1[:, 0]
    scores_CV.mul_((weights_C * (1 + 2 * z_loss * lse_C) / mass_C)[:, None])
    scores_CV.scatter_add_(1, targets_C[:, None], -weights_C[:, None])
    return lse_C - target_C, lse_C, hit_C, scores_CV.to(hidden_CD.dtype)


def _fusible_step(
    hidden_CD: Tensor, output_VD: Tensor, targets_C: Tensor, weights_C: Tensor, z_loss: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`_step` without writes in place, so that a compiler makes two passes over the scores of it."""
    scores_CV = F.linear(hidden_CD, output_VD).float()
    target_C = scores_CV.gather(1, targets_C[:, None])[:, 0]
    hit_C = target_C >= scores_CV.amax(-1)
    lse_C = scores_CV.logsumexp(-1)
    columns_V = torch.arange(scores_CV.shape[1], device=scores_CV.device)
    slope_CV = (scores_CV - lse_C[:, None]).exp() * (weights_C * (1 + 2 * z_loss * lse_C))[:, None]
    slope_CV = slope_CV - torch.where(columns_V == targets_C[:, None], weights_C[:, None], 0.0)
    return lse_C - target_C, lse_C, hit_C, slope_CV.to(hidden_CD.dtype)


@cache
def _compiled_step() -> ChunkStep:
    return torch.compile(_fusible_step, dynamic=False)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, output_VD: Tensor, targets_T: Tensor, chunk_len: int) -> Tensor:
        cast_VD = output_VD.to(hidden_TD.dtype)
        lse_T = torch.empty(targets_T.shape, dtype=torch.float32, device=hidden_TD.device)
        target_T = torch.empty_like(lse_T)
        for start in range(0, hidden_TD.shape[0], chunk_len):
            rows = slice(start, start + chunk_len)
            scores_CV = F.linear(hidden_TD[rows], cast_VD).float()
            lse_T[rows] = scores_CV.logsumexp(-1)
            target_T[rows] = scores_CV.gather(1, targets_T[rows, None])[:, 0]
        ctx.save_for_backward(hidden_TD, output_VD, targets_T, lse_T)
        ctx.chunk_len = chunk_len
        return target_T - lse_T

    @staticmethod
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, output_VD, targets_T, lse_T = ctx.saved_tensors
        wants_hidden, wants_output = ctx.needs_input_grad[:2]
        cast_VD = output_VD.to(hidden_TD.dtype)
        grad_hidden_TD = torch.empty_like(hidden_TD) if wants_hidden else None
        grad_output_VD = torch.zeros_like(output_VD, dtype=torch.float32) if wants_output else None
        for start in range(0, hidden_TD.shape[0], ctx.chunk_len):
            rows = slice(start, start + ctx.chunk_len)
            slope_CV = F.linear(hidden_TD[rows], cast_VD).float().sub_(lse_T[rows, None]).exp_()
            slope_CV.mul_(-grad_T[rows, None])
            slope_CV.scatter_add_(1, targets_T[rows, None], grad_T[rows, None])
            slope_CV = slope_CV.to(hidden_TD.dtype)
            if grad_hidden_TD is not None:
                torch.mm(slope_CV, cast_VD, out=grad_hidden_TD[rows])
            if grad_output_VD is not None:
                grad_output_VD += slope_CV.T @ hidden_TD[rows]
        if grad_output_VD is not None:
            grad_output_VD = grad_output_VD.to(output_VD.dtype)
        return grad_hidden_TD, grad_output_VD, None, None
