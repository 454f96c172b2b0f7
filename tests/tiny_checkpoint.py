"""A tiny random checkpoint on disk with one of Mistral's real tokenizers: the smallest thing `LLM` can open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.model.tiny import tiny_config, tiny_model
from tests.tokenizer.vocabularies import ours
from tramontane.formats.names import Layout
from tramontane.loading import save_checkpoint


def write_tiny_checkpoint(
    out: Path, *, vocabulary: str = "v7-small", layout: Layout = "hf", stored: str = "F32", **config: Any
) -> Path:
    """Write one at `out` (a .gguf file for layout gguf) and return it."""
    tokenizer = ours(vocabulary)
    model = tiny_model(tiny_config(vocab_size=tokenizer.vocab_size, **config))
    save_checkpoint(out, model.config, model.state_dict().items(), layout=layout, stored=stored, tokenizer=tokenizer)
    return out
