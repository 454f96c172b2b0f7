"""An option that would change nothing where it stands is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tramontane.cli import main

EVAL = ["eval", "--text", "TEXT"]
SERVER = ["eval", "http://127.0.0.1:9", "--tasks", "piqa"]
TUNE = ["finetune", "default", "SAMPLES", "--run", "RUN"]


@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        (SERVER, ["--weight-format", "q4_0"], "--weight-format has no effect on a server"),
        (SERVER, ["--dtype", "auto", "--threads", "1"], "--dtype and --threads have no effect on a server"),
        (SERVER, ["--device", "cpu"], "--device has no effect on a server"),
        (SERVER, ["--base", "default"], "--base has no effect on a server"),
        (SERVER, ["--window", "64"], "--window has no effect where no text is measured"),
        (EVAL, ["--served-model", "x"], "--served-model has no effect on a model of this machine"),
        (EVAL, ["--data", "."], "--data has no effect on files of your own"),
        (EVAL, ["--window", "100000"], "window=100000 must lie between 1 and the"),
        (EVAL, ["--window", "0"], "window=0 must lie between 1 and the"),
        (EVAL, ["--window", "8", "--stride", "9"], "stride=9 must lie between 1 and window=8"),
        (["eval", "--tasks", "piqa"], ["--stride", "8"], "--stride has no effect where no text is measured"),
        (["eval", "--tasks", "list"], ["--limit", "3"], "--limit has no effect on the list of tasks"),
        (["eval", "compare", "a", "b"], ["--seed", "3"], "--seed has no effect on compare"),
        (["plan", "--hours", "1", "--tflops", "1"], ["--epochs", "2"], "--epochs has no effect on a budget"),
        (["plan", "--hours", "1", "--tflops", "1"], ["--threads", "1"], "--threads has no effect beside --tflops"),
        (["plan", "--tokens", "1e9", "--tflops", "1"], ["--device", "cpu"], "--device has no effect beside --tflops"),
        (["plan", "--data", "."], ["--vocab-size", "8192"], "--vocab-size has no effect beside --data"),
        (TUNE, ["--loss", "ipo"], "loss=ipo is one on preferences; leave it out with task chat"),
        (TUNE, ["--loss", "dpo", "--task", "classify"], "loss=dpo is one on preferences"),
        (TUNE, ["--set", "task.loss=ipo"], "task.loss=ipo has no effect with task.kind='text'"),
        (TUNE, ["--set", "task.num_classes=3"], "task.num_classes=3 has no effect with task.kind='text'"),
        (TUNE, ["--method", "full", "--rank", "4"], "rank=4 is that of an adapter"),
        (TUNE, ["--method", "full", "--weight-format", "q4_0"], "weight_format=q4_0 packs a frozen base"),
        (TUNE, ["--base", "default"], "--base default is for LoRA adapters"),
        (TUNE, ["--check", "--max-seconds", "9"], "--max-seconds has no effect with --check"),
    ],
)
def test_it_is_refused_by_name(
    command: list[str], options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, samples = tmp_path / "text.txt", tmp_path / "samples.jsonl"
    text.write_text("A text that is measured.", "utf-8")
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]
    samples.write_text(json.dumps({"messages": messages}) + "\n", "utf-8")
    paths = {"TEXT": str(text), "SAMPLES": str(samples), "RUN": str(tmp_path / "run")}
    assert main.run([*(paths.get(word, word) for word in command), *options]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_margin_of_simpo_is_of_no_use_to_another_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = tmp_path / "pairs.jsonl"
    question = [{"role": "user", "content": "Hello"}]
    samples.write_text(json.dumps({"messages": question, "chosen": "Good day.", "rejected": "What?"}) + "\n", "utf-8")
    command = ["finetune", "default", str(samples), "--run", str(tmp_path / "run"), "--task", "preference", "--check"]
    assert main.run([*command, "--set", "task.gamma=0.7"]) == 2
    assert "task.gamma=0.7 is the margin of simpo, not of dpo" in capsys.readouterr().err
    assert main.run([*command, "--set", "task.gamma=0.7", "--set", "task.loss=simpo"]) == 0
