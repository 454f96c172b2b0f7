"""A run is gone on with as it was begun: other keys of its recipe are named and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.batches import recipe_text, write_learnable_set
from tramontane.cli.main import run
from tramontane.training.__main__ import main
from tramontane.training.metrics import read_rows
from tramontane.training.recipe import read_recipe


@pytest.fixture
def begun(tmp_path: Path) -> list[str]:
    """The command line of a run of twelve updates that was stopped after the first."""
    write_learnable_set(tmp_path / "train")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text(tmp_path), "utf-8")
    assert run(["pretrain", str(recipe), "--max-seconds", "0.01"]) == 75
    return ["pretrain", str(recipe), "--resume"]


def test_other_keys_are_named_and_refused(begun: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for changes, told in (
        (["optimizer.lr=0.5"], "optimizer.lr is 0.5 here and 0.01 in the run."),
        (["seed=7", "loss.z_loss=0.1"], "seed is 7 here and 0 in the run; loss.z_loss is 0.1 here and 0.0 in the run."),
        (["data.batch_len=1024"], "data.batch_len is 1024 here and"),
        (["data.tokenizer=elsewhere"], "data.tokenizer is 'elsewhere' here and left out in the run"),
        (["optimizer.ema_decay=0.9"], "optimizer.ema_decay is 0.9 here and left out in the run"),
        (["schedule.warmup_steps=9"], "schedule.warmup_steps is 9 here and"),
    ):
        for call, arguments in ((run, begun), (main, begun[1:])):
            assert call([*arguments, *(part for change in changes for part in ("--set", change))]) == 2
            error = capsys.readouterr().err
            assert told in error
            assert f"Go on with its own, {tmp_path / 'run' / 'recipe.toml'}, or choose another run folder" in error
            assert error.count("\n") == 1


def test_how_it_is_run_and_kept_may_change_and_counts(begun: list[str], tmp_path: Path) -> None:
    changes = ["machine.threads=1", "checkpoint.keep=1", "checkpoint.every_steps=3", "metrics.every_steps=2"]
    assert run([*begun, *(part for change in changes for part in ("--set", change))]) == 0
    resolved = read_recipe(tmp_path / "run" / "recipe.toml")
    assert (resolved.checkpoint.every_steps, resolved.metrics.every_steps) == (3, 2)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000012"]


def test_data_that_was_moved_is_the_same_data(begun: list[str], tmp_path: Path) -> None:
    elsewhere = ["--set", f"data.train=['{tmp_path / 'elsewhere'}']"]
    write_learnable_set(tmp_path / "elsewhere")
    assert run([*begun, *elsewhere]) == 2
    (tmp_path / "train").rename(tmp_path / "gone")
    assert run([*begun, *elsewhere]) == 0


def test_a_finished_run_says_so(begun: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(begun) == 0
    capsys.readouterr()
    assert run(begun) == 0
    assert "already finished: trained for 12 steps, loss " in capsys.readouterr().out
    assert run([*begun, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    last = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"][-1]
    assert (result["was_finished"], result["step"], result["loss"]) == (True, 12, last["loss"])
    assert main(begun[1:]) == 0
    assert "already finished, after step 12" in capsys.readouterr().err
    assert run([*begun, "--set", "optimizer.lr=0.5"]) == 2
    assert "optimizer.lr is 0.5 here" in capsys.readouterr().err
    assert run([*begun, "--set", "schedule.num_steps=40"]) == 2
    assert "put those after it aside" in capsys.readouterr().err
