"""`tramontane synth`: a checkpoint of a released shape with random weights, for benchmarks and for trying things."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tramontane.cli.convert import Layout, Overwrite, Stored, chosen_layout, report_written
from tramontane.cli.options import Json
from tramontane.cli.terminal import counted_bar


def synth(
    shape: Annotated[
        str, typer.Argument(help="Such as mistral-7b, mixtral-8x7b or tiny; an unknown name lists them all.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder or .gguf file to write.")],
    *,
    n_layers: Annotated[int | None, typer.Option(help="So many layers instead of the shape's own.")] = None,
    layout: Layout = None,
    stored: Stored = None,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint of random weights.

    Its shape and vocabulary are those of a released model, so that speed and memory are real; what it says is noise.
    In GGUF every type that can be read can be written, the K formats included. The default type is BF16.
    """
    from tramontane.loading import named_shape, synthesise

    config = named_shape(shape, **({} if n_layers is None else {"n_layers": n_layers}))
    with counted_bar(f"writing {out}") as progress:
        synthesise(
            out,
            config,
            layout=chosen_layout(layout, out),
            stored="BF16" if stored is None else stored.upper(),
            seed=seed,
            overwrite=overwrite,
            progress=progress,
        )
    report_written(out, as_json=as_json)
