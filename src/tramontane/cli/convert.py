"""`tramontane convert`: a checkpoint in another layout or another type of weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tramontane.cli.options import Base, Json
from tramontane.cli.terminal import amount, bytes_bar, print_json, printable

Layout = Annotated[
    Literal["hf", "consolidated", "gguf"] | None,
    typer.Option(
        help="hf is Hugging Face's folder, consolidated the folder of Mistral's own files, gguf one file for "
        "llama.cpp (default: gguf if OUT ends in .gguf, else hf)."
    ),
]
Stored = Annotated[
    str | None, typer.Option(help="Type of the weights: F32, F16 or BF16; for gguf also Q8_0, Q4_0 and others.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]


def convert(
    model: Annotated[str, typer.Argument(help="A folder (a LoRA adapter's too), a .gguf file or a pulled hub id.")],
    out: Annotated[Path, typer.Argument(help="Folder or .gguf file to write.")],
    *,
    base: Base = None,
    layout: Layout = None,
    stored: Stored = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint in another layout.

    The tokenizer goes along. Without --stored the weights keep their float type; quantised ones become BF16.
    Nothing is left at OUT unless all of it is written. A LoRA adapter is merged into its base.
    """
    from tramontane.loading import convert as convert_checkpoint
    from tramontane.loading import open_checkpoint
    from tramontane.loading.named_model import find_model

    named = find_model(model, base)
    if named.adapter is not None:
        from tramontane.cli.merge import merge

        print(printable(f"{model} is a LoRA adapter: it is merged into {named.path}"), file=sys.stderr)
        merge(model, out, base=base, layout=layout, stored=stored, overwrite=overwrite, as_json=as_json)
        return
    checkpoint = open_checkpoint(named.path)
    with bytes_bar(f"writing {out}") as progress:
        convert_checkpoint(
            checkpoint,
            out,
            layout=chosen_layout(layout, out),
            stored=None if stored is None else stored.upper(),
            overwrite=overwrite,
            progress=progress,
        )
    report_written(out, as_json=as_json)


def chosen_layout(
    layout: Literal["hf", "consolidated", "gguf"] | None, out: Path
) -> Literal["hf", "consolidated", "gguf"]:
    return layout or ("gguf" if out.suffix == ".gguf" else "hf")


def report_written(out: Path, *, as_json: bool) -> None:
    """Say what now lies at `out`, by reading it back."""
    from tramontane.loading import open_checkpoint

    written = open_checkpoint(out)
    if as_json:
        print_json(
            {"out": str(out), "layout": written.layout, "stored": written.stored, "size_bytes": written.size_bytes}
        )
    else:
        print(printable(f"{out}: {written.layout}, {written.stored}, {amount(written.size_bytes, 'B')}"))
