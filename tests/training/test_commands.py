"""The verbs, from a file of conversations or a recipe to a model that has learned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.training.batches import recipe_text, write_learnable_set
from tramontane.cli.main import run
from tramontane.data.shards import ShardSet
from tramontane.errors import ConfigError
from tramontane.loading import load_model, open_checkpoint
from tramontane.training.__main__ import main
from tramontane.training.adapters import load_adapter
from tramontane.training.finetune import FinetuneOptions, finetune_recipe
from tramontane.training.metrics import read_rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def conversations(path: Path, count: int = 24) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n}?"},
                {"role": "assistant", "content": "A number, sir."},
            ]
        }
        for n in range(count)
    ]
    return write_jsonl(path, rows)


def train_losses(run_folder: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run_folder / "metrics.jsonl") if row["kind"] == "train"]


def test_an_adapter_learns_from_conversations_and_resumes(
    tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = conversations(tmp_path / "chat.jsonl")
    command = ["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run"), "--epochs", "12"]
    command += ["--lr", "0.02", "--rank", "4", "--valid", str(conversations(tmp_path / "valid.jsonl", 4)), "--json"]
    assert run([*command, "--max-seconds", "0.01"]) == 75
    stopped = json.loads(capsys.readouterr().out)
    assert (stopped["stopped_by"], stopped["step"], stopped["model"]) == ("time", 1, None)
    assert run([*command, "--resume"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["stopped_by"] is None
    losses = train_losses(tmp_path / "run")
    assert losses[-1] < 0.5 * losses[0]
    held_out = [row["loss"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "held_out"]
    assert held_out[-1] < 0.9 * held_out[0]
    model = load_model(open_checkpoint(chat_checkpoint), device="cpu")
    config = load_adapter(model, tmp_path / "run" / "model")
    assert (config.ranks, config.base) == ((4,), str(chat_checkpoint))


def test_all_weights_learn_and_the_model_is_whole(tmp_path: Path, chat_checkpoint: Path) -> None:
    data = conversations(tmp_path / "chat.jsonl")
    command = ["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run"), "--method", "full"]
    assert run([*command, "--epochs", "6", "--lr", "0.01", "--set", "checkpoint.dtype=float32"]) == 0
    losses = train_losses(tmp_path / "run")
    assert losses[-1] < 0.7 * losses[0]
    model = load_model(open_checkpoint(tmp_path / "run" / "model"), device="cpu")
    assert model.config == open_checkpoint(chat_checkpoint).config
    assert (tmp_path / "run" / "model" / "tekken.json").exists()


@pytest.mark.parametrize("task", ["preference", "classify"])
def test_pairs_and_labels_have_their_verbs_too(task: str, tmp_path: Path, chat_checkpoint: Path) -> None:
    if task == "preference":
        rows: list[dict[str, Any]] = [
            {"messages": [{"role": "user", "content": f"Q{n}"}], "chosen": "yes", "rejected": "no"} for n in range(6)
        ]
    else:
        rows = [{"text": f"{'good' if n % 2 else 'bad'} {n}", "labels": {"mood": str(n % 2)}} for n in range(6)]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert run(["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run"), "--task", task]) == 0
    names = {path.name for path in (tmp_path / "run" / "model").iterdir()}
    assert "adapter_model.safetensors" in names
    assert ("classifier.safetensors" in names) == (task == "classify")


def test_nothing_starts_until_the_file_is_sound(
    tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = conversations(tmp_path / "chat.jsonl", 3)
    data.write_text(data.read_text("utf-8") + '{"messages": []}\n', "utf-8")
    assert run(["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "chat.jsonl" in error
    assert "line 4" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_file_is_checked_and_its_training_estimated_before_it_begins(
    tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = conversations(tmp_path / "chat.jsonl", 8)
    command = ["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run"), "--epochs", "2"]
    assert run([*command, "--check", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert expected["train_tokens"] == 2 * expected["data_tokens"]
    assert expected["train_tokens_per_step"] == round(expected["train_tokens"] / expected["num_steps"])
    assert expected["epochs"] == 2.0
    assert 0 < expected["expected_seconds"] < 600
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert run([*command, "--check"]) == 0
    assert "on this machine. --resume begins." in capsys.readouterr().out
    assert run([*command, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == expected["num_steps"]


@pytest.mark.parametrize(("epochs", "words"), [("1", "1 time in 1 update of"), ("8", r"8 times in \d updates of")])
def test_a_check_says_how_often_in_good_words(
    epochs: str, words: str, tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = conversations(tmp_path / "chat.jsonl", 2)
    command = ["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run"), "--epochs", epochs]
    assert run([*command, "--check"]) == 0
    told = capsys.readouterr().out
    assert re.search(f"each sample seen {words} about", told)
    assert re.search(r"about 0\.\d minutes and [\d.]+ MB of memory on this machine\. --resume begins\.$", told.strip())


def test_files_of_any_shape_with_weights_and_a_share_held_out(
    tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, texts = tmp_path / "faq.csv", tmp_path / "texts.json"
    table.write_text("id,question,answer\n" + "".join(f"{n},Q{n},A{n}\n" for n in range(8)))
    texts.write_text(json.dumps([{"text": "x" * 40}, {"text": "y" * 40}]))
    command = ["finetune", str(chat_checkpoint), f"{table}:2", str(texts), "--run", str(tmp_path / "run"), "--check"]
    options = ["--valid", "20%", "--max-len", "24", "--too-long", "split"]
    assert run([*command, *options, "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert notes == [
        "faq.csv: read as questions and answers (columns such as prompt and completion): 8",
        "faq.csv: keys without a meaning for training, passed over: id (8)",
        "texts.json: read as texts to learn whole (text): 2",
        "texts.json: longer than 24 tokens, split: 2",
    ]
    train, valid = (ShardSet([tmp_path / "run" / "data" / split]).sources["samples"] for split in ("train", "valid"))
    assert valid.info.num_documents >= 2
    assert train.info.num_documents > 8
    assert run([*command, *options]) == 0
    assert capsys.readouterr().out.startswith(notes[0])
    for valid_option in ("150%", "0"):
        assert run([*command, "--valid", valid_option]) == 2
        assert "must be a file, or a share between 0 and 1" in capsys.readouterr().err


def rows_of(task: str, count: int) -> list[dict[str, Any]]:
    """Samples of very different lengths."""
    words = [" ".join(["word"] * (1 + n * n % 97)) for n in range(count)]
    if task == "preference":
        question = [{"role": "user", "content": "Q"}]
        return [{"messages": question, "chosen": f"yes {each}", "rejected": f"no {each}"} for each in words]
    if task == "classify":
        return [{"text": each, "labels": {"size": "long" if len(each) > 200 else "short"}} for each in words]
    return [{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": each}]} for each in words]


@pytest.mark.parametrize("task", ["chat", "preference", "classify"])
def test_a_run_trains_on_all_samples_as_often_as_its_epochs_say(
    task: str, tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", rows_of(task, 41))
    command = ["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run"), "--task", task]
    command += ["--epochs", "2", "--rank", "2", "--json"]
    assert run([*command, "--check"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert run([*command, "--resume"]) == 0
    last = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"][-1]
    shards = ShardSet([tmp_path / "run" / "data" / "train"])
    data_tokens = sum(source.info.num_token_ids for source in shards.sources.values())
    assert last["tokens"] == expected["train_tokens"] == 2 * expected["data_tokens"] == 2 * data_tokens
    assert last["step"] == expected["num_steps"]
    assert expected["padding_share"] < 0.06


def test_updates_may_be_given_in_place_of_epochs(
    tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = conversations(tmp_path / "chat.jsonl", 8)
    command = ["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run"), "--steps", "7", "--json"]
    assert run([*command, "--check"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert run([*command, "--resume"]) == 0
    last = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"][-1]
    assert (last["step"], last["tokens"]) == (7, expected["train_tokens"])
    assert expected["epochs"] == pytest.approx(expected["train_tokens"] / expected["data_tokens"], rel=0.1)


def test_other_batches_take_another_number_of_updates(
    tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", rows_of("chat", 41))
    command = ["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run"), "--json", "--check"]
    assert run(command) == 0
    usual = json.loads(capsys.readouterr().out)
    assert run([*command, "--set", "data.batch_len=1024", "--set", "data.microbatch_len=512"]) == 0
    fewer = json.loads(capsys.readouterr().out)
    assert fewer["num_steps"] < usual["num_steps"]
    assert fewer["train_tokens"] == usual["train_tokens"]
    assert run([*command, "--set", "schedule.num_steps=5"]) == 2
    assert "data.epochs=3 take" in capsys.readouterr().err


def test_a_check_gives_programs_every_problem(
    tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = conversations(tmp_path / "chat.jsonl", 2)
    data.write_text(data.read_text("utf-8") + '{"messages": []}\n' * 7, "utf-8")
    command = ["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run"), "--check", "--json"]
    assert run(command) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["num_valid"], found["num_invalid"]) == (str(data), 2, 7)
    assert [problem["line"] for problem in found["problems"]] == [3, 4, 5, 6, 7, 8, 9]
    assert not (tmp_path / "run").exists()


def test_a_run_with_checkpoints_is_not_begun_anew(
    tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = conversations(tmp_path / "chat.jsonl", 3)
    command = ["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run")]
    assert run([*command, "--epochs", "1"]) == 0
    assert run(command) == 2
    assert "already holds checkpoints" in capsys.readouterr().err


def test_a_recipe_is_trained_by_the_verb_and_by_the_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_learnable_set(tmp_path / "train")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text(tmp_path, num_steps=3), "utf-8")
    assert run(["pretrain", str(recipe)]) == 0
    assert main([str(recipe), "--set", f"run={tmp_path / 'again'}"]) == 0
    assert train_losses(tmp_path / "run") == train_losses(tmp_path / "again")
    assert main([str(recipe), "--set", f"run={tmp_path / 'third'}", "--max-seconds", "0.01"]) == 75
    capsys.readouterr()
    for call in (run, main):
        arguments = [str(recipe), "--set", "optimizer.speed=1"]
        assert call(["pretrain", *arguments] if call is run else arguments) == 2
        assert "unknown key 'speed'" in capsys.readouterr().err


def test_choices_follow_the_data(tmp_path: Path, chat_checkpoint: Path) -> None:
    data = conversations(tmp_path / "chat.jsonl", 200)
    options = FinetuneOptions(model=chat_checkpoint, data=data, run=tmp_path / "run", epochs=2.0)
    recipe = finetune_recipe(options)
    assert recipe.lora is not None
    assert recipe.lora.alpha == 32.0
    assert 2 * 10 <= recipe.schedule.num_steps <= 2 * 20
    assert recipe.data.batch_len % recipe.data.microbatch_len == 0
    with pytest.raises(ConfigError, match="no folder of float weights"):
        finetune_recipe(FinetuneOptions(model=data, data=data, run=tmp_path / "run"))
    with pytest.raises(ConfigError, match="epochs=0"):
        finetune_recipe(FinetuneOptions(model=chat_checkpoint, data=data, run=tmp_path / "run", epochs=0))
    context = open_checkpoint(chat_checkpoint).config.max_seq_len
    with pytest.raises(ConfigError, match=f"max_len={context + 1} is more than the {context} tokens"):
        finetune_recipe(FinetuneOptions(model=chat_checkpoint, data=data, run=tmp_path / "run", max_len=context + 1))


def test_a_run_is_gone_on_with_only_as_it_was_begun(
    tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = conversations(tmp_path / "chat.jsonl", 8)
    other = conversations(tmp_path / "other.jsonl", 9)
    folder = ["--run", str(tmp_path / "run")]
    begun = ["finetune", str(chat_checkpoint), str(data), *folder, "--epochs", "2", "--rank", "4", "--seed", "3"]
    assert run([*begun, "--max-seconds", "0.01"]) == 75
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("stopped by time after step 1; go on with: tramontane finetune")
    assert said[-1].endswith("--resume")
    assert said[-2].startswith("step 1  loss ")
    short = ["finetune", str(chat_checkpoint), str(data), *folder, "--resume"]
    for changed, named in (
        (["--rank", "8"], "--rank is 8 here and 4 in the run"),
        (["--lr", "0.1"], "--lr is 0.1 here and 0.0005 in the run"),
        (["--epochs", "3"], "--epochs is 3.0 here and 2.0 in the run"),
        (["--steps", "3"], "--steps is 3 here and left out in the run"),
        (["--method", "full", "--seed", "4"], "--method is full here and lora in the run; --seed is 4 here and 3"),
        (["--valid", str(other)], "--valid is"),
        (["--max-len", "99"], "--max-len is 99 here and 512 in the run"),
    ):
        assert run([*short, *changed]) == 2
        error = capsys.readouterr().err
        assert named in error
        assert error.count("\n") == 1
    assert run(["finetune", str(chat_checkpoint), str(other), *folder, "--resume"]) == 2
    assert f"DATA is {other}" in capsys.readouterr().err
    moved = tmp_path / "moved.jsonl"
    data.rename(moved)
    assert run([*begun[:2], str(moved), *begun[3:], "--resume", "--device", "cpu"]) == 0  # the same samples elsewhere
    capsys.readouterr()
    assert run(short) == 0  # the file is gone, the run has what it needs
    again = capsys.readouterr()
    assert "already finished: trained for" in again.out
    assert "nan" not in again.out
    assert not again.err
    assert run([*short, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["was_finished"], result["stopped_by"]) == (True, None)
    assert result["loss"] == train_losses(tmp_path / "run")[-1]


def test_a_file_that_was_changed_is_another(
    tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = conversations(tmp_path / "chat.jsonl", 4)
    command = ["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run")]
    assert run([*command, "--check"]) == 0
    conversations(data, 5)
    assert run([*command, "--resume"]) == 2
    assert "DATA is" in capsys.readouterr().err


def test_a_run_goes_on_where_it_was_moved_to(tmp_path: Path, chat_checkpoint: Path) -> None:
    data = conversations(tmp_path / "chat.jsonl", 4)
    command = ["finetune", str(chat_checkpoint), str(data), "--epochs", "1"]
    assert run([*command, "--run", str(tmp_path / "run"), "--check"]) == 0
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert run([*command, "--run", str(tmp_path / "elsewhere"), "--resume"]) == 0
    assert (tmp_path / "elsewhere" / "model").is_dir()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--rank", "0", "rank=0"),
        ("--lr", "0", "lr=0"),
        ("--lr", "nan", "lr=nan"),
        ("--epochs", "0", "epochs=0"),
        ("--epochs", "nan", "epochs=nan"),
        ("--steps", "0", "steps=0"),
        ("--max-len", "3", "longer than|more than 3"),
        ("--weight-format", "q3_x", "q3_x"),
        ("--device", "cuda:99", "cuda"),
        ("--valid", "absent.jsonl", "absent.jsonl"),
        ("--set", "lora.targets=['wx']", "wx"),
        ("--set", "lora.dropout=1.0", "dropout=1.0"),
        ("--set", "data.batch_len=100", "batch_len=100"),
        ("--set", "optimizer.betas=[1.0, 0.9]", "betas"),
        ("--set", "model.weight_format=q3_x", "q3_x"),
    ],
)
def test_a_check_refuses_what_training_would(
    option: str, value: str, told: str, tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = conversations(tmp_path / "chat.jsonl", 4)
    command = ["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run"), option, value]
    assert run([*command, "--check"]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error)
    assert error.count("\n") == 1
    assert run(command) == 2
    assert re.search(told, capsys.readouterr().err)
