"""Wherever a command names a model, an adapter's folder works, or is told what to do instead."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.llm.test_adapters import make_adapter
from tests.tiny_checkpoint import write_tiny_checkpoint
from tramontane import LLM, SamplingParams
from tramontane.cli.main import run

PROMPT = "The wind beside the Mistral"
GREEDY = SamplingParams(max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("cli-adapters") / "base", max_seq_len=2048)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return make_adapter(base.parent / "persona", base, 1)


@pytest.fixture
def lost(adapter: Path, tmp_path: Path) -> Path:
    """An adapter whose base is where it was trained, and not here."""
    moved = shutil.copytree(adapter, tmp_path / "lost")
    path = moved / "adapter_config.json"
    document = json.loads(path.read_text("utf-8")) | {"base_model_name_or_path": "/home/alice/base"}
    path.write_text(json.dumps(document), "utf-8")
    return moved


def said(capsys: pytest.CaptureFixture[str], *command: object) -> Any:
    assert run([*map(str, command)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    assert run([*map(str, command)]) == 2
    found = capsys.readouterr()
    lines: list[str] = found.err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    return lines[-1]


def test_generate_and_chat_answer_as_the_adapter(
    base: Path, adapter: Path, lost: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = LLM(str(adapter)).generate(PROMPT, GREEDY)[0].text
    assert expected != LLM(str(base)).generate(PROMPT, GREEDY)[0].text
    asked = ["generate", PROMPT, "--max-tokens", "8", "--ignore-eos", "--json", "-t", "0"]
    for model in (["-m", adapter], ["-m", lost, "--base", base]):
        assert json.loads(said(capsys, *asked, *model))["text"] == expected
    message = LLM(str(adapter)).chat([{"role": "user", "content": "Hello"}], GREEDY).text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello\n")))
    chat = ["chat", "-m", lost, "--base", base, "--max-tokens", "8", "--ignore-eos", "-t", "0"]
    assert message in said(capsys, *chat)


def test_a_base_that_is_not_here_is_one_line(
    base: Path, adapter: Path, lost: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for command in (["generate", "x", "-m", lost], ["info", lost], ["convert", lost, tmp_path / "out"]):
        line = refused(capsys, *command)
        assert "is a LoRA adapter of a model that is not here" in line
        assert "'/home/alice/base'" in line
        assert "--base" in line
    assert "itself" in refused(capsys, "info", lost, "--base", adapter)
    assert "is a whole model" in refused(capsys, "info", base, "--base", base)


def test_info_says_what_an_adapter_is(
    base: Path, adapter: Path, lost: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads(said(capsys, "info", adapter, "--json"))
    assert facts["path"] == str(base)
    about = facts["adapter"]
    assert (about["ranks"], about["scales"], about["base"]) == ([4], [2.0], str(base))
    assert about["targets"] == ["wq", "wk", "wv", "wo", "w1", "w2", "w3"]
    assert about["size_bytes"] == (adapter / "adapter_model.safetensors").stat().st_size
    text = said(capsys, "info", lost, "--base", base)
    assert "LoRA of rank 4, scale 2, on wq, wk" in text
    assert "for /home/alice/base" in text
    assert json.loads(said(capsys, "info", base, "--json"))["adapter"] is None


@pytest.mark.parametrize("out", ["merged", "merged.gguf"])
def test_convert_merges_and_says_so(
    out: str, base: Path, adapter: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["convert", str(adapter), str(tmp_path / out)]) == 0
    assert f"{adapter} is a LoRA adapter: it is merged into {base}" in capsys.readouterr().err.replace("\n", " ")
    said(capsys, "merge", adapter, tmp_path / f"again-{out}")
    found = [LLM(str(tmp_path / each)).generate(PROMPT, GREEDY)[0].text for each in (out, f"again-{out}")]
    assert found[0] == found[1] == LLM(str(adapter)).generate(PROMPT, GREEDY)[0].text


def test_eval_and_bench_take_an_adapter(
    base: Path, lost: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = tmp_path / "held_out.txt"
    text.write_text("The wind came down from the hills.\n", "utf-8")
    found = []
    for model in ([lost, "--base", base], [base]):
        command = ["eval", *model, "--text", text, "--out", tmp_path / f"out-{len(model)}", "--json"]
        [result] = json.loads(said(capsys, *command))["results"].values()
        found.append(result["metrics"]["bits_per_byte"]["value"])
    assert found[0] != found[1]
    sizes = ["--prompt-tokens", "4", "--answer-tokens", "2", "--repeats", "1", "--json"]
    assert json.loads(said(capsys, "bench", "-m", lost, "--base", base, *sizes))["model"] == str(lost)


def test_where_an_adapter_alone_is_of_no_use_the_command_is_named(
    base: Path, adapter: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for command in (
        ["average", tmp_path / "out", base, adapter],
        ["generate", "x", "-m", base, "--draft-model", adapter],
    ):
        assert f"{adapter} is a LoRA adapter; merge it into its base first: tramontane merge" in refused(
            capsys, *command
        )
    assert "is a whole model, no LoRA adapter" in refused(capsys, "merge", base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_runs_is_no_whole_model(base: Path, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the Trainer leaves it: checkpoint-500, with what the optimiser keeps beside the adapter."""
    run_folder = base.parent / "run"
    shutil.copytree(adapter, run_folder / "checkpoint-500")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json"):
        (run_folder / "checkpoint-500" / name).write_bytes(b"none of ours")
    line = refused(capsys, "info", run_folder, "--base", base)
    assert line.endswith("name a folder inside it: 'checkpoint-500'")
    assert "rank 4" in said(capsys, "info", run_folder / "checkpoint-500", "--base", base)
