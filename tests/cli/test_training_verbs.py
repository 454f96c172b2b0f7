"""`data build`, `tokenizer train` and `merge` on the command line: from text to shards, from an adapter to a model."""

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
    assert "holds no adapter_config.json" in err
