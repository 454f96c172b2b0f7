"""Everything a data recipe names, in one call: the tokenizer, then each set."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tramontane import durable
from tramontane.data.build import BuildPlaces, Progress, build_set, check_renderers
from tramontane.data.recipe import DataRecipe, read_data_recipe
from tramontane.data.report import SourceReport
from tramontane.data.tokenizer_corpus import corpus_texts
from tramontane.data.tokenizer_training import (
    Compression,
    compression_report,
    shipped_tokenizers,
    train_vocabulary,
    write_tekken,
)
from tramontane.errors import DataError

_COMPARED_TEXTS = 2_000
_COMPARED_EVERY = 97  # texts; a prime, so that no rhythm of the sources is met


@dataclass(frozen=True, slots=True)
class BuiltRecipe:
    """What a build left: the account of each set, in folders `out / set name / train | valid`."""

    tokenizer: Path
    sets: dict[str, list[SourceReport]]


def build_recipe(
    recipe_path: Path,
    data: Path,
    out: Path,
    *,
    tokenizer: Path | None = None,
    sets: Sequence[str] | None = None,
    num_workers: int = 1,
    progress: Progress = lambda source, num_token_ids: None,
) -> BuiltRecipe:
    """Build the sets of a recipe (None: all) from the unpacked files in `data` into `out`.

    Without `tokenizer` (a folder) the recipe's own is trained into `out / tokenizer`, unless an earlier call did.
    Whatever is finished is kept; what was interrupted goes on. Raises DataError.
    """
    recipe = read_data_recipe(recipe_path)
    check_renderers(recipe)
    wanted = list(recipe.set) if sets is None else list(sets)
    if unknown := [name for name in wanted if name not in recipe.set]:
        raise DataError(f"{recipe_path}: has no set {unknown[0]!r}; it has {', '.join(recipe.set)}")
    folder = tokenizer or out / "tokenizer"
    places = BuildPlaces(data, recipe_path, folder, out)
    if tokenizer is None and not (folder / "tekken.json").exists():
        train_recipe_tokenizer(recipe, places)
    built = {name: build_set(recipe, name, places, num_workers=num_workers, progress=progress) for name in wanted}
    return BuiltRecipe(folder, built)


def train_recipe_tokenizer(recipe: DataRecipe, places: BuildPlaces) -> list[Compression]:
    """Train the tokenizer of a recipe into `places.tokenizer`; its compression beside that of the tokenizers that
    mistral-common ships goes to `compression.json` in `places.out`."""
    options = recipe.tokenizer
    vocabulary = train_vocabulary(corpus_texts(recipe, places), options.vocab_size, version=options.version)
    path = places.tokenizer / "tekken.json"
    write_tekken(path, vocabulary, version=options.version)
    sample = list(itertools.islice(_every(corpus_texts(recipe, places)), _COMPARED_TEXTS))
    rows = compression_report(sample, {recipe.name: path, **shipped_tokenizers()})
    document = [{**asdict(row), "bytes_per_token": row.bytes_per_token} for row in rows]
    durable.make_folder(places.out)
    durable.write(places.out / "compression.json", json.dumps(document, indent=1))
    return rows


def _every(texts: Iterator[str]) -> Iterator[str]:
    return itertools.islice(texts, 0, None, _COMPARED_EVERY)
