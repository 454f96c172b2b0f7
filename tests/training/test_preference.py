"""Preference losses against the formulas as `trl` computes them, written out here, and through a model."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.model.tiny import tiny_config, tiny_model
from tests.training.batches import CPU, batch_of, random_documents
from tramontane.errors import DataError
from tramontane.model.lora import attach_lora
from tramontane.model.packed_attention import packed_input
from tramontane.model.transformer import Transformer
from tramontane.training.microbatch import Microbatch, Placement
from tramontane.training.model_setup import prepare
from tramontane.training.preference import PreferenceTask, orpo_loss
from tramontane.training.recipe import TaskRecipe

PROMPT_LEN = 4
DOCUMENTS = random_documents([12, 9, 20, 15])  # chosen, rejected, chosen, rejected
LOSSES: list[Literal["dpo", "ipo", "simpo", "orpo"]] = ["dpo", "ipo", "simpo", "orpo"]


def answer_logprobs(model: Transformer, document: list[int]) -> Tensor:
    """log p of each token of the answer, which begins after the prompt."""
    ids = torch.tensor(document)
    logprobs = model.logits(model(packed_input(model, ids, [len(document)]))).log_softmax(-1)
    return logprobs[PROMPT_LEN - 1 : -1].gather(1, ids[PROMPT_LEN:, None])[:, 0]


def trl_loss(model: Transformer, reference: Transformer, recipe: TaskRecipe) -> Tensor:
    """As in trl's dpo_trainer.py (loss types sigmoid and ipo), cpo_trainer.py (simpo) and orpo_trainer.py."""
    total = torch.zeros(())
    for chosen, rejected in zip(DOCUMENTS[0::2], DOCUMENTS[1::2], strict=True):
        policy = [answer_logprobs(model, document) for document in (chosen, rejected)]
        base = [answer_logprobs(reference, document).detach() for document in (chosen, rejected)]
        if recipe.loss == "dpo":
            logits = (policy[0].sum() - policy[1].sum()) - (base[0].sum() - base[1].sum())
            total = total - F.logsigmoid(recipe.beta * logits)
        elif recipe.loss == "ipo":
            logits = (policy[0].mean() - policy[1].mean()) - (base[0].mean() - base[1].mean())
            total = total + (logits - 1 / (2 * recipe.beta)) ** 2
        elif recipe.loss == "simpo":
            logits = policy[0].mean() - policy[1].mean() - recipe.gamma / recipe.beta
            total = total - F.logsigmoid(recipe.beta * logits)
        else:
            c, r = policy[0].mean(), policy[1].mean()
            log_odds = (c - r) - (torch.log1p(-torch.exp(c)) - torch.log1p(-torch.exp(r)))
            total = total - c - recipe.beta * F.logsigmoid(log_odds)
    return total


def microbatch(model: Transformer) -> Microbatch:
    batch = batch_of(DOCUMENTS, padding_len=7, learned_from=PROMPT_LEN)
    return Placement(CPU, model.config.sliding_windows, 20).place(batch)


def relative_error(left: Tensor, right: Tensor) -> float:
    return float((left - right).norm() / right.norm())


@pytest.mark.parametrize("loss", LOSSES)
def test_full_training_equals_the_formula(loss: Literal["dpo", "ipo", "simpo", "orpo"]) -> None:
    recipe = TaskRecipe(kind="preference", loss=loss, beta=0.3)
    model = tiny_model(tiny_config(sliding_windows=6)).requires_grad_(True)
    expected_model = copy.deepcopy(model)
    task = PreferenceTask(recipe, model, compute_dtype=torch.float32, compiled=False)
    prepare(model, compute_dtype=torch.float32, compiled=False, checkpointing=False)
    with torch.no_grad():  # the policy has moved away from its reference
        reference = copy.deepcopy(expected_model)
        for ours, theirs in zip(model.parameters(), expected_model.parameters(), strict=True):
            theirs.add_(torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1)), alpha=0.02)
            ours.copy_(theirs)

    objective = task.objective(model, microbatch(model))
    objective.total.backward()  # type: ignore[no-untyped-call]
    expected = trl_loss(expected_model, reference, recipe)
    expected.backward()  # type: ignore[no-untyped-call]
    assert float(objective.weight) == 2
    torch.testing.assert_close(objective.total, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(model.parameters(), expected_model.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert relative_error(ours.grad, theirs.grad) < 2e-4


def test_adapters_take_their_base_as_the_reference() -> None:
    recipe = TaskRecipe(kind="preference", beta=0.3)
    model = tiny_model()
    reference = copy.deepcopy(model)
    attach_lora(model, rank=3, alpha=6.0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".lora.b"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    expected_model = copy.deepcopy(model)
    task = PreferenceTask(recipe, model, compute_dtype=torch.float32, compiled=False)
    prepare(model, compute_dtype=torch.float32, compiled=False, checkpointing=False)
    objective = task.objective(model, microbatch(model))
    torch.testing.assert_close(objective.total, trl_loss(expected_model, reference, recipe), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_training_raises_the_chosen_over_the_rejected(loss: Literal["dpo", "ipo", "simpo", "orpo"]) -> None:
    model = tiny_model().requires_grad_(True)
    task = PreferenceTask(TaskRecipe(kind="preference", loss=loss), model, compute_dtype=torch.float32, compiled=False)
    prepare(model, compute_dtype=torch.float32, compiled=False, checkpointing=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
    margins = []
    for _ in range(12):
        objective = task.objective(model, microbatch(model))
        margins.append(float(objective.sums["margin"]))
        optimizer.zero_grad()
        objective.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert margins[-1] > margins[0]


def test_orpo_is_finite_where_a_probability_is_almost_one() -> None:
    loss = orpo_loss(torch.tensor([-1e-9, -50.0]), torch.tensor([-50.0, -1e-9]), 0.1)
    assert bool(loss.isfinite().all())


def test_an_odd_number_of_documents_is_refused() -> None:
    model = tiny_model()
    task = PreferenceTask(
        TaskRecipe(kind="preference", loss="simpo"), model, compute_dtype=torch.float32, compiled=False
    )
    batch = Placement(CPU, model.config.sliding_windows, 20).place(batch_of(DOCUMENTS[:3]))
    with pytest.raises(DataError, match="chosen and rejected"):
        task.objective(model, batch)
