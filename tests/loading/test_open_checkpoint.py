"""What is known of a checkpoint before a weight is read, and what is refused then."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.loading.checkpoints import CONFIGS, DENSE, LAYOUTS, edit_json, random_weights, write, write_pth
from tramontane.config import ModelConfig
from tramontane.errors import CheckpointError, ConfigError
from tramontane.formats.names import Layout
from tramontane.formats.write import write_safetensors
from tramontane.loading import open_checkpoint


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_describes_every_layout(config: ModelConfig, layout: Layout, tmp_path: Path) -> None:
    path = write(tmp_path, config, layout)
    checkpoint = open_checkpoint(path)
    assert replace(checkpoint.config, family=config.family) == config
    assert (checkpoint.path, checkpoint.weights, checkpoint.layout) == (path, path, layout)
    assert (checkpoint.stored, checkpoint.dtype) == ("F32", torch.float32)
    assert checkpoint.num_parameters == config.num_parameters()
    assert checkpoint.size_bytes == checkpoint.memory_bytes(torch.float32) == 4 * config.num_parameters()
    assert (checkpoint.gguf_metadata is not None) == (layout == "gguf")


@pytest.mark.parametrize(
    ("stored", "dtype"), [("BF16", torch.bfloat16), ("F16", torch.float16), ("Q8_0", torch.bfloat16)]
)
def test_names_the_type_most_weights_are_stored_in(stored: str, dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path, DENSE, "gguf", stored=stored))
    assert (checkpoint.stored, checkpoint.dtype) == (stored, dtype)
    assert checkpoint.size_bytes < 0.6 * checkpoint.memory_bytes(torch.float32)


def test_a_file_stands_for_its_folder(tmp_path: Path) -> None:
    folder = write(tmp_path, DENSE, "hf")
    checkpoint = open_checkpoint(folder / "model.safetensors")
    assert (checkpoint.path, checkpoint.weights) == (folder, folder / "model.safetensors")


def test_knows_what_sampling_its_makers_advise(tmp_path: Path) -> None:
    folder = write(tmp_path, DENSE, "hf")
    assert open_checkpoint(folder).sampling == {}
    (folder / "generation_config.json").write_text('{"temperature": 0.5, "eos_token_id": 2}')
    assert open_checkpoint(folder).sampling == {"temperature": 0.5}
    (folder / "generation_config.json").write_text('{"temperature": "hot"}')
    with pytest.raises(ConfigError, match=r"generation_config.json: temperature='hot' must be a number"):
        open_checkpoint(folder)


def test_a_folder_stands_for_its_only_gguf(tmp_path: Path) -> None:
    path = write(tmp_path, DENSE, "gguf")
    assert open_checkpoint(tmp_path).path == path


def test_pth_of_meta_and_mistral(tmp_path: Path) -> None:
    config = replace(DENSE, n_kv_heads=4, head_dim=16, hidden_dim=176, sliding_windows=(None, None), max_seq_len=4096)
    folder = write_pth(tmp_path / "llama", config, random_weights(config, torch.float16), num_ranks=2)
    meta = {"dim": 64, "multiple_of": 16, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-5, "vocab_size": -1}
    (folder / "params.json").write_text(json.dumps(meta))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config == replace(config, family="llama")
    assert checkpoint.stored == "F16"


def test_older_params_json_takes_its_length_from_the_config_beside_it(tmp_path: Path) -> None:
    folder = write(tmp_path, DENSE, "consolidated")
    edit_json(folder / "params.json", max_seq_len=None)
    assert open_checkpoint(folder).config.max_seq_len == 32768
    edit_json(folder / "config.json", max_position_embeddings=512)
    assert open_checkpoint(folder).config.max_seq_len == 512
    edit_json(folder / "config.json", text_config={"max_position_embeddings": 256})
    assert open_checkpoint(folder).config.max_seq_len == 256


@pytest.mark.parametrize("layout", ["hf", "consolidated"])
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "processor_config.json",
        "preprocessor_config.json",
    ],
)
def test_code_is_asked_for_in_vain(name: str, layout: Layout, tmp_path: Path) -> None:
    folder = write(tmp_path, DENSE, layout)
    edit_json(folder / name, auto_map={"AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.T", None]})
    with pytest.raises(ConfigError, match=f"{folder}: {name}: auto_map=.* code from the checkpoint, which is never"):
        open_checkpoint(folder)


@pytest.mark.parametrize("layout", ["hf", "consolidated"])
def test_a_configuration_that_is_missing_or_unknown_is_named_with_its_folder(layout: Layout, tmp_path: Path) -> None:
    folder = write(tmp_path, DENSE, layout)
    path = folder / ("config.json" if layout == "hf" else "params.json")
    edit_json(path, softcap=30)
    with pytest.raises(ConfigError, match=f"^{folder}: {path.name}: softcap=30 is a setting this version does not"):
        open_checkpoint(folder)
    path.unlink()
    with pytest.raises(ConfigError, match=f"^{path} is missing; fetch the checkpoint again"):
        open_checkpoint(folder)


def test_another_architecture_in_gguf_is_named_with_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, DENSE, "gguf")
    path.write_bytes(path.read_bytes().replace(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0gemma", 1))
    with pytest.raises(ConfigError, match=f"^{path}: GGUF metadata: general.architecture='gemma' is not supported"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intermediate_size": 95}, r"'model\.layers\.0\.mlp.* has shape"),
        ({"num_key_value_heads": 4}, r"'model\.layers\.0\.self_attn.* has shape"),
        ({"num_hidden_layers": 3}, "9 tensors are missing"),
        ({"num_hidden_layers": 1}, "9 tensors do not belong"),
    ],
)
def test_weights_that_do_not_fit_are_refused_unread(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write(tmp_path, DENSE, "hf")
    edit_json(folder / "config.json", **change)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_missing_and_surplus_tensors_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, DENSE, "consolidated")
    weights = random_weights(DENSE)
    norm = weights.pop("norm.weight")
    for tensors, message in (
        (weights, "1 tensors are missing: 'norm.weight'"),
        (
            {**weights, "norm.weight": norm, "layers.2.ffn_norm.weight": norm},
            "1 tensors do not belong to this model: 'layers.2.ffn_norm.weight'",
        ),
    ):
        specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        write_safetensors(folder / "consolidated.safetensors", specs, tensors.items(), overwrite=True)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(folder)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path} holds no weights"):
        open_checkpoint(tmp_path)
