"""A grown model answers as the one it came from, and all of it learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.training.batches import CPU, VOCAB_SIZE, microbatch_of, random_documents
from tramontane.errors import ConfigError
from tramontane.model.transformer import Transformer
from tramontane.training.growth import grow
from tramontane.training.model_setup import new_model, prepare
from tramontane.training.recipe import LossRecipe, ModelRecipe
from tramontane.training.tasks import TextTask

SMALL = ModelRecipe(dim=48, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, hidden_dim=40, sliding_window=7)
DOCUMENT = random_documents([33], vocab_size=VOCAB_SIZE)


def model(shape: ModelRecipe, seed: int) -> Transformer:
    return new_model(shape.config(VOCAB_SIZE), device=CPU, seed=seed, std=0.2)


def loss(model: Transformer) -> torch.Tensor:
    windows = prepare(model, compute_dtype=torch.float32, compiled=False, checkpointing=False)
    objective = TextTask(LossRecipe()).objective(model, microbatch_of(windows, DOCUMENT))
    mean: torch.Tensor = objective.total / objective.weight
    return mean


@pytest.mark.parametrize(
    "sizes",
    [
        {"dim": 80},
        {"n_heads": 8},
        {"hidden_dim": 56},
        {"n_layers": 5},
        {"dim": 64, "n_heads": 6, "hidden_dim": 64, "n_layers": 3},
        {"dim": 64, "n_layers": 3, "tied_embeddings": False},
    ],
    ids=str,
)
def test_a_grown_model_computes_the_same_and_all_of_it_learns(sizes: dict[str, Any]) -> None:
    tied = {key: value for key, value in sizes.items() if key == "tied_embeddings"}
    smaller, larger = model(replace(SMALL, **tied), 1), model(replace(SMALL, **sizes), 2)
    grow(larger, smaller)
    expected, found = loss(smaller), loss(larger)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)  # norm_eps is added to a mean over more
    optimizer = torch.optim.SGD(larger.parameters(), lr=0.1)
    before = {name: weight.detach().clone() for name, weight in larger.named_parameters()}
    for _ in range(3):  # what reads from new dimensions learns once something is written there
        optimizer.zero_grad()
        loss(larger).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, weight in larger.named_parameters():
        still = (weight == before[name]).float().mean().item()
        assert still < (0.9 if "tok_embeddings" in name else 0.01), name


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"dim": 40}, r"model\.dim=40 is less than the 48 of model\.grown_from"),
        ({"n_layers": 1}, "n_layers=1 is less"),
        ({"n_kv_heads": 4}, "n_kv_heads=4 must be 2"),
        ({"head_dim": 16}, "head_dim=16 must be 12"),
        ({"rope_theta": 500.0}, "rope_theta"),
        ({"tied_embeddings": False}, "tied_embeddings"),
        ({"num_experts": 4}, "mixture of experts"),
    ],
    ids=str,
)
def test_what_cannot_be_grown_is_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grow(model(replace(SMALL, **sizes), 2), model(SMALL, 1))
