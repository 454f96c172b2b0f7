"""Average the weights of models that came from one another, such as two runs from the same beginning (Wortsman et al.
2022, Model soups, https://arxiv.org/abs/2203.05482), one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from math import isfinite
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING

from tramontane.errors import ConfigError
from tramontane.loading.save import save_again, stream_tensors
from tramontane.loading.tokenizer import find_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.formats.names import Layout
    from tramontane.loading.checkpoint import Checkpoint


def average(
    checkpoints: Sequence[Checkpoint],
    out: Path,
    *,
    shares: Sequence[float] | None = None,
    layout: Layout,
    stored: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the weighted mean of the checkpoints' weights, else as `convert` writes the first of them; sums are formed
    in float32. `shares` are relative to their sum; without them all count alike.

    Raises ConfigError, before anything is written, for models of different shapes, vocabularies or layouts, and for
    shares that are not one positive number each.
    """
    shares = shares or [1.0] * len(checkpoints)
    if len(shares) != len(checkpoints) or not all(isfinite(share) and share > 0 for share in shares):
        raise ConfigError(f"shares must be {len(checkpoints)} positive numbers, one for each model, not {shares}")
    first, *others = checkpoints
    vocabulary = _vocabulary(first)
    for other in others:
        if other.layout != first.layout:
            raise ConfigError(f"{other.path} has another layout than {first.path}: convert it to {first.layout} first")
        if other.config != first.config or _vocabulary(other) != vocabulary:
            raise ConfigError(
                f"{other.path} has another configuration or tokenizer than {first.path}: only weights that came from "
                "the same beginning have a mean that means anything"
            )

    def averaged() -> Iterator[tuple[str, Tensor]]:
        streams = [stream_tensors(first, progress), *map(stream_tensors, others)]
        for named in zip(*streams, strict=True):
            parts = (share / sum(shares) * tensor.float() for share, (_, tensor) in zip(shares, named, strict=True))
            yield named[0][0], reduce(add, parts)

    save_again(first, averaged(), out, layout=layout, stored=stored, overwrite=overwrite)


def _vocabulary(checkpoint: Checkpoint) -> dict[str, object] | None:
    tokenizer = find_tokenizer(checkpoint)
    return None if tokenizer is None else tokenizer.gguf_metadata()
