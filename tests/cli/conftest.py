"""A tiny checkpoint with a real vocabulary, written once per session, for tests of whole commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.tiny import tiny_config, tiny_model
from tests.tokenizer.vocabularies import ours


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: three layers of width 48, version 7's chat format, random weights."""
    from tramontane.loading import save_checkpoint

    tokenizer = ours("v7-small")
    config = tiny_config(vocab_size=tokenizer.vocab_size, max_seq_len=2048, sliding_windows=(64, None, 64))
    out = tmp_path_factory.mktemp("checkpoints") / "tiny"
    tensors = tiny_model(config).named_parameters()
    save_checkpoint(out, config, tensors, layout="hf", stored="F32", tokenizer=tokenizer)
    return out
