"""Writers: what others read back, bit for bit, all or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM

from tests.formats.hostile import peak_memory
from tests.formats.tiny import MISTRAL, MIXTRAL, TIED, random_weights, read_tensors
from tramontane.config.model_config import ModelConfig
from tramontane.errors import CapacityError, CheckpointError
from tramontane.formats import planned_file
from tramontane.formats.gguf_write import write_gguf
from tramontane.formats.names import canonical_shapes
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.write import write_consolidated, write_hf, write_safetensors

HF_CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "head_dim": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "sliding_window": 16,
}


def read_back(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    with open_tensors(path) as source:
        return dict(read_tensors(source, config))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def untouched(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("config", [MISTRAL, MIXTRAL, TIED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 20_000])
def test_hf_round_trip(config: ModelConfig, dtype: torch.dtype, shard_bytes: int, tmp_path: Path) -> None:
    weights = random_weights(config, dtype)
    backwards = reversed(weights.items())
    write_hf(tmp_path / "out", config, backwards, config_json={}, dtype=dtype, shard_bytes=shard_bytes)
    assert_same(read_back(tmp_path / "out", config), weights)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert (len(shards) == 1) == (shard_bytes > 20_000)
    assert untouched(tmp_path) == ["out"]
    with safe_open(shards[0], "pt") as theirs:
        assert theirs.metadata() == {"format": "pt"}


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 20_000])
def test_transformers_loads_what_we_write(shard_bytes: int, tmp_path: Path) -> None:
    """A model saved by transformers, read by us, written by us, loaded by transformers: the same weights."""
    for config, theirs in (
        (MISTRAL, MistralForCausalLM(MistralConfig(**HF_CONFIG))),
        (MIXTRAL, MixtralForCausalLM(MixtralConfig(**HF_CONFIG, num_local_experts=3))),
        (TIED, MistralForCausalLM(MistralConfig(**HF_CONFIG, tie_word_embeddings=True))),
    ):
        saved, out = tmp_path / f"{id(config)}-saved", tmp_path / f"{id(config)}-out"
        theirs.save_pretrained(saved)
        config_json = json.loads((saved / "config.json").read_text())
        with open_tensors(saved) as source:
            tensors = read_tensors(source, config)
            write_hf(out, config, tensors, config_json=config_json, dtype=torch.float32, shard_bytes=shard_bytes)
        again, report = type(theirs).from_pretrained(out, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert not report["mismatched_keys"]
        assert_same(again.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("fused", [False, True])
def test_mixtral_saved_by_transformers_in_either_form(fused: bool, tmp_path: Path) -> None:
    theirs = MixtralForCausalLM(MixtralConfig(**HF_CONFIG, num_local_experts=3))
    theirs.save_pretrained(tmp_path, save_original_format=not fused)
    ours = read_back(tmp_path, MIXTRAL)
    gate_up = theirs.state_dict()["model.layers.1.mlp.experts.gate_up_proj"]
    assert torch.equal(ours["layers.1.feed_forward.experts.2.w1.weight"], gate_up[2, :96])
    assert torch.equal(ours["layers.1.feed_forward.experts.2.w3.weight"], gate_up[2, 96:])


@pytest.mark.parametrize("config", [MISTRAL, MIXTRAL, TIED])
def test_consolidated_round_trip(config: ModelConfig, tmp_path: Path) -> None:
    weights = random_weights(config, torch.bfloat16)
    files: dict[str, Path | bytes] = {"tokenizer.model.v3": b"pieces", "tekken.json": tmp_path / "source.json"}
    (tmp_path / "source.json").write_text("{}")
    out = tmp_path / "out"
    write_consolidated(out, config, weights.items(), params_json={"dim": 64}, dtype=torch.bfloat16, files=files)
    assert untouched(out) == ["consolidated.safetensors", "params.json", "tekken.json", "tokenizer.model.v3"]
    assert json.loads((out / "params.json").read_text()) == {"dim": 64}
    assert (out / "tokenizer.model.v3").read_bytes() == b"pieces"
    assert_same(load_file(out / "consolidated.safetensors"), weights)
    assert_same(read_back(out, config), weights)


def test_weights_are_converted_on_the_way(tmp_path: Path) -> None:
    weights = random_weights(MISTRAL)
    write_consolidated(tmp_path / "out", MISTRAL, weights.items(), params_json={}, dtype=torch.bfloat16)
    assert_same(read_back(tmp_path / "out", MISTRAL), {n: w.to(torch.bfloat16) for n, w in weights.items()})


def test_mixed_dtypes_are_aligned_and_kept(tmp_path: Path) -> None:
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "half": torch.randn(3).to(torch.bfloat16),
        "step": torch.tensor(7),
        "double": torch.randn(2, 1, dtype=torch.float64),
        "none": torch.zeros(0, 4),
        "ünï": torch.tensor([True, False]),
    }
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    path = tmp_path / "state.safetensors"
    write_safetensors(path, specs, tensors.items(), metadata={"step": "7"})
    assert_same(load_file(path), tensors)
    with safe_open(path, "pt") as theirs:
        assert theirs.metadata() == {"step": "7"}
    with open_tensors(path) as source:
        assert_same({name: source.read(name) for name in source.names()}, tensors)


Writer = Callable[[Path, Iterable[tuple[str, Tensor]]], None]


def hf(out: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    write_hf(out, MISTRAL, tensors, config_json={}, dtype=torch.float32)


def consolidated(out: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    write_consolidated(out, MISTRAL, tensors, params_json={}, dtype=torch.float32)


def cut(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield from list(weights.items())[:5]
    raise KeyboardInterrupt


@pytest.mark.parametrize("write", [hf, consolidated])
def test_a_failure_leaves_nothing(write: Writer, tmp_path: Path) -> None:
    weights = random_weights(MISTRAL)
    name, tensor = "layers.1.ffn_norm.weight", weights["layers.1.ffn_norm.weight"]
    faults: list[tuple[Iterable[tuple[str, Tensor]], str]] = [
        ([item for item in weights.items() if item[0] != name], f"1 tensors were not given: '{name}'"),
        ([*weights.items(), (name, tensor)], f"tensor '{name}' was given twice"),
        ([*weights.items(), ("x", tensor)], "tensor 'x' does not belong to this model"),
        ((weights | {name: tensor[1:]}).items(), rf"'{name}' has shape \(63,\), .* calls for \(64,\)"),
    ]
    for tensors, message in faults:
        with pytest.raises(CheckpointError, match=message):
            write(tmp_path / "out", tensors)
        assert untouched(tmp_path) == []
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", cut(weights))
    assert untouched(tmp_path) == []


@pytest.mark.parametrize("write", [hf, consolidated])
def test_what_is_there_is_not_overwritten(write: Writer, tmp_path: Path) -> None:
    weights = random_weights(MISTRAL)
    out = tmp_path / "out"
    out.mkdir()
    write(out, weights.items())  # an empty folder is no loss
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(CheckpointError, match="is not empty"):
        write(out, weights.items())
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="exists already and is not a folder"):
        write(tmp_path / "file", weights.items())
    with pytest.raises(CheckpointError, match="cannot be written: No such file"):
        write(tmp_path / "no" / "out", weights.items())
    assert untouched(tmp_path) == ["file", "out"]


def test_overwriting_replaces_a_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    old, new = random_weights(MISTRAL, seed=1), random_weights(MISTRAL, seed=2)
    write_hf(out, MISTRAL, old.items(), config_json={}, dtype=torch.float32, shard_bytes=20_000)
    with pytest.raises(KeyboardInterrupt):
        write_hf(out, MISTRAL, cut(new), config_json={}, dtype=torch.float32, overwrite=True)
    assert_same(read_back(out, MISTRAL), old)
    write_hf(out, MISTRAL, new.items(), config_json={}, dtype=torch.float32, overwrite=True)
    assert_same(read_back(out, MISTRAL), new)
    assert untouched(out) == ["config.json", "model.safetensors"]
    assert untouched(tmp_path) == ["out"]
    (out / "thesis.odt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"holds 'thesis\.odt', which is no part of a checkpoint"):
        write_hf(out, MISTRAL, new.items(), config_json={}, dtype=torch.float32, overwrite=True)
    assert (out / "thesis.odt").read_text() == "years of work"


def test_a_checkpoint_can_be_rewritten_from_itself(tmp_path: Path) -> None:
    weights = random_weights(MISTRAL)
    write_consolidated(tmp_path / "out", MISTRAL, weights.items(), params_json={}, dtype=torch.float32)
    with open_tensors(tmp_path / "out") as source:
        tensors = read_tensors(source, MISTRAL)
        write_hf(tmp_path / "out", MISTRAL, tensors, config_json={}, dtype=torch.float32, overwrite=True)
    assert_same(read_back(tmp_path / "out", MISTRAL), weights)


@pytest.mark.parametrize(
    "name", ["../x.json", "/tmp/x", "a/b", "", ".", "..", "config.json", "model.safetensors", "x\0"]
)
def test_names_of_other_files_are_plain(name: str, tmp_path: Path) -> None:
    weights = random_weights(MISTRAL)
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match="cannot be the name of a file"):
        write_hf(out, MISTRAL, weights.items(), config_json={}, dtype=torch.float32, files={name: b""})
    assert untouched(tmp_path) == []


def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    weights = random_weights(MISTRAL)
    weights["norm.weight"][3] = 1e5
    with pytest.raises(CheckpointError, match=r"'norm\.weight' has weights beyond the range of float16"):
        write_hf(tmp_path / "out", MISTRAL, weights.items(), config_json={}, dtype=torch.float16)
    assert untouched(tmp_path) == []


def test_a_full_disk_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage)
    for write in (hf, consolidated):
        with pytest.raises(CapacityError, match=r"0\.0 GB free, but 0\.0 GB are to be written"):
            write(tmp_path / "out", random_weights(MISTRAL).items())
    assert untouched(tmp_path) == []


def test_a_disk_that_fills_up_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: planned_file.PlannedFile, name: str, data: Tensor) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(planned_file.PlannedFile, "put", full)
    with pytest.raises(CheckpointError, match="out cannot be written: No space left on device"):
        hf(tmp_path / "out", random_weights(MISTRAL).items())
    assert untouched(tmp_path) == []


def through_every_writer(config: ModelConfig, out: Path) -> None:
    """Tensors made one by one, written as consolidated, and from there, file to file, as the other two layouts."""
    out.mkdir()
    made = ((name, torch.full(shape, 0.5)) for name, shape in canonical_shapes(config).items())

    def copied() -> Iterator[tuple[str, Tensor]]:
        with open_tensors(out / "consolidated") as source:
            for name, tensor in read_tensors(source, config):
                yield name, tensor
                source.release(name)

    write_consolidated(out / "consolidated", config, made, params_json={}, dtype=torch.float32)
    write_hf(out / "hf", config, copied(), config_json={}, dtype=torch.bfloat16, shard_bytes=20 << 20)
    write_gguf(out / "m.gguf", config, copied(), metadata={"general.architecture": "llama"}, stored="Q8_0")


def test_one_tensor_in_memory_at_a_time(tmp_path: Path) -> None:
    """40 tensors of 4 MB go through each writer, and from file to file, within 24 MB."""
    wide = replace(MISTRAL, dim=1024, n_heads=16, n_kv_heads=16, head_dim=64, hidden_dim=1024, vocab_size=1024)
    one, six = (replace(wide, n_layers=n_layers, sliding_windows=(None,) * n_layers) for n_layers in (1, 6))
    assert sum(4 * torch.Size(shape).numel() for shape in canonical_shapes(six).values()) > 160 << 20
    through_every_writer(one, tmp_path / "one")  # what a first call of anything loads is no tensor
    with peak_memory() as growth:
        through_every_writer(six, tmp_path / "six")
    assert growth.extra_bytes < 24 << 20
