"""Saving and converting: the same weights and tokenizer in every layout, all or nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.loading.checkpoints import CONFIGS, DENSE, LAYOUTS, edit_json, random_weights, write
from tramontane.config import ModelConfig, RopeScaling
from tramontane.errors import CheckpointError, ConfigError
from tramontane.formats.names import Layout
from tramontane.loading import (
    convert,
    load_model,
    named_shape,
    open_checkpoint,
    open_tokenizer,
    save_checkpoint,
    stream_tensors,
    synthesise,
    tokenizer_of_size,
)

TEXT = "Le mistral, a cold wind 🌬 from the north\n\tvoid f() {}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a real tokenizer and Hugging Face's files beside it."""
    out = tmp_path_factory.mktemp("tiny") / "tiny"
    synthesise(out, named_shape("tiny-moe", dim=64, hidden_dim=96), layout="hf")
    edit_json(out / "generation_config.json", temperature=0.7)
    edit_json(out / "tokenizer_config.json", model_max_length=4096)
    (out / "optimizer.pt").write_bytes(b"not for inference")
    return out


def same_weights(first: Path, second: Path) -> bool:
    models = [load_model(open_checkpoint(path)) for path in (first, second)]
    pairs = zip(models[0].named_parameters(), models[1].named_parameters(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def test_a_round_through_every_layout_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    places: dict[Layout, Path] = {
        "consolidated": tmp_path / "consolidated",
        "gguf": tmp_path / "tiny.gguf",
        "hf": tmp_path / "hf",
    }
    token_ids = open_tokenizer(open_checkpoint(tiny)).encode(TEXT, bos=True)
    before = tiny
    for layout, out in places.items():
        checkpoint = open_checkpoint(before)
        done_bytes = []
        convert(checkpoint, out, layout=layout, progress=lambda done, total: done_bytes.append(done))  # noqa: B023
        assert done_bytes[-1] == checkpoint.size_bytes
        converted = open_checkpoint(out)
        assert (converted.layout, converted.stored) == (layout, "BF16")
        assert replace(converted.config, family="mixtral") == open_checkpoint(tiny).config
        assert open_tokenizer(converted).encode(TEXT, bos=True) == token_ids
        assert same_weights(tiny, out)
        before = out


def test_files_of_the_tokenizer_go_along_and_no_others(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "hf", layout="hf")
    convert(open_checkpoint(tiny), tmp_path / "consolidated", layout="consolidated")
    hf = {path.name for path in (tmp_path / "hf").iterdir()}
    consolidated = {path.name for path in (tmp_path / "consolidated").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors"} <= hf
    assert {
        "params.json",
        "generation_config.json",
        "tokenizer_config.json",
        "consolidated.safetensors",
    } <= consolidated
    assert not {"optimizer.pt", "params.json"} & hf
    assert not {"optimizer.pt", "config.json"} & consolidated
    assert json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())["model_max_length"] == 4096
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["torch_dtype"]) == (1, 2, "bfloat16")


def test_a_single_weights_file_finds_its_tokenizer(tiny: Path) -> None:
    assert open_tokenizer(open_checkpoint(tiny / "model.safetensors")).vocab_size == 32000


def test_quantised_weights_become_floats(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "tiny.gguf", layout="gguf", stored="Q8_0")
    assert open_checkpoint(tmp_path / "tiny.gguf").stored == "Q8_0"
    convert(open_checkpoint(tmp_path / "tiny.gguf"), tmp_path / "hf", layout="hf")
    assert open_checkpoint(tmp_path / "hf").stored == "BF16"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_streamed_tensors_are_the_stored_ones(config: ModelConfig, layout: Layout, tmp_path: Path) -> None:
    weights = random_weights(config)
    checkpoint = open_checkpoint(write(tmp_path, config, layout, weights))
    streamed = {name: tensor.clone() for name, tensor in stream_tensors(checkpoint)}
    assert streamed.keys() == weights.keys()
    assert all(torch.equal(streamed[name], weights[name]) for name in weights)


def test_what_a_layout_cannot_express_is_refused_and_nothing_written(tmp_path: Path) -> None:
    weights = random_weights(DENSE).items()
    two_windows = replace(DENSE, sliding_windows=(16, 32))
    linear = replace(DENSE, rope_scaling=RopeScaling(kind="linear", factor=2.0))
    tokenizer = tokenizer_of_size(32000)
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"sliding windows \[32, 16\] have no config.json form"):
        save_checkpoint(out, two_windows, weights, layout="hf")
    with pytest.raises(ConfigError, match="linear rope scaling of this form has no place in params"):
        save_checkpoint(out, linear, weights, layout="consolidated")
    with pytest.raises(ConfigError, match="weights in Q4_0 have no hf form; use F32, F16, BF16, or layout gguf"):
        save_checkpoint(out, DENSE, weights, layout="hf", stored="Q4_0")
    with pytest.raises(ConfigError, match=r"out must end in \.gguf: the layout gguf is one file"):
        save_checkpoint(out, DENSE, weights, layout="gguf", tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="a GGUF file holds its tokenizer, and none was given"):
        save_checkpoint(tmp_path / "out.gguf", DENSE, weights, layout="gguf")
    with pytest.raises(ConfigError, match=r"the tokenizer has 32000 tokens, the model 96; use the model's own"):
        save_checkpoint(tmp_path / "out.gguf", DENSE, weights, layout="gguf", tokenizer=tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "hf"
    convert(open_checkpoint(tiny), out, layout="hf")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(open_checkpoint(tiny), out, layout="hf", stored="F32")
    convert(open_checkpoint(tiny), out, layout="hf", stored="F32", overwrite=True)
    assert open_checkpoint(out).stored == "F32"


def test_a_failed_conversion_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    convert(open_checkpoint(tiny), source, layout="hf")
    checkpoint = open_checkpoint(source)

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    for layout, name in (("hf", "out"), ("consolidated", "out"), ("gguf", "out.gguf")):
        with pytest.raises(KeyboardInterrupt):
            convert(checkpoint, tmp_path / name, layout=layout, progress=interrupt)  # type: ignore[arg-type]
    for path in source.glob("tok*"):
        path.unlink()
    with pytest.raises(ConfigError, match="a GGUF file holds its tokenizer, and none was given"):
        convert(checkpoint, tmp_path / "out.gguf", layout="gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
