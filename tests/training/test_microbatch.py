"""Batches on their way to the model: what is learned is picked out, in few shapes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.training.batches import VOCAB_SIZE, microbatch_of, random_documents
from tramontane.config import ModelConfig
from tramontane.training.microbatch import ROWS_MULTIPLE
from tramontane.training.model_setup import new_model, prepare
from tramontane.training.recipe import LossRecipe
from tramontane.training.tasks import TextTask

CONFIG = ModelConfig(
    family="mistral",
    dim=32,
    n_layers=1,
    n_heads=2,
    n_kv_heads=1,
    head_dim=16,
    hidden_dim=48,
    vocab_size=VOCAB_SIZE,
    norm_eps=1e-5,
    rope_theta=10000.0,
    max_seq_len=64,
    sliding_windows=(None,),
)


@pytest.mark.parametrize("learned_from", [5, 20, 39, 40])
def test_learned_rows_come_in_few_shapes(learned_from: int) -> None:
    """Products of matrices on a CPU keep megabytes of code for every shape: a run ended when memory did."""
    for num_documents in (1, 3, 8):
        batch = microbatch_of((None,), random_documents([40] * num_documents), learned_from=learned_from)
        assert batch.learned_rows is not None or learned_from < 0.3 * 40
        if batch.learned_rows is None:
            continue
        num_learned = int(batch.weights.sum())
        assert num_learned == num_documents * (40 - learned_from)
        assert len(batch.learned_rows) == len(batch.targets) == len(batch.weights)
        assert len(batch.learned_rows) % ROWS_MULTIPLE == 0
        assert len(batch.learned_rows) - max(num_learned, 1) < ROWS_MULTIPLE  # some even where nothing is learned
        assert batch.weights[:num_learned].all()


def test_rows_that_pad_change_neither_loss_nor_gradients() -> None:
    model = new_model(CONFIG, device=torch.device("cpu"), seed=0, std=0.1)
    prepare(model, compute_dtype=torch.float32, compiled=False, checkpointing=False)
    padded = microbatch_of((None,), random_documents([30, 40]), learned_from=20)
    assert padded.learned_rows is not None
    assert not padded.weights.all()
    num_learned = int(padded.weights.sum())
    bare = dataclasses.replace(
        padded,
        learned_rows=padded.learned_rows[:num_learned],
        targets=padded.targets[:num_learned],
        weights=padded.weights[:num_learned],
    )
    task = TextTask(LossRecipe(z_loss=1e-3))
    results = []
    for microbatch in (padded, bare):
        model.zero_grad()
        objective = task.objective(model, microbatch)
        objective.total.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append((objective.total.detach(), objective.weight, *objective.sums.values(), *gradients))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
