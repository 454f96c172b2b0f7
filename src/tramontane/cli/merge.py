"""`tramontane merge`: an adapter folded into its base, as a checkpoint that needs no adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tramontane.cli.convert import Layout, Overwrite, Stored, chosen_layout, report_written
from tramontane.cli.options import Base, Json
from tramontane.cli.terminal import bytes_bar
from tramontane.errors import ConfigError


def merge(
    adapter: Annotated[
        str, typer.Argument(help="Folder or pulled hub id of a LoRA adapter (PEFT's or mistral-finetune's).")
    ],
    out: Annotated[Path, typer.Argument(help="Folder or .gguf file to write.")],
    *,
    base: Base = None,
    layout: Layout = None,
    stored: Stored = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fold an adapter into its base model.

    OUT answers as the base with the adapter does, in every program that reads its layout. Without --stored the
    weights keep the base's float type; quantised ones become BF16.
    """
    from tramontane.loading import open_checkpoint
    from tramontane.loading.merge import merge as merge_adapter
    from tramontane.loading.named_model import find_model

    named = find_model(adapter, base)
    if named.adapter is None:
        raise ConfigError(f"{adapter} is a whole model, no LoRA adapter; to write it otherwise: tramontane convert")
    checkpoint = open_checkpoint(named.path)
    with bytes_bar(f"writing {out}") as progress:
        merge_adapter(
            checkpoint,
            named.adapter,
            out,
            layout=chosen_layout(layout, out),
            stored=None if stored is None else stored.upper(),
            overwrite=overwrite,
            progress=progress,
        )
    report_written(out, as_json=as_json)
