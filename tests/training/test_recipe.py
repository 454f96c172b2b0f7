from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.batches import recipe_text
from tramontane.errors import ConfigError, DataError
from tramontane.training.recipe import OptimizerRecipe, read_recipe, write_recipe


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_written_recipe_reads_back_equal(tmp_path: Path) -> None:
    text = recipe_text(tmp_path, extra='sample_prompts = ["a\\"b\\\\c\\n", "é"]\n[lora]\nrank = 4')
    recipe = read_recipe(write(tmp_path, text))
    assert recipe.lora is not None
    assert recipe.metrics.sample_prompts == ('a"b\\c\n', "é")
    assert read_recipe(write(tmp_path, write_recipe(recipe))) == recipe


def test_phases_read_back_equal(tmp_path: Path) -> None:
    change = (
        'data.phases=[{name = "broad", epochs = {books = 1}}, {name = "decay", epochs = {books = 0.1, chat = 2.5}}]'
    )
    recipe = read_recipe(write(tmp_path, recipe_text(tmp_path)), [change])
    assert [dict(phase.epochs) for phase in recipe.data.phases] == [{"books": 1.0}, {"books": 0.1, "chat": 2.5}]
    assert read_recipe(write(tmp_path, write_recipe(recipe))) == recipe


def test_changes_go_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, recipe_text(tmp_path))
    changes = ["optimizer.lr=0.5", "run=elsewhere", "lora.rank=2", "model.sliding_window=8", "machine.compile=false"]
    recipe = read_recipe(path, changes)
    assert recipe.optimizer.lr == 0.5
    assert recipe.run == "elsewhere"
    assert recipe.lora is not None
    assert recipe.lora.rank == 2
    assert recipe.model.config(9).sliding_windows == (8, 8)
    assert recipe.machine.compile is False


def test_full_attention_every_nth_layer(tmp_path: Path) -> None:
    changes = ["model.n_layers=5", "model.full_attention_every=2", "model.num_experts=4"]
    config = read_recipe(write(tmp_path, recipe_text(tmp_path)), changes).model.config(101)
    assert config.sliding_windows == (16, None, 16, None, 16)
    assert config.vocab_size == 101
    assert config.moe is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimizer.learning_rate=1", "unknown key 'learning_rate'"),
        ("optimizer.lr=fast", "lr='fast' must be of type float"),
        ("optimizer.kind=sgd", "kind='sgd' must be one of"),
        ("data.batch_len=100", "batch_len=100 must be a multiple of microbatch_len=64"),
        ("schedule.num_steps=0", "num_steps=0 must be at least 1"),
        ("checkpoint.keep=0", "checkpoint.keep=0 must be at least 1"),
        ("optimizer.betas=[0.9]", "betas"),
        ("data.train=[]", "data.train is empty"),
        ("nonsense", "must look like optimizer.lr=0.001"),
        ("run.x=1", "'run' is not a table"),
    ],
)
def test_what_is_wrong_is_named(change: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path, recipe_text(tmp_path))
    with pytest.raises((DataError, ConfigError)) as caught:
        read_recipe(path, [change])
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["run = ", "\x00", "run = 3"])
def test_a_broken_file_is_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_recipe(write(tmp_path, text))
    assert "recipe.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such recipe"):
        read_recipe(tmp_path / "absent.toml")


@pytest.mark.parametrize("values", [{"lr": 0.0}, {"ema_decay": 1.0}, {"betas": (0.9, 1.0)}, {"eps": float("nan")}])
def test_impossible_optimizer_values_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        OptimizerRecipe(**values)  # type: ignore[arg-type]
