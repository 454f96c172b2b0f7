"""The card of a real run: every figure is one of the run's own files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.batches import recipe_text, write_learnable_set
from tramontane.cli import main
from tramontane.data.shards import read_manifest, write_manifest
from tramontane.training.metrics import read_rows
from tramontane.training.recipe import read_recipe
from tramontane.training.run import train

NUM_STEPS = 60  # of 128 tokens: the 1,600 of the data are read more than four times


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    for split in ("train", "valid"):
        folder = write_learnable_set(tmp_path / split)
        manifest = read_manifest(folder)
        [source] = manifest.sources
        marked = replace(source, provenance="made | by a program", licence="CC0")
        write_manifest(folder, replace(manifest, sources=(marked,)))
    text = recipe_text(tmp_path, num_steps=NUM_STEPS).replace("[data]", f'[data]\nvalid = ["{tmp_path / "valid"}"]')
    (tmp_path / "recipe.toml").write_text(text, "utf-8")
    return train(read_recipe(tmp_path / "recipe.toml")).run


def test_a_card_says_what_the_run_recorded(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    estimate = {"value": 0.25, "low": 0.2, "high": 0.3, "stderr": 0.02, "num_items": 400}
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"results": {"arc": {"headline": "acc", "metrics": {"acc": estimate}}}}))
    flags = ("--results", str(results), "--watts", "60", "--price-per-hour", "1")
    assert main.run(["card", str(finished), *flags, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    rows = [row for row in read_rows(finished / "metrics.jsonl") if row["kind"] == "train"]
    assert facts["training"]["tokens"] == rows[-1]["tokens"] == NUM_STEPS * 128
    assert facts["training"]["hours"] == pytest.approx(sum(128 / row["tokens_per_second"] for row in rows) / 3600)
    assert facts["training"]["kwh"] == pytest.approx(0.06 * facts["training"]["hours"])
    assert main.run(["card", str(finished), *flags]) == 0
    text = (finished / "model" / "README.md").read_text("utf-8")
    [source] = facts["data"]
    assert source["epochs"] == pytest.approx(NUM_STEPS * 128 / source["num_tokens"])
    assert "made \\| by a program | CC0 |" in text
    assert "| arc | acc | 0.2500 | 0.2000 to 0.3000 | 400 |" in text
    assert "Seen more than 4 times, and perhaps learned by heart: chain." in text
    assert "Seed 0; tokenizer sha256 `t`" in text
    assert "bits per byte" in text
    assert "muon_lr = 0.02" in text


def test_a_share_above_the_whole_is_not_repeated(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of version 0.1.0 recorded such ones."""
    metrics = finished / "metrics.jsonl"
    rows = [row | {"share_of_peak": 9.9} if row["kind"] == "train" else row for row in read_rows(metrics)]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert main.run(["card", str(finished)]) == 0
    assert "hours of updates (evaluation and saving not counted)\n" in (finished / "model" / "README.md").read_text(
        "utf-8"
    )


@pytest.mark.parametrize(("num_steps", "few"), [(2, True), (150, False)])
def test_a_run_from_a_checkpoint_on_few_tokens_is_said_to_be_so(
    num_steps: int, few: bool, finished: Path, tmp_path: Path
) -> None:
    text = recipe_text(tmp_path, run=tmp_path / "further", num_steps=num_steps)
    data, rest = text.split("[model]")
    text = f'{data}[model]\ncheckpoint = "{finished / "model"}"\n{rest[rest.index("[schedule]") :]}'
    (tmp_path / "further.toml").write_text(text, "utf-8")
    run = train(read_recipe(tmp_path / "further.toml")).run
    assert main.run(["card", str(run)]) == 0
    said = (run / "model" / "README.md").read_text("utf-8")
    num_tokens = read_rows(run / "metrics.jsonl")[-1]["tokens"]
    assert num_tokens <= num_steps * 128
    assert (f"fine-tuned on {num_tokens:,} tokens, fewer than it has weights" in said) is few


def test_what_was_not_recorded_is_said_to_be_so(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["card", str(finished), "--out", str(tmp_path / "card.md")]) == 0
    text = (tmp_path / "card.md").read_text("utf-8")
    assert "- energy: not recorded" in text
    assert "It has not been evaluated beyond the held-out text above." in text
    for arguments in (["card", str(tmp_path)], ["card", str(finished), "--results", str(tmp_path / "card.md")]):
        capsys.readouterr()
        assert main.run(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
