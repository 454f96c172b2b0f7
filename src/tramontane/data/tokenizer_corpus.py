"""The text that a recipe's tokenizer is trained on: its sources as they will be rendered and cleaned, sampled."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from tramontane.data.build import BuildPlaces, check_renderers, grouped
from tramontane.data.chat_samples import ChatSample
from tramontane.data.clean import tidy
from tramontane.data.prepare import is_held_out, seed_of
from tramontane.data.recipe import DataRecipe, SetRecipe, SourceRecipe
from tramontane.data.render import TEXT_RENDERERS, RenderContext
from tramontane.data.render_chat import CHAT_RENDERERS
from tramontane.data.sample_notes import SampleNotes
from tramontane.data.sample_shapes import parse_row
from tramontane.data.sources import expand
from tramontane.errors import DataError


def corpus_texts(recipe: DataRecipe, places: BuildPlaces) -> Iterator[str]:
    """Texts of all sources, each taken with probability `tokenizer_share`, scaled down alike where the files together
    exceed `tokenizer.sample_bytes`. Rows of the validation split are left out. Deterministic."""
    check_renderers(recipe)
    sources = [(name, each, source) for name, each in recipe.set.items() for source in each.source]
    total = sum(source.tokenizer_share * _size_bytes(source, places) for _, _, source in sources)
    scale = min(1.0, recipe.tokenizer.sample_bytes / max(1.0, total))
    for name, set_recipe, source in sources:
        if source.tokenizer_share:
            yield from _source_texts(recipe, name, set_recipe, source, places, source.tokenizer_share * scale)


def _source_texts(
    recipe: DataRecipe,
    set_name: str,
    set_recipe: SetRecipe,
    source: SourceRecipe,
    places: BuildPlaces,
    share: float,
) -> Iterator[str]:
    folder = places.recipe.parent if source.beside_recipe else places.data
    fraction = set_recipe.valid_fraction if source.valid_fraction is None else source.valid_fraction
    for group in grouped(source, folder):
        origin = group[0].origin
        rng = random.Random(seed_of(recipe.seed, set_name, "tokenizer", origin.source, origin.path, origin.row))
        if rng.random() >= share or is_held_out(recipe.seed, origin, fraction):
            continue
        context = RenderContext(rng, source.options, recipe.persona)
        if set_recipe.kind == "text":
            texts = list(TEXT_RENDERERS[source.render](group, context))
        else:
            samples = CHAT_RENDERERS[source.render](group, context)
            texts = [text for each in samples for text in texts_of(each)]
        clean = set_recipe.clean
        for text in texts:
            yield tidy(text, straight_quotes=clean.straight_quotes, fold_space=clean.fold_space)


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """What is said in a rendered conversation; nothing for one that is no sample, which the build tells."""
    try:
        sample = parse_row(row, "chat", SampleNotes())
    except DataError:
        return []
    messages = sample.messages if isinstance(sample, ChatSample) else ()
    return [chunk if isinstance(chunk, str) else chunk.text for message in messages for chunk in message.chunks]


def _size_bytes(source: SourceRecipe, places: BuildPlaces) -> int:
    folder = places.recipe.parent if source.beside_recipe else places.data
    return sum(file.path.stat().st_size for file in expand(source, folder))
