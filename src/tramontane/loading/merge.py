"""Fold an adapter into its base, W + scale B A, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tramontane.loading.adapter_files import read_adapter
from tramontane.loading.save import save_again, stream_tensors
from tramontane.loading.tokenizer import with_adapters_tokenizer

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
    """Write `checkpoint` with the adapter folded in, and the adapter's tokenizer if it has its own, as a checkpoint
    that needs no adapter, else as `convert`; sums are formed in float32.

    Raises ConfigError or CheckpointError for an adapter that does not fit, before anything is written.
    """
    checkpoint = with_adapters_tokenizer(checkpoint, adapter)
    config, tensors = read_adapter(adapter, checkpoint.config)

    def merged() -> Iterator[tuple[str, Tensor]]:
        for name, weight_OI in stream_tensors(checkpoint, progress):
            linear = name.removesuffix(".weight")
            shape = config.shapes.get(linear)
            if shape is None:
                yield name, weight_OI
            else:
                delta_OI = tensors[f"{linear}.lora.b"] @ tensors[f"{linear}.lora.a"]
                yield name, weight_OI.float() + shape.scale * delta_OI

    save_again(checkpoint, merged(), out, layout=layout, stored=stored, overwrite=overwrite)
