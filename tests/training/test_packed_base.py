"""QLoRA: gradients through a packed base are those through its dequantised weights; and a run learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.engine.trials import native_model
from tests.training.batches import microbatch_of, random_documents
from tests.training.test_commands import conversations, train_losses
from tests.training.test_gradients_parity import relative_error
from tramontane.cli.main import run
from tramontane.model.lora import Lora, attach_lora
from tramontane.model.packed import packable
from tramontane.model.transformer import Transformer
from tramontane.ops.torch_ops import TorchOps
from tramontane.training.model_setup import prepare
from tramontane.training.recipe import LossRecipe
from tramontane.training.tasks import TextTask


def dequantised(packed: Transformer) -> Transformer:
    """The same model in plain float32 tensors."""
    plain = Transformer(packed.config, TorchOps())
    weights = {name: module.packed.dequantise() for name, module in packable(packed) if module.packed is not None}
    plain.load_state_dict(weights | packed.state_dict())
    return plain


def adapted(model: Transformer) -> Transformer:
    torch.manual_seed(0)
    attach_lora(model, rank=4, alpha=8.0)
    for module in model.modules():
        if isinstance(module, Lora):
            torch.nn.init.normal_(module.b, std=0.2)
    prepare(model, compute_dtype=torch.float32, compiled=False, checkpointing=False)
    return model


@pytest.mark.parametrize("stored", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "BF16"])
def test_loss_and_gradients_are_those_of_the_dequantised_base(stored: str) -> None:
    packed = native_model(stored, (None, 9))
    plain = adapted(dequantised(packed))
    packed = adapted(packed)
    documents = random_documents([17, 30], vocab_size=101)
    gradients = []
    for model in (packed, plain):
        objective = TextTask(LossRecipe()).objective(model, microbatch_of(model.config.sliding_windows, documents))
        objective.total.backward()  # type: ignore[no-untyped-call]
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert set(gradients[0]) == set(gradients[1])
    assert len(gradients[0]) == 2 * 7 * 2
    for name, gradient in gradients[0].items():
        assert relative_error(gradient, gradients[1][name]) < 1e-5, name


def test_an_adapter_learns_beside_a_packed_base(
    tmp_path: Path, chat_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = conversations(tmp_path / "chat.jsonl", 8)
    command = ["finetune", str(chat_checkpoint), str(data), "--run", str(tmp_path / "run"), "--epochs", "6"]
    assert run([*command, "--lr", "0.02", "--rank", "4", "--weight-format", "bf16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stopped_by"] is None
    losses = train_losses(tmp_path / "run")
    assert losses[-1] < 0.7 * losses[0]
    assert 'weight_format = "bf16"' in (tmp_path / "run" / "recipe.toml").read_text("utf-8")
    assert run([*command, "--run", str(tmp_path / "full"), "--method", "full", "--weight-format", "bf16"]) == 2
    assert "use it with method lora" in capsys.readouterr().err
