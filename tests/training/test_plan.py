"""Plans: the optimum is one, budgets are kept, the machine is measured."""

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
    optimal_parameters,
    optimal_parameters_for_tokens,
    over_trained,
    plan_budget,
    predicted_loss,
    require_positive,
    shape_of_size,
    tokens_for_loss,
)
from tramontane.training.throughput import measure_throughput


@pytest.mark.parametrize("flops", [1e15, 1e18, 1e21, 6e23])
def test_no_other_size_has_a_lower_loss_at_the_same_compute(flops: float) -> None:
    best = optimal_parameters(flops)
    losses = [predicted_loss(best * factor, flops / (6 * best * factor)) for factor in (0.9, 1.0, 1.1)]
    assert losses[1] < min(losses[0], losses[2])
    assert optimal_parameters_for_tokens(flops / (6 * best)) == pytest.approx(best)


def test_chinchilla_s_own_budget_gives_about_twenty_tokens_a_weight() -> None:
    best = optimal_parameters(5.76e23)  # that of Chinchilla 70B; the replication puts the optimum near it
    assert 50e9 < best < 90e9
    assert 15 < 5.76e23 / (6 * best) / best < 30


def test_shapes_come_near_any_size_and_can_be_built() -> None:
    for size in (2e6, 15.7e6, 110e6, 1e9, 7e9):
        recipe = shape_of_size(size, 8192)
        config = recipe.config(8192)
        assert config.num_parameters() == pytest.approx(size, rel=0.35)
        assert recipe.n_heads % recipe.n_kv_heads == 0


def test_runs_keep_the_budget_and_longer_ones_reach_the_loss() -> None:
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
    assert runs[0].loss == min(run.loss for run in runs)
    for each in over_trained(runs, machine, **lens):
        assert each.run.loss == pytest.approx(runs[0].loss)
        assert each.extra_training > 1
        assert 0 < each.inference_saving < 1
        saved = each.break_even_tokens * (runs[0].inference_flops - each.run.inference_flops)
        assert saved == pytest.approx((each.extra_training - 1) * 3.6e6 * 80e9)
    assert tokens_for_loss(1e6, 1.0) is None
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
    assert "compute-optimal" in text
    assert "beyond 4, text seen again is worth less" in text
    assert "--budget needs --price-per-hour" in run("--budget", "3", code=2).err
    assert "give one of --hours, --budget, --tokens, --data, not --hours and --tokens" in (
        run("--hours", "3", "--tokens", "1e9", code=2).err
    )
    monkeypatch.setattr("tramontane.cli.plan.MEASURED_PARAMETERS", 6e5)
    measured = json.loads(run("--hours", "1", "--vocab-size", "512", "--json").out)["machine"]
    assert measured["flops_per_s"] == pytest.approx(measured["share_of_peak"] * measured["matmul_flops_per_s"])
