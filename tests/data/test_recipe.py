from __future__ import annotations

from pathlib import Path

import pytest

from tramontane.data.build import check_renderers
from tramontane.data.recipe import DataRecipe, read_data_recipe
from tramontane.errors import DataError

RECIPES = Path(__file__).resolve().parents[2] / "recipes"

GOOD = """
name = "small"
[set.pretrain]
kind = "text"
[[set.pretrain.source]]
name = "notes"
paths = ["*.txt"]
epochs = 2
[[set.pretrain.phase]]
name = "all"
epochs = { notes = 1.5 }
"""


def read(tmp_path: Path, text: str) -> DataRecipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return read_data_recipe(path)


def test_defaults_and_numbers(tmp_path: Path) -> None:
    recipe = read(tmp_path, GOOD)
    (source,) = recipe.set["pretrain"].source
    assert source.epochs == 2.0
    assert source.paths == ("*.txt",)
    assert recipe.set["pretrain"].phase[0].epochs == {"notes": 1.5}
    assert recipe.tokenizer.vocab_size == 8192


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 2\n", "epoch = 2\n", "set.pretrain: source[0]: unknown key 'epoch'; did you mean 'epochs'"),
        ("epochs = 2\n", "colour = 2\n", "unknown key 'colour'; known keys: name, paths"),
        ("epochs = 2\n", "epochs = '2'\n", "epochs='2' must be of type float"),
        ("epochs = 2\n", "epochs = -2\n", "source notes: epochs=-2.0 must not be negative"),
        ("epochs = 2\n", "quality = 'best'\n", "must be one of 'none', 'prose', 'web'"),
        ('paths = ["*.txt"]', 'paths = "*.txt"', "must be a list"),
        ('paths = ["*.txt"]', "paths = []", "paths is empty"),
        ('paths = ["*.txt"]', "", "key 'paths' is missing"),
        ('kind = "text"', 'kind = "text"\nmax_document_len = true', "must be of type int"),
        ('kind = "text"', 'kind = "chat"\nfim_rate = 0.5', "be 0 in a chat set"),
        ("notes = 1.5", "motes = 1.5", "names unknown sources ['motes']"),
        ('name = "notes"', 'name = "../notes"', "must be letters, digits"),
        ("[set.pretrain]", "[set.pretrain", "not valid TOML"),
    ],
)
def test_mistakes_are_told_with_file_key_and_remedy(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(DataError) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert message in str(caught.value)
    assert "recipe.toml" in str(caught.value)


def test_a_missing_recipe_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such recipe"):
        read_data_recipe(tmp_path / "none.toml")


def test_unknown_renderers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="render='sonnet' is unknown"):
        check_renderers(read(tmp_path, GOOD.replace("epochs = 2", 'render = "sonnet"')))


def test_the_recipe_of_the_default_model_is_sound() -> None:
    recipe = read_data_recipe(RECIPES / "default_data.toml")
    check_renderers(recipe)
    names = [source.name for each in recipe.set.values() for source in each.source]
    assert len(set(names)) == len(names)  # so that both sets can be opened together
    assert all(source.licence and source.provenance for each in recipe.set.values() for source in each.source)
    held_out = ("eval/", "valid_head", "wikitext2/test", "wikitext2/valid")
    paths = [path for each in recipe.set.values() for source in each.source for path in source.paths]
    assert not [path for path in paths if any(part in path for part in held_out)]
