"""`tramontane data`: training sets from raw files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tramontane.cli.options import Json
from tramontane.cli.terminal import print_json, printable

RecipeFile = Annotated[Path, typer.Argument(help="TOML file; recipes/default_data.toml is one.")]
Data = Annotated[Path, typer.Option(help="Folder of the raw files that the recipe names.")]
Out = Annotated[Path, typer.Option(help="Folder to write into, made if need be.")]


def build(
    recipe: RecipeFile,
    *,
    data: Data,
    out: Out,
    only: Annotated[list[str] | None, typer.Option("--set", help="Build this set alone (may be repeated).")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Folder or hub id with a tokenizer, or 'default' (default: the recipe's own is trained)."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that prepare text (default: one per CPU).")] = None,
    as_json: Json = False,
) -> None:
    """Clean, deduplicate and tokenise raw files into training sets.

    OUT/SET holds train/ and valid/, memory-mapped shards that `tramontane pretrain` reads, and report.html: what
    came in, what was left out and why. The same recipe and files give the same bytes; an interrupted build goes on.
    """
    from tramontane.cli.terminal import counted_lines
    from tramontane.data.build_recipe import build_recipe
    from tramontane.hub import resolve_model

    folder = None if tokenizer is None else resolve_model(tokenizer)
    num_workers = workers or len(os.sched_getaffinity(0))
    with counted_lines("tokens") as progress:
        built = build_recipe(
            recipe, data, out, tokenizer=folder, sets=only or None, num_workers=num_workers, progress=progress
        )
    sets = {
        name: {
            "folder": str(out / name),
            "num_documents": sum(source.train.num_documents for source in sources),
            "num_tokens": sum(source.train.num_token_ids for source in sources),
            "num_valid_tokens": sum(source.valid.num_token_ids for source in sources),
            "num_dropped": sum(tally.num_documents for source in sources for tally in source.dropped.values()),
        }
        for name, sources in built.sets.items()
    }
    if as_json:
        print_json({"tokenizer": str(built.tokenizer), "sets": sets})
        return
    print(printable(f"tokenizer: {built.tokenizer}"))
    for each in sets.values():
        print(
            printable(
                f"{each['folder']}: {each['num_tokens']:,} tokens of {each['num_documents']:,} documents, "
                f"{each['num_valid_tokens']:,} held out, {each['num_dropped']:,} documents left out (report.html)"
            )
        )
