"""Two processes, weights sharded with FSDP2 over gloo, equal one process; they also resume."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.training.batches import recipe_text, write_learnable_set
from tests.training.test_run import final_state, losses
from tramontane.data.shards import ShardSet, read_manifest
from tramontane.training.checkpointer import Checkpointer
from tramontane.training.metrics import read_rows
from tramontane.training.recipe import read_recipe
from tramontane.training.run import train
from tramontane.training.sample_stream import Samples
from tramontane.training.streams import steps_of_epochs


def run_two(recipe: Path, changes: Sequence[str]) -> None:
    options = [option for change in changes for option in ("--set", change)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "tramontane.training", str(recipe), "--resume", *options],
        env={**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("options", [("optimizer.normalise_rows=true", "optimizer.ema_decay=0.9")], ids=str)
def test_two_processes_equal_one_also_after_resuming(tmp_path: Path, options: Sequence[str]) -> None:
    write_learnable_set(tmp_path / "train")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text(tmp_path), "utf-8")
    # float32 on every processor: bfloat16 rounds sums of two processes differently
    common = [*options, "machine.dtype=float32", "schedule.kind=constant", f"data.valid=['{tmp_path / 'train'}']"]
    train(read_recipe(recipe, [*common, f"run='{tmp_path / 'one'}'"]))
    two = [*common, f"run='{tmp_path / 'two'}'", "checkpoint.every_steps=7"]
    run_two(recipe, two)
    Checkpointer(tmp_path / "two", keep=1).path(12).rename(tmp_path / "taken away")
    run_two(recipe, two)
    torch.testing.assert_close(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=0, atol=1e-5)
    one, two_states = final_state(tmp_path / "one"), final_state(tmp_path / "two")
    for name, tensor in one.items():
        if name.startswith(("weights/", "ema/")):
            torch.testing.assert_close(two_states[name], tensor, rtol=1e-3, atol=1e-5)


def test_two_processes_see_all_samples_as_one_does_and_end_together(tmp_path: Path) -> None:
    write_learnable_set(tmp_path / "train", num_documents=53)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text(tmp_path, num_steps=25), "utf-8")
    common = ["machine.dtype=float32", "data.epochs=2", "data.policy=whole", "optimizer.kind=adamw"]
    common += ["data.batch_len=128", "data.microbatch_len=64"]
    read = read_recipe(recipe, [*common, f"run='{tmp_path / 'one'}'"])
    num_steps = steps_of_epochs(read.data, ShardSet([tmp_path / "train"]), read.seed)
    num_batches = Samples(ShardSet([tmp_path / "train"])).count(64, 2, read.seed).num_batches
    assert num_batches % 2 == 1  # one process has nothing but padding in the last update
    common.append(f"schedule.num_steps={num_steps}")
    train(read_recipe(recipe, [*common, f"run='{tmp_path / 'one'}'"]))
    run_two(recipe, [*common, f"run='{tmp_path / 'two'}'"])
    tokens = [[row["tokens"] for row in read_rows(tmp_path / name / "metrics.jsonl")] for name in ("one", "two")]
    assert tokens[0] == tokens[1]
    assert tokens[0][-1] == 2 * read_manifest(tmp_path / "train").sources[0].num_token_ids
    torch.testing.assert_close(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=0, atol=1e-5)
