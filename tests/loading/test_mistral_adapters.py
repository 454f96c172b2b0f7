"""Adapters as mistral-finetune writes them: `lora.safetensors` beside a params.json that says rank and scaling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.model.test_packed import DENSE, MIXTURE
from tests.model.tiny import tiny_config, tiny_model
from tests.tiny_checkpoint import write_tiny_checkpoint
from tramontane import LLM
from tramontane.config import ModelConfig
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.errors import CheckpointError, ConfigError
from tramontane.loading import load_model, open_checkpoint, save_checkpoint
from tramontane.loading.adapter_files import is_adapter, open_adapter, read_adapter, write_adapter
from tramontane.model.linear import Linear
from tramontane.model.lora import ALL_LINEARS
from tramontane.model.transformer import Transformer

IDS = list(range(3, 25))


def written(folder: Path, model: Transformer, *, rank: int = 3, lora: Any = None) -> dict[str, torch.Tensor]:
    """An adapter's folder; its tensors under the names of the file."""
    torch.manual_seed(0)
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear) and name.rpartition(".")[2] in ALL_LINEARS:
            tensors[f"{name}.lora_A.weight"] = 0.2 * torch.randn(rank, module.in_features)
            tensors[f"{name}.lora_B.weight"] = 0.2 * torch.randn(module.out_features, rank)
    folder.mkdir()
    save_file(tensors, folder / "lora.safetensors")
    lora = lora or {"enable": True, "rank": rank, "dropout": 0.0, "scaling": 1.5}
    (folder / "params.json").write_text(json.dumps({"dim": model.config.dim, "lora": lora}), "utf-8")
    return tensors


@pytest.mark.parametrize("config", [DENSE, MIXTURE], ids=["dense", "mixture"])
def test_it_computes_as_its_own_programs_merge_it(config: ModelConfig, tmp_path: Path) -> None:
    model, merged = tiny_model(config), tiny_model(config)
    tensors = written(tmp_path / "adapter", model)
    assert is_adapter(tmp_path / "adapter")
    with torch.no_grad():
        for name, module in merged.named_modules():
            if f"{name}.lora_A.weight" in tensors and isinstance(module, Linear):
                module.weight.add_(tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"], alpha=1.5)
    options = EngineConfig(page_size=8)
    expected, bare = Engine(merged, options).logits(IDS), Engine(model, options).logits(IDS)
    found = Engine(model, options).logits(IDS, adapter=open_adapter(tmp_path / "adapter", model))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (bare - expected).abs().max() > 0.01
    read, values = read_adapter(tmp_path / "adapter", config)
    write_adapter(tmp_path / "peft", config, read, values)
    assert read_adapter(tmp_path / "peft", config)[0] == read
    again = Engine(model, options).logits(IDS, adapter=open_adapter(tmp_path / "peft", model))
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"enable": True}, "lora must say rank and scaling"),
        ({"rank": 3, "scaling": "2"}, "lora must say rank and scaling"),
        ({"rank": 4, "scaling": 2.0}, "has shape"),
    ],
)
def test_what_does_not_say_what_it_is_is_refused(lora: Any, words: str, tmp_path: Path) -> None:
    model = tiny_model()
    written(tmp_path / "adapter", model, lora=lora)
    with pytest.raises((ConfigError, CheckpointError), match=words):
        read_adapter(tmp_path / "adapter", model.config)


def test_one_of_other_layers_or_linears_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    tensors = written(tmp_path / "adapter", model)
    with pytest.raises(CheckpointError, match="missing"):
        read_adapter(tmp_path / "adapter", tiny_config(n_layers=model.config.n_layers + 1))
    router = {"layers.0.feed_forward.gate.lora_A.weight": torch.zeros(3, model.config.dim)}
    save_file(tensors | router, tmp_path / "adapter" / "lora.safetensors")
    with pytest.raises(CheckpointError, match="weight' belongs to no weight"):
        read_adapter(tmp_path / "adapter", model.config)


def test_it_opens_with_its_base_and_a_merged_one_is_a_model(tmp_path: Path) -> None:
    base = write_tiny_checkpoint(tmp_path / "base")
    model = load_model(open_checkpoint(base), dtype="float32")
    written(tmp_path / "adapter", model)
    with pytest.raises(ConfigError, match="does not say which model it is for; name that with --base"):
        LLM(str(tmp_path / "adapter"))
    save_checkpoint(tmp_path / "merged", model.config, model.state_dict().items(), layout="consolidated", stored="F32")
    params = tmp_path / "merged" / "params.json"
    document = json.loads(params.read_text("utf-8")) | {"lora": {"enable": True, "rank": 3, "scaling": 1.5}}
    params.write_text(json.dumps(document), "utf-8")
    (tmp_path / "merged" / "lora.safetensors").write_bytes((tmp_path / "adapter" / "lora.safetensors").read_bytes())
    assert not is_adapter(tmp_path / "merged")
    assert open_checkpoint(tmp_path / "merged").config == model.config
