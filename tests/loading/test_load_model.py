"""Weights in memory: the right ones, in the right type, all of them, in no more memory than they need."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.loading.checkpoints import (
    CONFIGS,
    DENSE,
    EXPERTS,
    LAYOUTS,
    TIED,
    edit_json,
    random_weights,
    write,
    write_pth,
)
from tramontane.config import ModelConfig
from tramontane.errors import CapacityError, CheckpointError, ConfigError
from tramontane.formats.names import Layout
from tramontane.formats.quant_blocks import dequantise, quantise
from tramontane.loading import load_model, named_shape, open_checkpoint, synthesise


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_parameter_is_the_stored_one(config: ModelConfig, layout: Layout, tmp_path: Path) -> None:
    weights = random_weights(config)
    model = load_model(open_checkpoint(write(tmp_path, config, layout, weights)))
    parameters = dict(model.named_parameters())
    assert parameters.keys() == weights.keys()
    for name, parameter in parameters.items():
        assert torch.equal(parameter, weights[name]), name


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_pth_slices_are_put_together(num_ranks: int, tmp_path: Path) -> None:
    config = replace(DENSE, n_kv_heads=4)
    weights = random_weights(config)
    model = load_model(open_checkpoint(write_pth(tmp_path / "pth", config, weights, num_ranks=num_ranks)))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]), name


def test_first_mixtral_files_hold_stacks_of_experts(tmp_path: Path) -> None:
    """w1 and w3 by rows, w2 transposed, over files of different tensors."""
    weights = random_weights(EXPERTS)
    stacked = {name: weight for name, weight in weights.items() if "feed_forward" not in name}
    for layer in range(EXPERTS.n_layers):
        stacked[f"layers.{layer}.block_sparse_moe.gate.weight"] = weights[f"layers.{layer}.feed_forward.gate.weight"]
        for w in ("w1", "w2", "w3"):
            experts = [weights[f"layers.{layer}.feed_forward.experts.{e}.{w}.weight"] for e in range(3)]
            rows = [expert.T if w == "w2" else expert for expert in experts]
            stacked[f"layers.{layer}.block_sparse_moe.{w}"] = torch.cat(rows).contiguous()
    model = load_model(open_checkpoint(write_pth(tmp_path / "pth", EXPERTS, stacked)))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]), name


@pytest.mark.parametrize("stored", ["Q4_0", "Q8_0"])
def test_quantised_weights_are_dequantised_into_the_compute_dtype(stored: str, tmp_path: Path) -> None:
    weights = random_weights(DENSE)
    checkpoint = open_checkpoint(write(tmp_path, DENSE, "gguf", weights, stored=stored))
    name = "layers.1.feed_forward.w2.weight"
    expected = dequantise(quantise(weights[name], stored), stored, tuple(weights[name].shape))
    assert torch.equal(load_model(checkpoint, dtype="float32").get_parameter(name), expected)
    assert torch.equal(load_model(checkpoint).get_parameter(name), expected.bfloat16())


@pytest.mark.parametrize(
    ("stored", "dtype", "expected"),
    [
        ("F32", "auto", torch.float32),
        ("BF16", "auto", torch.bfloat16),
        ("F16", "auto", torch.bfloat16),  # on a CPU
        ("F16", "float16", torch.float16),
        ("BF16", "float32", torch.float32),
    ],
)
def test_dtype(stored: str, dtype: str, expected: torch.dtype, tmp_path: Path) -> None:
    model = load_model(open_checkpoint(write(tmp_path, DENSE, "hf", stored=stored)), dtype=dtype, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model.device == torch.device("cpu")


def test_progress_reaches_the_size_of_the_files(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path, EXPERTS, "gguf"))
    reports: list[tuple[int, int]] = []
    load_model(checkpoint, progress=lambda done, total: reports.append((done, total)))
    assert reports == sorted(reports)
    assert reports[-1] == (checkpoint.size_bytes, checkpoint.size_bytes)


def test_a_tied_copy_must_be_a_copy(tmp_path: Path) -> None:
    folder = write(tmp_path, DENSE, "hf")
    edit_json(folder / "config.json", tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match="differ, but the configuration ties them"):
        load_model(open_checkpoint(folder))


def test_a_tied_copy_is_not_loaded_twice(tmp_path: Path) -> None:
    weights = random_weights(TIED)
    folder = write(tmp_path, DENSE, "hf", weights | {"output.weight": weights["tok_embeddings.weight"]})
    edit_json(folder / "config.json", tie_word_embeddings=True)
    assert load_model(open_checkpoint(folder)).output is None


def test_weights_beyond_float16_are_refused_not_made_infinite(tmp_path: Path) -> None:
    weights = random_weights(DENSE)
    weights["norm.weight"][3] = 70_000.0
    checkpoint = open_checkpoint(write(tmp_path, DENSE, "hf", weights))
    with pytest.raises(ConfigError, match=r"model\.norm\.weight has weights beyond the range of float16; use --dtype"):
        load_model(checkpoint, dtype="float16")
    load_model(checkpoint, dtype="bfloat16")


def test_unknown_dtype_and_device_are_named(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path, DENSE, "hf"))
    with pytest.raises(ConfigError, match="dtype 'int4' is unknown"):
        load_model(checkpoint, dtype="int4")
    with pytest.raises(ConfigError, match="device 'abacus' is unknown"):
        load_model(checkpoint, device="abacus")


def test_weights_truncated_after_opening_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, DENSE, "hf")
    checkpoint = open_checkpoint(folder)
    os.truncate(folder / "model.safetensors", 100_000)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(checkpoint)


def test_too_little_memory_is_refused_with_numbers_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(write(tmp_path, DENSE, "hf"))
    free = 10**6
    monkeypatch.setattr("tramontane.loading.memory.available_bytes", lambda device, mapped_bytes: free)
    progress: list[tuple[int, int]] = []
    message = "as float32 needs 0.3 GB of memory on cpu, but 0.0 GB are free; free some, use a 16-bit dtype"
    with pytest.raises(CapacityError, match=message):
        load_model(checkpoint, progress=lambda done, total: progress.append((done, total)))
    assert progress == []
    monkeypatch.setattr("tramontane.loading.memory.available_bytes", lambda device, mapped_bytes: None)
    load_model(checkpoint)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 230 MB, so that memory shows."""
    out = tmp_path_factory.mktemp("big") / "big"
    synthesise(out, named_shape("tiny", dim=768, n_layers=4, hidden_dim=2048), layout="consolidated", stored="F32")
    return out


_STATUS = Path("/proc/self/status")
on_linux = pytest.mark.skipif(not _STATUS.exists(), reason="memory is measured through /proc")


def resident_bytes(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


@on_linux
def test_peak_memory_is_the_weights_and_one_tensor(big: Path) -> None:
    checkpoint = open_checkpoint(big)
    largest_bytes = checkpoint.config.vocab_size * checkpoint.config.dim * 4
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    before_bytes = resident_bytes("VmRSS")
    model = load_model(checkpoint)
    grown_bytes = resident_bytes("VmHWM") - before_bytes
    weights_bytes = checkpoint.memory_bytes(model.dtype)
    assert weights_bytes > 2 * largest_bytes
    assert grown_bytes < weights_bytes + largest_bytes + 32 * 2**20


_LOAD_UNDER_LIMITS = """
import random, resource, sys
from pathlib import Path
from tramontane.errors import CapacityError
from tramontane.loading import load_model, open_checkpoint
import torch
torch.set_num_threads(1)

checkpoint = open_checkpoint(sys.argv[1])
load_model(checkpoint)  # imports and allocators have what they need
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
outcomes = set()
chance = random.Random(0)
for _ in range(12):
    limit = used + int(chance.uniform(0, 1.2e9))
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        load_model(checkpoint)
        outcomes.add("loaded")
    except CapacityError as error:
        assert "GB" in str(error) or "did not fit" in str(error), error
        outcomes.add("refused")
print(sorted(outcomes))
"""


@on_linux
def test_under_random_limits_it_loads_or_refuses_and_never_dies(big: Path) -> None:
    command = [sys.executable, "-c", _LOAD_UNDER_LIMITS, str(big)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "['loaded', 'refused']"
