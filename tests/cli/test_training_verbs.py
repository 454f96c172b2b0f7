"""`data build`, `tokenizer train`, `merge` and `average` on the command line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.test_build import WORDS
from tests.data.test_build_recipe import RECIPE
from tests.llm.test_adapters import make_adapter
from tests.tiny_checkpoint import write_tiny_checkpoint
from tramontane import LLM
from tramontane.cli import main
from tramontane.data.shards import ShardSet
from tramontane.loading import open_checkpoint, stream_tensors
from tramontane.tokenizer import load_tokenizer


@pytest.fixture
def tramontane(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line; its exit code and what it printed on either stream."""

    def run(*arguments: object) -> tuple[int, str]:
        code = main.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out if code == 0 else captured.err

    return run


@pytest.fixture
def raw(tmp_path: Path) -> tuple[Path, Path]:
    """A recipe and the folder of its files."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "recipe.toml").write_text(RECIPE, "utf-8")
    rng = random.Random(5)
    texts = [" ".join("".join(rng.choices(WORDS, k=2)) for _ in range(12)) for _ in range(60)]
    (data / "notes.txt").write_text("@".join(texts), "utf-8")
    return tmp_path / "recipe.toml", data


def test_data_build_makes_what_pretraining_reads(tramontane: Any, raw: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, data = raw
    flags = ("--data", data, "--out", tmp_path / "out", "--workers", 1)
    code, out = tramontane("data", "build", recipe, *flags, "--json")
    built = json.loads(out)
    assert code == 0
    train = ShardSet([tmp_path / "out" / "text" / "train"])
    assert built["sets"]["text"]["num_tokens"] == sum(source.info.num_token_ids for source in train.sources.values())
    assert (tmp_path / "out" / "text" / "report.html").exists()
    code, out = tramontane("data", "build", recipe, *flags)
    assert f"{built['sets']['text']['num_tokens']:,} tokens of" in out
    assert tramontane("data", "build", recipe, *flags, "--set", "talk")[1].startswith("error: ")
    code, err = tramontane("data", "build", tmp_path / "none.toml", *flags)
    assert (code, err.count("\n")) == (2, 1)


def test_tokenizer_train_compares_with_what_is_shipped(tramontane: Any, raw: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, data = raw
    flags = ("--data", data, "--out", tmp_path / "vocabulary", "--vocab-size", 290, "--version", "v13")
    code, out = tramontane("tokenizer", "train", recipe, *flags)
    assert code == 0
    assert "290 tokens, control tokens of v13" in out
    assert "tekken_240911.json" in out
    tokenizer = load_tokenizer(tmp_path / "vocabulary")
    assert tokenizer.vocab_size == 290
    assert "[THINK]" in tokenizer.control_names
    code, err = tramontane("tokenizer", "train", recipe, *flags)
    assert code == 2
    assert "exists; remove it or choose another --out" in err


def test_merge_writes_a_model_that_needs_no_adapter(tramontane: Any, tmp_path: Path) -> None:
    base = write_tiny_checkpoint(tmp_path / "base", sliding_windows=24)
    adapter = make_adapter(tmp_path / "adapter", base, seed=4)
    code, out = tramontane("merge", adapter, tmp_path / "merged", "--json")
    assert (code, json.loads(out)["stored"]) == (0, "F32")
    code, _ = tramontane("merge", adapter, tmp_path / "merged.gguf", "--base", base, "--stored", "f16")
    assert code == 0
    adapted = LLM(str(adapter), kv_cache_gib=0.01)
    token_ids = adapted.tokenizer.encode("The wind", bos=True)
    for out_path, tolerance in ((tmp_path / "merged", 1e-3), (tmp_path / "merged.gguf", 0.1)):
        merged = LLM(str(out_path), kv_cache_gib=0.01).logits(token_ids)
        torch.testing.assert_close(merged, adapted.logits(token_ids), rtol=tolerance, atol=tolerance)
    code, err = tramontane("merge", base, tmp_path / "other")
    assert code == 2
    assert "is a whole model, no LoRA adapter" in err


def test_average_writes_the_mean_of_weights(tramontane: Any, tmp_path: Path) -> None:
    one, two = write_tiny_checkpoint(tmp_path / "one"), tmp_path / "two"
    assert tramontane("merge", make_adapter(tmp_path / "adapter", one, seed=4), two)[0] == 0
    code, out = tramontane("average", tmp_path / "mean", one, two, "--json")
    assert (code, json.loads(out)["stored"]) == (0, "F32")
    assert tramontane("average", tmp_path / "mean.gguf", one, two, "--shares", "1,3", "--stored", "f32")[0] == 0

    def weights(path: Path) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in stream_tensors(open_checkpoint(path))}

    of_one, of_two = weights(one), weights(two)
    assert any(not torch.equal(of_one[name], of_two[name]) for name in of_one)
    for name, mean in weights(tmp_path / "mean").items():
        torch.testing.assert_close(mean, (of_one[name] + of_two[name]) / 2)
    for name, mean in weights(tmp_path / "mean.gguf").items():
        torch.testing.assert_close(mean, (of_one[name] + 3 * of_two[name]) / 4)


def test_what_has_no_mean_is_refused_in_one_line(tramontane: Any, tmp_path: Path) -> None:
    one = write_tiny_checkpoint(tmp_path / "one")
    other = write_tiny_checkpoint(tmp_path / "other", sliding_windows=24)
    gguf = tmp_path / "one.gguf"
    assert tramontane("convert", one, gguf)[0] == 0
    for arguments, message in (
        ((one,), "two models or more"),
        ((one, other), "another configuration or tokenizer"),
        ((one, gguf), "convert it to hf first"),
        ((one, one, "--shares", "1"), "shares must be 2 positive numbers"),
        ((one, one, "--shares", "1,0"), "shares must be 2 positive numbers"),
        ((one, one, "--shares", "1,nan"), "shares must be 2 positive numbers"),
        ((one, one, "--shares", "much"), "must be numbers separated by commas"),
    ):
        code, err = tramontane("average", tmp_path / "out", *arguments)
        assert code == 2
        assert err.count("\n") == 1
        assert message in err
    assert not (tmp_path / "out").exists()
