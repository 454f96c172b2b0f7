"""Packed weights in memory: the stored blocks untouched, anything else quantised, all of them, in bounded memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.loading.checkpoints import CONFIGS, DENSE, EXPERTS, LAYOUTS, TIED, edit_json, random_weights, write
from tramontane.config import ModelConfig
from tramontane.errors import CapacityError, CheckpointError, ConfigError
from tramontane.formats.names import Layout
from tramontane.formats.quant_blocks import dequantise, quantise
from tramontane.loading import load_model, open_checkpoint, resolve_weight_format, synthesise
from tramontane.model.packed import packable
from tramontane.model.transformer import Transformer
from tramontane.ops.packed_weight import PackedWeight

CPU = torch.device("cpu")
WIDE = replace(DENSE, dim=256, n_heads=8, head_dim=32, hidden_dim=512)


def packed(model: Transformer) -> dict[str, PackedWeight]:
    held = {name: module.packed for name, module in packable(model)}
    return {name: weight for name, weight in held.items() if weight is not None}


def quantised(weight: Tensor, stored: str) -> Tensor:
    return dequantise(quantise(weight, stored), stored, tuple(weight.shape))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_float_weights_are_held_as_stored(config: ModelConfig, layout: Layout, tmp_path: Path) -> None:
    weights = random_weights(config, torch.bfloat16)
    model = load_model(open_checkpoint(write(tmp_path, config, layout, weights, "BF16")), weight_format="auto")
    assert model.decoder is not None
    held = packed(model)
    assert held.keys() | dict(model.named_parameters()).keys() == weights.keys()
    for name, weight in held.items():
        assert weight.format == ("f32" if name.endswith(".gate.weight") else "bf16")
        assert torch.equal(weight.dequantise(), weights[name].float()), name
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name].float()), name
    assert model.weights_bytes < 2.2 * config.num_parameters() + 4 * 2 * 10 * 64 + 10_000


@pytest.mark.parametrize("stored", ["Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_stored_blocks_are_packed_without_loss(stored: str, tmp_path: Path) -> None:
    synthesise(tmp_path / "m.gguf", replace(WIDE, vocab_size=32000), layout="gguf", stored=stored)
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    plain = dict(load_model(checkpoint, dtype="float32").named_parameters())
    held = packed(load_model(checkpoint, weight_format="auto"))
    assert stored.lower() in {weight.format for weight in held.values()}
    for name, weight in held.items():
        assert torch.equal(weight.dequantise(), plain[name]), name


@pytest.mark.parametrize("chunk_weights", [1 << 24, 64 * 33])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_float_weights_are_quantised_as_they_come(
    layout: Layout, chunk_weights: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one piece or in runs of two panels: the same blocks."""
    monkeypatch.setattr("tramontane.formats.read._CHUNK_WEIGHTS", chunk_weights)
    weights = random_weights(EXPERTS)
    checkpoint = open_checkpoint(write(tmp_path, EXPERTS, layout, weights))
    for weight_format in ("q8_0", "q4_0"):
        for name, weight in packed(load_model(checkpoint, weight_format=weight_format)).items():
            if name.endswith(".gate.weight"):
                assert torch.equal(weight.dequantise(), weights[name])
            else:
                expected = "q8_0" if name == "output.weight" else weight_format
                assert weight.format == expected
                assert torch.equal(weight.dequantise(), quantised(weights[name], expected.upper())), name


def test_super_blocks_are_quantised_as_they_come_where_rows_hold_them(tmp_path: Path) -> None:
    config = replace(WIDE, tied_embeddings=True)
    weights = random_weights(config)
    held = packed(load_model(open_checkpoint(write(tmp_path, config, "hf", weights)), weight_format="q4_k"))
    assert {weight.format for weight in held.values()} == {"q4_k", "q8_0"}  # the output matrix is tied
    for name, weight in held.items():
        if weight.format == "q4_k":
            error = (weight.dequantise() - weights[name]).norm() / weights[name].norm()
            assert error < 0.09, name  # 4.5 bits of a normal distribution


def test_blocks_of_other_types_are_held_with_more_bits(tmp_path: Path) -> None:
    weights = random_weights(TIED)
    checkpoint = open_checkpoint(write(tmp_path, TIED, "gguf", weights, "Q5_1"))
    held = packed(load_model(checkpoint, weight_format="auto"))
    name = "layers.1.feed_forward.w2.weight"
    assert held[name].format == "bf16"
    assert torch.equal(held[name].dequantise(), quantised(weights[name], "Q5_1").bfloat16().float())


def test_requantising_a_mixed_file_keeps_what_has_the_format_already(tmp_path: Path) -> None:
    weights = random_weights(TIED)
    checkpoint = open_checkpoint(write(tmp_path, TIED, "gguf", weights, "Q4_0"))
    held = packed(load_model(checkpoint, weight_format="q4_0"))
    name = "layers.0.attention.wo.weight"
    assert torch.equal(held[name].dequantise(), quantised(weights[name], "Q4_0"))
    wide = write(tmp_path, replace(WIDE, family="llama", sliding_windows=(None, None)), "gguf", stored="Q4_0")
    with pytest.raises(ConfigError, match=r"is stored as Q4_0 and cannot be made q5_k; weights are quantised to q8_0"):
        load_model(open_checkpoint(wide), weight_format="q5_k")


def test_what_a_format_cannot_hold_is_named_with_the_remedy(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path, DENSE, "hf"))
    message = r"tok_embeddings\.weight: q4_k holds no rows of 64 weights; use q8_0 or q4_0"
    with pytest.raises(ConfigError, match=message):
        load_model(checkpoint, weight_format="q4_k")
    weights = random_weights(DENSE)
    weights["layers.0.attention.wo.weight"][3, 3] = float("inf")
    broken = open_checkpoint(write(tmp_path, DENSE, "consolidated", weights))
    message = r"attention\.wo\.weight: a weight is infinite or not a number; it cannot be quantised to q8_0"
    with pytest.raises(ConfigError, match=message):
        load_model(broken, weight_format="q8_0")
    with pytest.raises(ConfigError, match="beyond the range of f16; hold the weights in bf16"):
        load_model(broken, weight_format="f16")


def test_progress_reaches_the_size_of_the_files(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path, EXPERTS, "gguf"))
    reports: list[tuple[int, int]] = []
    load_model(checkpoint, weight_format="q8_0", progress=lambda done, total: reports.append((done, total)))
    assert reports == sorted(reports)
    assert reports[-1] == (checkpoint.size_bytes, checkpoint.size_bytes)


def test_a_tied_copy_must_be_a_copy(tmp_path: Path) -> None:
    folder = write(tmp_path, DENSE, "hf")
    edit_json(folder / "config.json", tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match="differ, but the configuration ties them"):
        load_model(open_checkpoint(folder), weight_format="auto")


def test_too_little_memory_is_refused_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(write(tmp_path, DENSE, "hf"))
    monkeypatch.setattr("tramontane.loading.memory.available_bytes", lambda device, mapped_bytes: 10**6)
    with pytest.raises(CapacityError, match=r"as q8_0 needs 0\.3 GB of memory on cpu, .* a smaller weight format"):
        load_model(checkpoint, weight_format="q8_0")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "auto"),
        ({"dtype": "float32"}, "auto"),
        ({"dtype": "bfloat16"}, None),  # only torch computes in it
        ({"weight_format": "torch"}, None),
        ({"device": torch.device("cuda")}, None),
        ({"weight_format": "q4_k", "dtype": "float32"}, "q4_k"),
        ({"config": replace(DENSE, head_dim=512)}, None),  # beyond the kernels
        ({"config": replace(DENSE, head_dim=512), "weight_format": "q8_0"}, "q8_0"),
    ],
)
def test_which_format_is_held(changes: dict[str, Any], expected: str | None) -> None:
    asked: dict[str, Any] = {"weight_format": "auto", "dtype": "auto", "device": CPU, "config": DENSE} | changes
    assert resolve_weight_format(**asked) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_format": "q3_x"}, "weight_format='q3_x' is unknown; use auto, torch or one of f32, bf16"),
        ({"device": torch.device("cuda")}, "weight_format=q8_0 is for CPUs; leave it out on cuda"),
        ({"dtype": "bfloat16"}, "q8_0 weights are computed in float32, not bfloat16"),
    ],
)
def test_formats_that_cannot_be_had(changes: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"weight_format": "q8_0", "dtype": "auto", "device": CPU, "config": DENSE} | changes
    with pytest.raises(ConfigError, match=message):
        resolve_weight_format(**asked)
