"""Fold an adapter into its base, W + (alpha / rank) B A, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tramontane.loading.adapter_files import read_adapter, read_adapter_config
from tramontane.loading.save import save_again, stream_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.formats.names import Layout
    from tramontane.loading.checkpoint import Checkpoint


def merge(
    checkpoint: Checkpoint,
    adapter: Path,
    out: Path,
    *,
    layout: Layout,
    stored: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `checkpoint` with the adapter folded in as a checkpoint of its own, else as `convert`; sums are formed in
    float32. Raises ConfigError or CheckpointError for an adapter that does not fit, before anything is written."""
    config = read_adapter_config(adapter, checkpoint.config)
    tensors = read_adapter(adapter, checkpoint.config)
    scale = config.alpha / config.rank

    def merged() -> Iterator[tuple[str, Tensor]]:
        for name, weight_OI in stream_tensors(checkpoint, progress):
            linear = name.removesuffix(".weight")
            a_RI, b_OR = tensors.get(f"{linear}.lora.a"), tensors.get(f"{linear}.lora.b")
            if a_RI is None or b_OR is None:
                yield name, weight_OI
            else:
                yield name, weight_OI.float() + scale * (b_OR @ a_RI)

    save_again(checkpoint, merged(), out, layout=layout, stored=stored, overwrite=overwrite)
