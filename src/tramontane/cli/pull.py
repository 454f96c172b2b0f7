"""`tramontane pull`: fetch a model from the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer

from tramontane.cli.options import Json
from tramontane.cli.terminal import files_bar, print_json


def pull(
    model: Annotated[str, typer.Argument(help="org/name[:file.gguf][@revision], such as mistralai/Mistral-7B-v0.3.")],
    *,
    as_json: Json = False,
) -> None:
    """Fetch a model from the Hugging Face hub.

    Every file is checked against the hub's hash; a pull that was cut short goes on where it stopped. Models are kept
    under TRAMONTANE_HOME. HF_TOKEN or `hf auth login` gives access to gated ones.
    """
    from tramontane.hub import pull as pull_model
    from tramontane.loading import open_checkpoint
    from tramontane.loading.adapter_files import adapter_bytes, is_adapter

    with files_bar() as progress:
        path = pull_model(model, progress=progress)
    size_bytes = adapter_bytes(path) if is_adapter(path) else open_checkpoint(path).size_bytes
    if as_json:
        print_json({"model": model, "path": str(path), "size_bytes": size_bytes})
    else:
        print(path)
