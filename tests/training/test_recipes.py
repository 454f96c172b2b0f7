"""The recipes that ship are read, and promise what they say."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tramontane.training.recipe import read_recipe

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*_pretrain_*.toml"))


# The runs of the default model, each from the weights of the one before
RUNS = (
    *("pretrain", "chat", "more", "grown", "grown_chat", "identity", "longer", "longer_chat", "further", "onward"),
    "finer",
)


def test_every_run_begins_where_the_one_before_ends() -> None:
    runs = [read_recipe(FOLDER / f"petit_{name}_cpu.toml") for name in RUNS]
    for before, after in pairwise(runs):
        assert (after.model.checkpoint or after.model.grown_from) == f"{before.run}/model"
        assert after.data.tokenizer == before.data.tokenizer
        assert set(after.data.train) <= set(runs[0].data.train)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_sound(path: Path) -> None:
    recipe = read_recipe(path)
    config = recipe.model.config(8192)
    assert config.windows == (recipe.model.sliding_window,)
    assert recipe.model.sliding_window is not None
    assert recipe.model.sliding_window < config.max_seq_len
    assert f"{config.num_parameters() / 1e6:.1f} M weights" in path.read_text("utf-8")


def test_the_default_model_fits_its_place_at_eight_bits() -> None:
    config = read_recipe(next(path for path in RECIPES if path.name == "petit_pretrain_gpu.toml")).model.config(8192)
    q8_0_bytes = config.num_parameters() * 34 / 32  # blocks of 32 weights in 34 bytes
    assert q8_0_bytes < 23.5e6  # and half a megabyte for the tokenizer
