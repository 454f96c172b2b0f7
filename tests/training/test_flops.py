"""The machine's own rate, and the shares of it that are shown."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.training.batches import recipe_text, write_learnable_set
from tramontane.cli.main import run
from tramontane.training import flops
from tramontane.training.metrics import read_rows


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product that is timed takes a minute, as where other programs hold the processor."""
    seconds = itertools.count(0, 60)
    monkeypatch.setattr(
        flops, "time", SimpleNamespace(perf_counter=lambda: next(seconds), monotonic=lambda: next(seconds))
    )


@pytest.mark.usefixtures("disturbed")
def test_no_share_above_the_whole_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tramontane.cli.plan.MEASURED_PARAMETERS", 6e5)
    assert flops.measure_matmul_rate(torch.device("cpu"), torch.float32) < 1e6
    write_learnable_set(tmp_path / "train")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text(tmp_path, num_steps=4), "utf-8")
    assert run(["pretrain", str(recipe)]) == 0
    shares = [row["share_of_peak"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert len(shares) == 4
    assert max(shares) == 1
    assert run(["card", str(tmp_path / "run")]) == 0
    assert run(["plan", "--tokens", "1e8", "--vocab-size", "512"]) == 0
    told = capsys.readouterr()
    card = (tmp_path / "run" / "model" / "README.md").read_text("utf-8")
    assert "% of the machine's matrix products" in card
    shown = [float(share) for share in re.findall(r"([\d.]+)% of", told.out + told.err + card)]
    assert len(shown) >= 6
    assert max(shown) <= 100
    assert run(["plan", "--tokens", "1e8", "--vocab-size", "512", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["machine"]["share_of_peak"] == 1


def test_the_best_moment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One product of many is undisturbed: the rate is that one's."""
    lasting = itertools.chain([1.0, 1.0, 1e-3], itertools.repeat(1.0))
    clock = itertools.accumulate(itertools.chain.from_iterable((0.0, each) for each in lasting))
    steps = itertools.count(0, 0.01)
    monkeypatch.setattr(flops, "time", SimpleNamespace(perf_counter=lambda: next(clock), monotonic=lambda: next(steps)))
    assert flops.measure_matmul_rate(torch.device("cpu"), torch.float32) == pytest.approx(2 * 256**3 / 1e-3, rel=1e-6)
