"""`tramontane average`: the mean of several models' weights as one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tramontane.cli.convert import Layout, Overwrite, Stored, chosen_layout, report_written
from tramontane.cli.options import Json
from tramontane.cli.terminal import bytes_bar
from tramontane.errors import ConfigError


def average(
    out: Annotated[Path, typer.Argument(help="Folder or .gguf file to write.")],
    models: Annotated[list[str], typer.Argument(help="Two models or more: folders, .gguf files, pulled hub ids.")],
    *,
    shares: Annotated[
        str | None, typer.Option(help="How much each counts, separated by commas (default: all alike).")
    ] = None,
    layout: Layout = None,
    stored: Stored = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Average the weights of models that came from one another.

    Two runs from the same weights, or one that went on from another, often have a mean that is better than either.
    Without --stored the weights keep the first model's float type; quantised ones become BF16.
    """
    from tramontane.loading import open_checkpoint
    from tramontane.loading.average import average as average_weights
    from tramontane.loading.named_model import find_checkpoint

    if len(models) < 2:
        raise ConfigError("an average takes two models or more: tramontane average OUT MODEL MODEL")
    try:
        numbers = None if shares is None else [float(share) for share in shares.split(",")]
    except ValueError:
        raise ConfigError(f"--shares {shares}: must be numbers separated by commas, such as 1,2") from None
    with bytes_bar(f"writing {out}") as progress:
        average_weights(
            [open_checkpoint(find_checkpoint(model)) for model in models],
            out,
            shares=numbers,
            layout=chosen_layout(layout, out),
            stored=None if stored is None else stored.upper(),
            overwrite=overwrite,
            progress=progress,
        )
    report_written(out, as_json=as_json)
