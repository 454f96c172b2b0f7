"""`tramontane merge`: an adapter folded into its base, as a checkpoint that needs no adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tramontane.cli.convert import Layout, Overwrite, Stored, chosen_layout, report_written
from tramontane.cli.options import Json
from tramontane.cli.terminal import bytes_bar


def merge(
    adapter: Annotated[str, typer.Argument(help="Folder of a LoRA adapter in PEFT's format.")],
    out: Annotated[Path, typer.Argument(help="Folder or .gguf file to write.")],
    *,
    base: Annotated[
        str | None, typer.Option(help="The model the adapter is for (default: the one it names itself).")
    ] = None,
    layout: Layout = None,
    stored: Stored = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fold an adapter into its base model.

    OUT answers as the base with the adapter does, in every program that reads its layout. Without --stored the
    weights keep the base's float type; quantised ones become BF16.
    """
    from tramontane.hub import resolve_model
    from tramontane.loading import open_checkpoint
    from tramontane.loading.adapter_files import adapter_base
    from tramontane.loading.merge import merge as merge_adapter

    folder = resolve_model(adapter)
    checkpoint = open_checkpoint(resolve_model(base or adapter_base(folder)))
    with bytes_bar(f"writing {out}") as progress:
        merge_adapter(
            checkpoint,
            folder,
            out,
            layout=chosen_layout(layout, out),
            stored=None if stored is None else stored.upper(),
            overwrite=overwrite,
            progress=progress,
        )
    report_written(out, as_json=as_json)
