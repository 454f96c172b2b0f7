"""Synthetic checkpoints: the asked shape, type and layout, sensible numbers, the same for the same seed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.config.released import RELEASED
from tests.loading.checkpoints import DENSE, EXPERTS
from tramontane.config import ModelConfig, to_gguf_metadata
from tramontane.errors import CheckpointError, ConfigError
from tramontane.formats.gguf_write import stored_types, write_gguf
from tramontane.formats.names import Layout
from tramontane.formats.quant_blocks import BLOCK_TYPES, dequantise
from tramontane.loading import (
    SHAPES,
    load_model,
    named_shape,
    open_checkpoint,
    open_tokenizer,
    synthesise,
    tokenizer_of_size,
)
from tramontane.loading.random_weights import random_tensors
from tramontane.model.packed_attention import packed_input

SMALL = replace(DENSE, dim=256, hidden_dim=256)


@pytest.mark.parametrize(
    ("shape", "released"),
    [
        ("mistral-7b-v0.1", "mistral-7b-v0.1"),
        ("mistral-7b", "mistral-7b-v0.3"),
        ("mixtral-8x7b", "mixtral-8x7b-v0.1"),
        ("nemo-12b", "mistral-nemo-12b-2407"),
        ("ministral-8b", "ministral-8b-2410"),
        ("small-22b", "mistral-small-22b-2409"),
        ("small-24b", "mistral-small-3.1-24b-2503"),
        ("large-123b", "mistral-large-123b-2407"),
        ("llama-2-7b", "llama-2-7b"),
        ("llama-2-13b", "llama-2-13b"),
        ("llama-2-70b", "llama-2-70b"),
    ],
)
def test_named_shapes_are_those_of_the_models(shape: str, released: str) -> None:
    config, known = SHAPES[shape], RELEASED[released].read()
    same = replace(config, sliding_windows=known.sliding_windows, max_seq_len=known.max_seq_len)
    assert same == known
    if shape != "ministral-8b":  # whose config.json does not tell that three of four layers are windowed
        assert config.sliding_windows == known.sliding_windows


def test_a_shape_can_be_changed() -> None:
    config = named_shape("ministral-8b", n_layers=6, max_seq_len=100)
    assert config.sliding_windows == (None, 32768, 32768, 32768, None, 32768)
    assert (config.n_layers, config.max_seq_len, config.dim) == (6, 100, 4096)
    with pytest.raises(ConfigError, match=r"shape 'gpt' is unknown; use one of mistral-7b-v0.1, "):
        named_shape("gpt")
    with pytest.raises(ConfigError, match="'layers' is no field of a shape; use one of family, dim, n_layers"):
        named_shape("tiny", layers=2)
    with pytest.raises(ConfigError, match="n_layers=0 must be a whole number"):
        named_shape("tiny", n_layers=0)


@pytest.mark.parametrize("stored", ["F32", "BF16", "F16", *BLOCK_TYPES])
def test_every_type_can_be_made_and_computed_with(stored: str, tmp_path: Path) -> None:
    out = tmp_path / "synthetic.gguf"
    tensors = random_tensors(SMALL, stored_types(SMALL, stored, packed=True))
    write_gguf(out, SMALL, tensors, metadata=to_gguf_metadata(SMALL), stored=stored, packed=True)
    checkpoint = open_checkpoint(out)
    assert checkpoint.stored == stored
    model = load_model(checkpoint, dtype="float32")
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if values.dim() == 1:
            assert 0.6 < float(values.min()) <= float(values.max()) < 1.4
            continue
        inputs = SMALL.dim if name == "tok_embeddings.weight" else values.shape[-1]
        depth = 2 if name.endswith((".wo.weight", ".w2.weight")) else 1  # sqrt(2 n_layers)
        assert float(values.std()) * inputs**0.5 * depth == pytest.approx(1, rel=0.25), name
        assert abs(float(values.mean())) < 0.1 * float(values.std()), name
        assert float((values == 0).float().mean()) < (0.2 if stored in BLOCK_TYPES else 1e-9), name
    token_ids = torch.arange(3, 40)
    with torch.inference_mode():
        logits = model.logits(model(packed_input(model, token_ids, [len(token_ids)])))
    assert bool(logits.isfinite().all())
    assert 0.3 < float(logits.std()) < 3


@pytest.mark.parametrize("layout", ["hf", "consolidated", "gguf"])
def test_every_layout_brings_a_tokenizer_that_fits(layout: Layout, tmp_path: Path) -> None:
    out = tmp_path / ("out.gguf" if layout == "gguf" else "out")
    config = replace(EXPERTS, vocab_size=32000)
    reports: list[tuple[int, int]] = []
    synthesise(out, config, layout=layout, stored="F32", progress=lambda done, total: reports.append((done, total)))
    checkpoint = open_checkpoint(out)
    assert replace(checkpoint.config, family="mixtral") == config
    assert open_tokenizer(checkpoint).vocab_size == 32000
    assert reports[-1] == (config.num_parameters(), config.num_parameters())


@pytest.mark.parametrize("vocab_size", sorted({config.vocab_size for config in SHAPES.values()}))
def test_every_shape_has_a_tokenizer(vocab_size: int) -> None:
    assert tokenizer_of_size(vocab_size).vocab_size == vocab_size


def test_a_vocabulary_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tokenizer of 96 tokens to go with it; use vocab_size 8192, 32000, 32768"):
        synthesise(tmp_path / "out", DENSE)
    assert list(tmp_path.iterdir()) == []


def test_impossible_types_are_refused(tmp_path: Path) -> None:
    config = replace(DENSE, vocab_size=32000)
    with pytest.raises(ConfigError, match="weights in Q4_K have no hf form"):
        synthesise(tmp_path / "out", config, stored="Q4_K")
    with pytest.raises(CheckpointError, match="cannot write GGUF as 'IQ2_XS'"):
        synthesise(tmp_path / "out.gguf", config, layout="gguf", stored="IQ2_XS")


def digest(config: ModelConfig, stored: str, seed: int) -> str:
    types = stored_types(config, stored, packed=True)
    result = hashlib.sha256()
    for name, tensor in random_tensors(config, types, seed=seed):
        result.update(name.encode() + tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return result.hexdigest()


@pytest.mark.parametrize("stored", ["BF16", "Q4_0", "Q4_K"])
def test_the_seed_fixes_the_weights(stored: str) -> None:
    config = replace(DENSE, dim=256, hidden_dim=256)
    first = digest(config, stored, 1)
    assert digest(config, stored, 1) == first
    assert digest(config, stored, 2) != first


@pytest.mark.parametrize("stored", ["BF16", "Q4_K"])
def test_rows_and_tensors_differ_although_the_pool_repeats(stored: str) -> None:
    config = replace(SMALL, hidden_dim=30_000)
    tensors = dict(random_tensors(config, stored_types(config, stored, packed=True)))
    w1 = tensors["layers.0.feed_forward.w1.weight"]
    assert len({bytes(row) for row in w1.view(torch.uint8).reshape(len(w1), -1).numpy()}) == len(w1)
    assert not torch.equal(w1, tensors["layers.1.feed_forward.w1.weight"])


@pytest.mark.parametrize("stored", ["Q2_K", "Q4_K", "Q5_K"])
def test_k_blocks_are_symmetric_around_zero(stored: str) -> None:
    """Their minimum is half their range in every group, which a scale packed in the wrong bits would break."""
    tensors = dict(random_tensors(SMALL, stored_types(SMALL, stored, packed=True)))
    blocks = tensors["layers.0.feed_forward.w1.weight"].reshape(-1, BLOCK_TYPES[stored].block_bytes)
    groups = dequantise(blocks, stored, (len(blocks), 256)).reshape(-1, 16 if stored == "Q2_K" else 32)
    low, high = groups.amin(dim=1), groups.amax(dim=1)
    assert float((high - low).min()) > 0.1 * float((high - low).max())
    assert float(((high + low).abs() / (high - low)).mean()) < 0.1
