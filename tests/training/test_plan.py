"""Plans: the rule is kept, and so are budgets; the machine is measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tests.model.tiny import tiny_config
from tramontane.cli import main
from tramontane.errors import ConfigError
from tramontane.training.flops import training_flops
from tramontane.training.plan import (
    Machine,
    plan_budget,
    plan_tokens,
    require_positive,
    shape_of_size,
)
from tramontane.training.throughput import measure_throughput


@pytest.mark.parametrize("hours", [1, 24, 24 * 30])
@pytest.mark.parametrize("flops_per_s", [80e9, 400e12])
def test_a_budget_is_spent_on_about_twenty_tokens_a_weight(hours: float, flops_per_s: float) -> None:
    runs = plan_budget(hours * 3600 * flops_per_s, Machine(flops_per_s), vocab_size=8192)
    assert 20 / 1.7 < runs[0].tokens_per_weight < 20 * 1.7  # sizes go in steps
    sizes = [run.num_parameters for run in runs]
    assert sizes == sorted(sizes, reverse=True)
    assert [run.tokens_per_weight for run in runs] == sorted(run.tokens_per_weight for run in runs)


def test_a_data_set_is_planned_for_by_the_same_rule() -> None:
    runs = plan_tokens(1.4e12, Machine(400e12), vocab_size=32000)
    assert runs[0].num_parameters == pytest.approx(70e9, rel=0.05)  # Chinchilla itself
    assert {run.num_tokens for run in runs} == {1.4e12}


def test_what_is_too_little_for_any_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="too few to train any"):
        plan_budget(60 * 80e9, Machine(80e9), vocab_size=8192)
    with pytest.raises(ConfigError, match="50,000 tokens for the smallest model of 8,192 different tokens"):
        plan_tokens(5e4, Machine(80e9), vocab_size=8192)


def test_shapes_come_near_any_size_and_can_be_built() -> None:
    for size in (2e6, 15.7e6, 110e6, 1e9, 7e9):
        recipe = shape_of_size(size, 8192)
        config = recipe.config(8192)
        assert config.num_parameters() == pytest.approx(size, rel=0.35)
        assert recipe.n_heads % recipe.n_kv_heads == 0
        assert recipe.n_heads / recipe.n_kv_heads <= 8


def test_runs_keep_the_budget() -> None:
    machine = Machine(80e9, watts=50, price_per_hour=2.0)
    lens = {"document_len": 512, "microbatch_len": 4096}
    runs = plan_budget(1000 * 3600 * 80e9, machine, vocab_size=8192, **lens)
    assert len(runs) == 4
    for run in runs:
        assert run.seconds == pytest.approx(3.6e6)
        assert run.energy_kwh == pytest.approx(50)
        assert run.price == pytest.approx(2000)
        spent = run.num_tokens * training_flops(run.config, (512,)) / 512
        assert spent == pytest.approx(3.6e6 * 80e9)
    with pytest.raises(ConfigError, match="hours=-1 must be a number above 0"):
        require_positive(hours=-1)


def test_throughput_is_that_of_real_updates() -> None:
    config = tiny_config(sliding_windows=32)
    found = measure_throughput(config, torch.device("cpu"), microbatch_len=128, document_len=64, seconds=0.1)
    assert found.tokens_per_s > 0
    assert found.flops_per_s == pytest.approx(found.tokens_per_s * training_flops(config, (64,)) / 64)
    assert 0 < found.share_of_peak <= 1


def test_the_verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str, code: int = 0) -> Any:
        assert main.run(["plan", *arguments]) == code
        return capsys.readouterr()

    flags = ("--price-per-hour", "2", "--watts", "700")
    planned = json.loads(run("--budget", "100", "--tflops", "400", *flags, "--json").out)
    assert planned["runs"][0]["price"] == pytest.approx(100)
    assert planned["runs"][0]["energy_kwh"] == pytest.approx(35)
    text = run("--tokens", "3e8", "--epochs", "6", "--tflops", "0.08").out
    assert "The first comes nearest to 20 tokens a weight" in text
    assert "loss" not in text
    assert not any("loss" in name for name in planned["runs"][0])
    assert "beyond 4, text seen again is worth less" in text
    assert "--budget needs --price-per-hour" in run("--budget", "3", code=2).err
    assert "give one of --hours, --budget, --tokens, --data, not --hours and --tokens" in (
        run("--hours", "3", "--tokens", "1e9", code=2).err
    )
    monkeypatch.setattr("tramontane.cli.plan.MEASURED_PARAMETERS", 6e5)
    measured = json.loads(run("--hours", "1", "--vocab-size", "512", "--json").out)["machine"]
    assert measured["flops_per_s"] == pytest.approx(measured["share_of_peak"] * measured["matmul_flops_per_s"])
