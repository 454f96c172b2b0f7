"""A tiny checkpoint that can chat, written once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.tiny import tiny_config
from tests.tokenizer.vocabularies import ours
from tramontane.model.init import initialise
from tramontane.model.transformer import Transformer
from tramontane.ops.torch_ops import TorchOps


@pytest.fixture(scope="session")
def chat_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: three narrow layers, version 7's chat format, random weights of trainable size."""
    from tramontane.loading import save_checkpoint

    tokenizer = ours("v7-small")
    config = tiny_config(vocab_size=tokenizer.vocab_size, sliding_windows=(64, None, 64))
    model = Transformer(config, TorchOps())
    initialise(model, seed=0, std=0.1)
    out = tmp_path_factory.mktemp("checkpoints") / "base"
    tensors = ((name, parameter.detach()) for name, parameter in model.named_parameters())
    save_checkpoint(out, config, tensors, layout="hf", stored="F32", tokenizer=tokenizer)
    return out
