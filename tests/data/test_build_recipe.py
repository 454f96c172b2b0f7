from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.data.test_build import WORDS
from tramontane.data.build_recipe import build_recipe
from tramontane.data.shards import ShardSet
from tramontane.errors import DataError
from tramontane.tokenizer import load_tokenizer

RECIPE = """
name = "tiny"
[tokenizer]
vocab_size = 300
[set.text]
kind = "text"
source = [{ name = "notes", paths = ["notes.txt"], split_on = "@" }]
"""


def test_one_call_builds_tokenizer_and_sets_and_another_changes_nothing(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (tmp_path / "recipe.toml").write_text(RECIPE)
    rng = random.Random(5)
    texts = [" ".join("".join(rng.choices(WORDS, k=2)) for _ in range(12)) for _ in range(200)]
    (data / "notes.txt").write_text("@".join(texts))
    built = build_recipe(tmp_path / "recipe.toml", data, out)
    assert load_tokenizer(built.tokenizer).vocab_size == 300
    assert built.sets["text"][0].train.num_documents + built.sets["text"][0].valid.num_documents == 200
    assert ShardSet([out / "text" / "train"]).vocab_size == 300
    rows = json.loads((out / "compression.json").read_text())
    assert {"tiny", "tekken_240911.json"} <= {row["name"] for row in rows}
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = build_recipe(tmp_path / "recipe.toml", data, out)
    assert again.sets == built.sets
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == stamps
    with pytest.raises(DataError, match="has no set 'talk'; it has text"):
        build_recipe(tmp_path / "recipe.toml", data, out, sets=["talk"])
