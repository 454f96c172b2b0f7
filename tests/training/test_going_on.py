"""Training that goes on from an adapter: where it begins, what it is compared with, what it says of itself."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.model.tiny import tiny_model
from tests.training.test_commands import conversations, train_losses, write_jsonl
from tests.training.test_preference import microbatch, trl_loss
from tramontane import LLM
from tramontane.cli.main import run
from tramontane.loading import load_model, open_checkpoint
from tramontane.loading.adapter_files import read_adapter
from tramontane.model.lora import attach_lora, merge_lora
from tramontane.model.transformer import Transformer
from tramontane.training.adapters import load_adapter
from tramontane.training.model_setup import prepare
from tramontane.training.preference import PreferenceTask
from tramontane.training.recipe import TaskRecipe, read_recipe


@pytest.fixture(scope="module")
def taught(chat_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of rank 4 that has learned something."""
    folder = tmp_path_factory.mktemp("taught")
    command = [
        "finetune",
        str(chat_checkpoint),
        str(conversations(folder / "chat.jsonl")),
        "--run",
        str(folder / "run"),
    ]
    assert run([*command, "--epochs", "8", "--lr", "0.02", "--rank", "4"]) == 0
    return folder / "run" / "model"


def go_on(taught: Path, data: Path, folder: Path, *options: str) -> Path:
    assert run(["finetune", str(taught), str(data), "--run", str(folder), *options]) == 0
    return folder / "model"


def test_it_begins_where_the_adapter_ended(taught: Path, chat_checkpoint: Path, tmp_path: Path) -> None:
    data = conversations(tmp_path / "chat.jsonl")
    model = go_on(taught, data, tmp_path / "run", "--epochs", "1", "--lr", "1e-9")
    config = open_checkpoint(chat_checkpoint).config
    (before, old), (after, new) = read_adapter(taught, config), read_adapter(model, config)
    assert after == before
    assert after.base == str(chat_checkpoint)
    for name, tensor in old.items():
        torch.testing.assert_close(new[name], tensor, rtol=0, atol=1e-6)
    ended = train_losses(taught.parent)[-1]
    assert train_losses(tmp_path / "run")[0] < ended + 0.3 < train_losses(taught.parent)[0]
    assert run(["card", str(tmp_path / "run")]) == 0
    assert f"with the adapter `{taught}`" in (model / "README.md").read_text("utf-8")


def test_all_weights_go_on_from_the_merged_model(taught: Path, chat_checkpoint: Path, tmp_path: Path) -> None:
    data = conversations(tmp_path / "chat.jsonl")
    options = ("--epochs", "1", "--lr", "1e-9", "--method", "full", "--set", "checkpoint.dtype=float32")
    model = go_on(taught, data, tmp_path / "run", *options)
    expected = load_model(open_checkpoint(chat_checkpoint), dtype="float32")
    load_adapter(expected, taught)
    merge_lora(expected)
    found = load_model(open_checkpoint(model), dtype="float32")
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), rtol=0, atol=1e-5)


def test_the_reference_of_preferences_is_the_adapted_model() -> None:
    recipe = TaskRecipe(kind="preference", beta=0.3)
    model = tiny_model()
    attach_lora(model, rank=3, alpha=6.0, dropout=0.5)
    nudge(model, 2)
    reference = copy.deepcopy(model).eval()
    task = PreferenceTask(recipe, model, compute_dtype=torch.float32, compiled=False, goes_on=True)
    prepare(model, compute_dtype=torch.float32, compiled=False, checkpointing=False)
    model.eval()
    assert float(task.objective(model, microbatch(model)).sums["margin"]) == pytest.approx(0.0, abs=1e-5)
    nudge(model, 3)
    expected = trl_loss(copy.deepcopy(model), reference, recipe)
    torch.testing.assert_close(task.objective(model, microbatch(model)).total, expected, rtol=1e-4, atol=1e-5)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if ".lora." in name
    }


def nudge(model: Transformer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".lora.b"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def test_preferences_follow_samples(taught: Path, tmp_path: Path) -> None:
    rows = [
        {
            "messages": [{"role": "user", "content": f"What is {n}?"}],
            "chosen": "A number, madam.",
            "rejected": "A number, sir.",
        }
        for n in range(12)
    ]
    data = write_jsonl(tmp_path / "pairs.jsonl", rows)
    go_on(taught, data, tmp_path / "run", "--task", "preference", "--epochs", "6", "--lr", "0.01")
    losses = train_losses(tmp_path / "run")
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # log 2: policy and reference are the same at first
    assert losses[-1] < losses[0]


def test_a_run_resumes_from_the_same_adapter_or_not_at_all(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = shutil.copytree(taught, tmp_path / "start")
    data = conversations(tmp_path / "chat.jsonl")
    command = ["finetune", str(start), str(data), "--run", str(tmp_path / "run"), "--epochs", "4"]
    assert run([*command, "--max-seconds", "0.01"]) == 75
    assert read_recipe(tmp_path / "run" / "recipe.toml").model.adapter == str(start)
    weights = start / "adapter_model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + b"\0\0\0\1")
    assert run([*command, "--resume"]) == 2
    assert "has changed since the run began" in capsys.readouterr().err
    weights.write_bytes(kept)
    assert run([*command, "--resume"]) == 0


def test_what_would_make_it_another_adapter_is_refused_by_name(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = conversations(tmp_path / "chat.jsonl")
    command = ["finetune", str(taught), str(data), "--run", str(tmp_path / "run")]
    assert run([*command, "--rank", "8"]) == 2
    assert "rank=8 is not the adapter's, 4; leave it out" in capsys.readouterr().err
    assert run([*command, "--rank", "4", "--check"]) == 0


def test_a_classifier_goes_on_label_by_label(chat_checkpoint: Path, tmp_path: Path) -> None:
    def labelled(path: Path, moods: tuple[str, ...]) -> Path:
        rows = [{"text": f"{moods[n % len(moods)]} {n}", "labels": {"mood": moods[n % len(moods)]}} for n in range(24)]
        return write_jsonl(path, rows)

    first = labelled(tmp_path / "first.jsonl", ("glad", "sad"))
    options = ("--task", "classify", "--lr", "0.02")
    start = go_on(chat_checkpoint, first, tmp_path / "one", *options, "--epochs", "10")
    turned = labelled(tmp_path / "turned.jsonl", ("sad", "glad"))
    model = go_on(start, turned, tmp_path / "two", "--task", "classify", "--lr", "1e-9", "--epochs", "1")
    assert json.loads((model / "classifier.json").read_text("utf-8"))["targets"] == {"mood": ["sad", "glad"]}
    assert train_losses(tmp_path / "two")[0] < train_losses(tmp_path / "one")[0]
    more = labelled(tmp_path / "more.jsonl", ("calm", "sad", "glad"))
    go_on(start, more, tmp_path / "three", *options, "--epochs", "1")
    chat = ["finetune", str(start), str(conversations(tmp_path / "chat.jsonl")), "--run", str(tmp_path / "four")]
    assert run(chat) == 2


def test_an_adapter_gone_on_from_answers_with_its_base(taught: Path, tmp_path: Path) -> None:
    model = go_on(taught, conversations(tmp_path / "chat.jsonl"), tmp_path / "run", "--epochs", "2", "--lr", "0.01")
    answer = LLM(str(model), kv_cache_gib=0.01).chat([{"role": "user", "content": "What is 3?"}])
    assert answer.text.startswith("A number")
