"""Whole runs on shards that are learned in seconds: they learn, stop, resume bit for bit, and survive kill -9."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.batches import recipe_text, write_learnable_set
from tramontane.errors import CheckpointError, ConfigError, DataError
from tramontane.loading import load_model, open_checkpoint
from tramontane.training.assembly import choose_machine
from tramontane.training.checkpointer import Checkpointer, read_state
from tramontane.training.distributed import World
from tramontane.training.metrics import read_rows
from tramontane.training.recipe import Recipe, read_recipe
from tramontane.training.run import RunResult, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_learnable_set(folder / "train")
    write_learnable_set(folder / "valid", num_documents=8, seed=1)
    return folder


def recipe(tmp_path: Path, data: Path, *changes: str, run: str = "run") -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(tmp_path, train=data / "train"), "utf-8")
    return read_recipe(path, [f"run='{tmp_path / run}'", f"data.valid=['{data / 'valid'}']", *changes])


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "train"]


def final_state(run: Path) -> dict[str, torch.Tensor]:
    newest = Checkpointer(run, keep=1).newest()
    assert newest is not None
    return dict(read_state(newest).tensors)


def test_a_run_learns_reports_and_releases_a_model(tmp_path: Path, data: Path) -> None:
    result = train(recipe(tmp_path, data, "schedule.num_steps=40", "metrics.valid_every_steps=20"))
    run = tmp_path / "run"
    assert (result.step, result.stopped_by) == (40, None)
    assert losses(run)[0] == pytest.approx(math.log(101), rel=0.05)
    assert result.loss < 2.5
    rows = read_rows(run / "metrics.jsonl")
    held_out = [row for row in rows if row["kind"] == "held_out"]
    assert [row["step"] for row in held_out] == [20, 40]
    assert held_out[1]["loss"] < held_out[0]["loss"]
    assert held_out[1]["bits_per_byte"] == pytest.approx(held_out[1]["loss"] / math.log(2) / 3)
    assert all(row["tokens_per_second"] > 0 and 0 < row["share_of_peak"] <= 1 for row in rows if row["kind"] == "train")
    assert (run / "loss.svg").read_text("utf-8").startswith("<svg")
    model = load_model(open_checkpoint(run / "model"), device="cpu")
    trained = final_state(run)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, trained[f"weights/{name}"])


@pytest.mark.parametrize(
    ("instructions", "chosen"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)],
    ids=str,
)
def test_it_computes_in_what_the_processor_multiplies_fast(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, instructions: dict[str, bool], chosen: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    world = World(device=torch.device("cpu"))
    assert choose_machine(recipe(tmp_path, data), world).dtype == chosen
    assert choose_machine(recipe(tmp_path, data, "machine.dtype=float32"), world).dtype == torch.float32


OPTIONS: list[Sequence[str]] = [
    ("optimizer.kind=adamw",),
    ("optimizer.ema_decay=0.9", "optimizer.normalise_rows=true", "data.policy=whole", "machine.dtype=bfloat16"),
    ("model.num_experts=3", "machine.activation_checkpointing=true"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, data: Path, options: Sequence[str]
) -> None:
    train(recipe(tmp_path, data, *options, run="whole"))
    parts = recipe(tmp_path, data, *options, "checkpoint.every_steps=5", run="parts")
    for step in (1, 7):
        stop_after(parts, step)
    result = train(parts, resume=True)
    assert (result.step, result.stopped_by) == (12, None)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole, resumed = final_state(tmp_path / "whole"), final_state(tmp_path / "parts")
    assert set(whole) == set(resumed)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def stop_after(recipe: Recipe, step: int) -> RunResult:
    """Train until `step` updates are done, then ask for a stop as Ctrl-C does."""
    from tramontane.training import trainer as module

    update = module.Trainer.update

    def stopping(self: module.Trainer) -> Any:
        result = update(self)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Trainer, "update", stopping)
        result = train(recipe, resume=True)
    assert (result.step, result.stopped_by) == (step, "SIGINT")
    return result


def test_a_run_stops_in_time_and_goes_on(tmp_path: Path, data: Path) -> None:
    short = recipe(tmp_path, data, "schedule.num_steps=100000", "schedule.warmup_steps=1")
    start = time.monotonic()
    result = train(short, max_seconds=3.0)
    assert result.stopped_by == "time"
    assert 0 < result.step < 100000
    assert time.monotonic() - start < 60
    again = train(short, resume=True, max_seconds=3.0)
    assert again.step > result.step


def test_a_finished_wsd_run_is_extended_without_its_decay(tmp_path: Path, data: Path) -> None:
    options = ["checkpoint.keep_every_steps=8", "checkpoint.every_steps=4", "checkpoint.keep=1"]
    train(recipe(tmp_path, data, *options, "schedule.decay_fraction=0.25"))
    longer = recipe(tmp_path, data, *options, "schedule.num_steps=20", "schedule.decay_fraction=0.25")
    Checkpointer(tmp_path / "run", keep=1).path(12).rename(tmp_path / "decayed")
    result = train(longer, resume=True)
    assert (result.step, result.stopped_by) == (20, None)
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert {(row["lr"], row["muon_lr"]) for row in rows[2:15]} == {(0.01, 0.02)}


def go_on(path: Path) -> None:
    """In a process of its own: train or resume."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    train(read_recipe(path, KILLED), resume=True)


NUM_KILLS = 10
KILLED = ["checkpoint.every_steps=2", "schedule.num_steps=60"]


def test_ten_kills_at_random_moments_lose_two_steps_each_at_most(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(tmp_path, train=data / "train"), "utf-8")
    train(read_recipe(path, [*KILLED, f"run='{tmp_path / 'whole'}'"]))
    run, checkpointer = tmp_path / "run", Checkpointer(tmp_path / "run", keep=2)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.training.test_run", "torch._dynamo"])  # what every start would import
    moments = random.Random(0)
    for _ in range(NUM_KILLS):
        before = len(losses(run))
        child = processes.Process(target=go_on, args=(path,))
        child.start()
        started = time.monotonic()
        while len(losses(run)) in (0, before) and child.is_alive():
            assert time.monotonic() - started < 120
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        child.kill()
        child.join()
        reported = len(losses(run))
        newest = checkpointer.newest()
        # the report of a step comes before its checkpoint is written
        assert reported - (checkpointer.steps() or [0])[-1] <= 2
        if newest is not None:
            assert read_state(newest).values["step"] == checkpointer.steps()[-1]
            load_model(open_checkpoint(newest), device="cpu")
    assert train(read_recipe(path, KILLED), resume=True).stopped_by is None
    assert losses(run) == losses(tmp_path / "whole")
    assert [path.name for path in (run / "checkpoints").glob(".*")] == []
    for name, tensor in final_state(tmp_path / "whole").items():
        assert torch.equal(final_state(run)[name], tensor)


def test_samples_are_made_from_each_checkpoint(tmp_path: Path, data: Path) -> None:
    seen: list[Path] = []

    def sampler(checkpoint: Path, prompts: tuple[str, ...]) -> list[str]:
        seen.append(checkpoint)
        return [prompt.upper() for prompt in prompts]

    train(
        recipe(tmp_path, data, "metrics.sample_prompts=['hello']", "checkpoint.every_steps=6"),
        sampler=sampler,
    )
    assert [path.name for path in seen] == ["step-00000006", "step-00000012"]
    texts = [row["text"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "sample"]
    assert texts == ["'hello' -> 'HELLO'"] * 2


def test_weights_are_split_into_small_files(tmp_path: Path, data: Path) -> None:
    train(recipe(tmp_path, data, "checkpoint.max_shard_mib=0.02", "schedule.num_steps=3"))
    files = sorted((tmp_path / "run" / "model").glob("*.safetensors"))
    assert len(files) > 1
    assert max(path.stat().st_size for path in files) < 0.03 * 2**20
    load_model(open_checkpoint(tmp_path / "run" / "model"), device="cpu")


def test_mistakes_are_reported_before_anything_is_written(tmp_path: Path, data: Path) -> None:
    for change, words in [
        ("model.vocab_size=50", "raise model.vocab_size"),
        ("data.train=['absent']", "manifest.json"),
        ("data.tokenizer='absent'", "neither a tokenizer file"),
        ("model.n_heads=3", "whole multiple|must"),
        ("machine.device=tpu", "device 'tpu'"),
        ("metrics.tensorboard=true", "tensorboard"),
    ]:
        with pytest.raises((ConfigError, DataError), match=words):
            train(recipe(tmp_path, data, change, "model.n_kv_heads=2" if "n_heads" in change else "seed=0"))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_folder_is_never_overwritten_by_another_run(tmp_path: Path, data: Path) -> None:
    train(recipe(tmp_path, data, "schedule.num_steps=2"))
    with pytest.raises(ConfigError, match="already holds step-00000002"):
        train(recipe(tmp_path, data))
    with pytest.raises(ConfigError, match=r"seed is 5 here and 0 in the run; model\.hidden_dim is 64 here"):
        train(recipe(tmp_path, data, "model.hidden_dim=64", "seed=5"), resume=True)
    (tmp_path / "run" / "recipe.toml").unlink()  # what follows is seen without it too
    with pytest.raises(CheckpointError, match="has shape"):
        train(recipe(tmp_path, data, "model.hidden_dim=64"), resume=True)
    with pytest.raises(CheckpointError, match="trains other weights"):
        train(recipe(tmp_path, data, "model.n_layers=3"), resume=True)
    with pytest.raises(DataError, match="other data"):
        train(recipe(tmp_path, data, "seed=5"), resume=True)


def test_a_loss_that_stays_infinite_ends_the_run(tmp_path: Path, data: Path) -> None:
    wild = recipe(
        tmp_path, data, "optimizer.lr=1e38", "schedule.num_steps=60", "schedule.warmup_steps=0", "optimizer.kind=adamw"
    )
    with pytest.raises(ConfigError, match="lower the learning rate"):
        train(wild)
