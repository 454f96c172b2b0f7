"""synthesise: a checkpoint of a given shape with random weights, in any layout and type, for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tramontane.errors import ConfigError
from tramontane.formats.gguf_write import stored_types
from tramontane.formats.names import Layout, canonical_shapes
from tramontane.formats.tensor_source import FLOAT_DTYPES
from tramontane.hub.store import default_model
from tramontane.loading.random_weights import random_tensors
from tramontane.loading.save import save_checkpoint
from tramontane.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.config import ModelConfig
    from tramontane.tokenizer import Tokenizer

# By size: Mistral's own vocabularies, as mistral-common carries them, and that of the default model
_DEFAULT_SIZE = 8192
_TOKENIZERS = {
    32000: "tokenizer.model.v1",
    32768: "mistral_instruct_tokenizer_240323.model.v3",
    131072: "tekken_240911.json",
}


def synthesise(
    out: Path,
    config: ModelConfig,
    *,
    layout: Layout = "hf",
    stored: str = "BF16",
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a checkpoint of `config` with random weights at `out`; else as `save_checkpoint`.

    In GGUF `stored` may be any type that can be read, the K formats included. The tokenizer is one of that
    size. `progress` is called with (weights written, weights in all).
    """
    if layout == "gguf":
        types = stored_types(config, stored, packed=True)
    elif stored in FLOAT_DTYPES:
        types = dict.fromkeys(canonical_shapes(config), stored)
    else:
        raise ConfigError(f"weights in {stored} have no {layout} form; use {', '.join(FLOAT_DTYPES)}, or layout gguf")
    save_checkpoint(
        out,
        config,
        _reported(random_tensors(config, types, seed=seed), config, progress),
        layout=layout,
        stored=stored,
        packed=True,
        tokenizer=tokenizer_of_size(config.vocab_size),
        overwrite=overwrite,
    )


def tokenizer_of_size(vocab_size: int) -> Tokenizer:
    """Mistral's tokenizer of so many tokens, or the default model's. Raises ConfigError if there is none."""
    if vocab_size == _DEFAULT_SIZE:
        return load_tokenizer(default_model())
    spec = find_spec("mistral_common")
    if vocab_size not in _TOKENIZERS or spec is None or spec.origin is None:
        sizes = ", ".join(map(str, (_DEFAULT_SIZE, *_TOKENIZERS)))
        raise ConfigError(f"there is no tokenizer of {vocab_size} tokens to go with it; use vocab_size {sizes}")
    return load_tokenizer(Path(spec.origin).parent / "data" / _TOKENIZERS[vocab_size])


def _reported(
    tensors: Iterable[tuple[str, Tensor]], config: ModelConfig, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str, Tensor]]:
    done = 0
    for name, tensor in tensors:
        yield name, tensor
        rows = canonical_shapes(config)[name]
        done += rows[0] * (rows[1] if len(rows) > 1 else 1)
        if progress is not None:
            progress(done, config.num_parameters())
