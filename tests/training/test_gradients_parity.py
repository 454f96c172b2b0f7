"""Loss and every gradient against `transformers`, and packed documents against each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.tiny_models import VOCAB_SIZE, build
from tests.training.batches import microbatch_of, random_documents
from tramontane.loading import load_model, open_checkpoint
from tramontane.model.transformer import Transformer
from tramontane.training.model_setup import prepare
from tramontane.training.recipe import LossRecipe
from tramontane.training.tasks import TextTask, keep_router_logits

MODELS = ["mistral_windowed", "mixtral", "tied_embeddings", "interleaved_windows", "yarn_rope"]


def to_ours(theirs: Any, folder: Path) -> Transformer:
    """Our model of the same weights, through our own reader of their files."""
    theirs.save_pretrained(folder)
    return load_model(open_checkpoint(folder), dtype="float32", device="cpu")


def as_canonical(gradients: Any, folder: Path) -> dict[str, Tensor]:
    """The gradients of a `transformers` model under our names and rotary layout: saved and read as if weights."""
    with torch.no_grad():
        for parameter in gradients.parameters():
            parameter.copy_(parameter.grad)
    return {name: weight.detach() for name, weight in to_ours(gradients, folder).named_parameters()}


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_equal_transformers(name: str, checkpointing: bool, tmp_path: Path) -> None:
    theirs = build(name).train()
    is_moe = name == "mixtral"
    ours = to_ours(theirs, tmp_path / "weights")
    windows = prepare(ours, compute_dtype=torch.float32, compiled=False, checkpointing=checkpointing)
    keep_router_logits(ours)
    [document] = random_documents([37], vocab_size=VOCAB_SIZE)
    ids = torch.tensor([document])

    objective = TextTask(LossRecipe(load_balancing=0.02, router_z_loss=0.0)).objective(
        ours, microbatch_of(windows, [document])
    )
    (objective.total / objective.weight).backward()  # type: ignore[no-untyped-call]
    options = {"output_router_logits": True} if is_moe else {}
    theirs.router_aux_loss_coef = 0.02
    their_loss = theirs(ids, labels=ids, **options).loss
    their_loss.backward()

    torch.testing.assert_close(objective.total / objective.weight, their_loss, rtol=1e-5, atol=0)
    expected = as_canonical(theirs, tmp_path / "gradients")
    for parameter_name, parameter in ours.named_parameters():
        if parameter.grad is None:  # an expert that no token chose
            assert ".experts." in parameter_name
            assert not expected[parameter_name].any()
        else:
            assert relative_error(parameter.grad, expected[parameter_name]) < 1e-4, parameter_name


@pytest.mark.parametrize("name", ["mistral_windowed", "mixtral"])
def test_packed_documents_equal_each_alone(name: str, tmp_path: Path) -> None:
    documents = random_documents([1, 30, 2, 17], vocab_size=VOCAB_SIZE)
    ours = to_ours(build(name), tmp_path / "weights")
    windows = prepare(ours, compute_dtype=torch.float32, compiled=False, checkpointing=False)
    task = TextTask(LossRecipe(load_balancing=0.0, router_z_loss=0.0))
    keep_router_logits(ours)

    packed = task.objective(ours, microbatch_of(windows, documents, padding_len=70))
    packed.total.backward()  # type: ignore[no-untyped-call]
    packed_gradients = {n: p.grad.clone() for n, p in ours.named_parameters() if p.grad is not None}
    ours.zero_grad()
    alone = [task.objective(ours, microbatch_of(windows, [document])) for document in documents]
    sum((each.total for each in alone), torch.zeros(())).backward()  # type: ignore[no-untyped-call]

    torch.testing.assert_close(packed.total, sum((each.total for each in alone), torch.zeros(())), rtol=1e-5, atol=0)
    assert packed.weight == sum(len(document) - 1 for document in documents)
    for parameter_name, parameter in ours.named_parameters():
        if parameter.grad is not None:
            assert relative_error(packed_gradients[parameter_name], parameter.grad) < 1e-4, parameter_name
