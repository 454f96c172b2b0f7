"""Learning from pairs of answers, one preferred: DPO and losses that need no reference model.

Shapes: P pairs. Log-probabilities of an answer are summed over its tokens, or averaged where the paper says so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from tramontane.errors import DataError
from tramontane.model.lora import frozen_lora, replaced_lora, without_lora
from tramontane.model.transformer import Transformer
from tramontane.training.microbatch import Microbatch
from tramontane.training.model_setup import prepare
from tramontane.training.recipe import TaskRecipe
from tramontane.training.tasks import Objective, sequence_logprobs


def dpo_loss(chosen_P: Tensor, rejected_P: Tensor, reference_P: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta ((log c - log r) - (log c - log r of the reference))), (P,): arXiv:2305.18290, eq. 7.

    `reference_P` is the reference's difference of summed log-probabilities, as that of `chosen_P` and `rejected_P`.
    """
    return -F.logsigmoid(beta * (chosen_P - rejected_P - reference_P))


def ipo_loss(chosen_P: Tensor, rejected_P: Tensor, reference_P: Tensor, beta: float) -> Tensor:
    """The squared distance of the difference, per token, from 1 / (2 beta), (P,): arXiv:2310.12036, eq. 17."""
    return (chosen_P - rejected_P - reference_P - 1 / (2 * beta)).square()


def simpo_loss(chosen_P: Tensor, rejected_P: Tensor, beta: float, gamma: float) -> Tensor:
    """-log sigmoid(beta (log c - log r) - gamma) of averages per token, (P,): arXiv:2405.14734, eq. 6."""
    return -F.logsigmoid(beta * (chosen_P - rejected_P) - gamma)


def orpo_loss(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    """-log c - beta log sigmoid(log odds ratio) of averages per token, (P,): arXiv:2403.07691, eq. 6-7."""
    log_odds_P = chosen_P - rejected_P - (_log1mexp(chosen_P) - _log1mexp(rejected_P))
    return -chosen_P - beta * F.logsigmoid(log_odds_P)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, exact at both ends."""
    x = x.clamp(max=-1e-7)
    return torch.where(x > -0.693, torch.log(-torch.expm1(x)), torch.log1p(-x.exp()))


class PreferenceTask:
    """Documents 2n and 2n + 1 of a microbatch are the chosen and the rejected answer to one prompt.

    DPO and IPO compare with a reference: the model as it was. With fresh adapters that is the model without them, at no
    memory; with adapters that `goes_on`, the model with a frozen copy of these; else a frozen copy of all is kept, in
    the compute dtype. `model` is not prepared yet, and will be alike.
    """

    def __init__(
        self,
        recipe: TaskRecipe,
        model: Transformer,
        *,
        compute_dtype: torch.dtype,
        compiled: bool,
        goes_on: bool = False,
    ) -> None:
        self.recipe = recipe
        self._copy: Transformer | None = None
        self._base: Callable[[Transformer], AbstractContextManager[None]] = without_lora
        has_adapters = any(".lora." in name for name, _ in model.named_parameters())
        if recipe.loss in ("dpo", "ipo") and not has_adapters:
            self._copy = copy.deepcopy(model).requires_grad_(False).to(compute_dtype)
            prepare(self._copy, compute_dtype=compute_dtype, compiled=compiled, checkpointing=False)
            self._base = lambda _: nullcontext()
        elif goes_on:
            start = frozen_lora(model)
            self._base = lambda _: replaced_lora(start)

    def objective(self, model: Transformer, microbatch: Microbatch) -> Objective:
        """Summed over pairs. Raises DataError for an odd number of documents."""
        if microbatch.num_documents % 2:
            raise DataError("a batch of preferences must hold chosen and rejected answers in turn")
        averages = self.recipe.loss != "dpo"
        chosen_P, rejected_P = self._logprobs(model, microbatch, averages=averages)
        if self.recipe.loss in ("dpo", "ipo"):
            with torch.no_grad(), self._base(model):
                reference = self._logprobs(self._copy or model, microbatch, averages=averages)
            reference_P = reference[0] - reference[1]
            formula = dpo_loss if self.recipe.loss == "dpo" else ipo_loss
            loss_P = formula(chosen_P, rejected_P, reference_P, self.recipe.beta)
            margin_P = self.recipe.beta * (chosen_P - rejected_P - reference_P)
        elif self.recipe.loss == "simpo":
            loss_P = simpo_loss(chosen_P, rejected_P, self.recipe.beta, self.recipe.gamma)
            margin_P = self.recipe.beta * (chosen_P - rejected_P)
        else:
            loss_P = orpo_loss(chosen_P, rejected_P, self.recipe.beta)
            margin_P = chosen_P - rejected_P
        total = loss_P.sum()
        weight = torch.tensor(float(len(loss_P)), device=loss_P.device)
        sums = {"loss": total.detach(), "accuracy": (margin_P > 0).float().sum(), "margin": margin_P.detach().sum()}
        return Objective(total, weight, sums)

    def _logprobs(self, model: Transformer, microbatch: Microbatch, *, averages: bool) -> tuple[Tensor, Tensor]:
        """(P,) of chosen and of rejected answers: sums over their tokens, or averages."""
        sums_N, counts_N = sequence_logprobs(model, microbatch)
        values_N = sums_N / counts_N.clamp_min(1) if averages else sums_N
        return values_N[0::2], values_N[1::2]
