"""`tramontane tokenizer`: vocabularies for models of your own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

import typer

from tramontane.cli.data import Data, Out, RecipeFile
from tramontane.cli.options import Json
from tramontane.cli.terminal import print_json, printable
from tramontane.errors import DataError


def train(
    recipe: RecipeFile,
    *,
    data: Data,
    out: Out,
    vocab_size: Annotated[int | None, typer.Option(help="Tokens in all (default: the recipe's).")] = None,
    version: Annotated[
        Literal["v7", "v11", "v13"] | None, typer.Option(help="Chat format its control tokens are for.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Learn a byte-level vocabulary from a data recipe's text.

    OUT/tekken.json is in Mistral's format, with the control tokens of the chat format, so that every tool that reads
    it can chat with your model. The report compares how densely it writes your text with the vocabularies that
    mistral-common ships; OUT/compression.json keeps it.
    """
    from dataclasses import replace

    from tramontane.data.build import BuildPlaces
    from tramontane.data.build_recipe import train_recipe_tokenizer
    from tramontane.data.recipe import read_data_recipe

    read = read_data_recipe(recipe)
    options = read.tokenizer
    changed = replace(options, vocab_size=vocab_size or options.vocab_size, version=version or options.version)
    if (out / "tekken.json").exists():
        raise DataError(f"{out / 'tekken.json'} exists; remove it or choose another --out")
    rows = train_recipe_tokenizer(replace(read, tokenizer=changed), BuildPlaces(data, recipe, out, out))
    if as_json:
        compression = [{**asdict(row), "bytes_per_token": row.bytes_per_token} for row in rows]
        print_json({"tokenizer": str(out / "tekken.json"), "compression": compression})
        return
    print(printable(f"{out / 'tekken.json'}: {changed.vocab_size:,} tokens, control tokens of {changed.version}"))
    print(f"{'vocabulary':<40}{'tokens':>10}{'bytes per token':>18}")
    for row in rows:
        print(printable(f"{row.name:<40}{row.vocab_size:>10,}{row.bytes_per_token:>18.3f}"))
