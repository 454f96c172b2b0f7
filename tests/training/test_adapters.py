"""LoRA against `peft`: loss, gradients, and the files in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.tiny_models import VOCAB_SIZE, build
from tests.training.batches import microbatch_of, random_documents
from tests.training.test_gradients_parity import relative_error, to_ours
from tramontane.loading.adapter_files import AdapterConfig, read_adapter, write_adapter
from tramontane.model.lora import without_lora
from tramontane.training.adapters import adapter_tensors, load_adapter
from tramontane.training.model_setup import prepare
from tramontane.training.recipe import LossRecipe
from tramontane.training.tasks import TextTask

# peft 0.21 reads an attribute that transformers has renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def peft_model(seed: int = 0) -> Any:
    """A tiny Mistral whose adapters already differ from zero."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(build("mistral_windowed"), LoraConfig(r=4, lora_alpha=12, target_modules=MODULES))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.2)
    return model


def test_loss_and_gradients_equal_peft(tmp_path: Path) -> None:
    theirs = peft_model()
    ours = to_ours(build("mistral_windowed"), tmp_path / "base")
    theirs.save_pretrained(tmp_path / "adapter")
    config = load_adapter(ours, tmp_path / "adapter")
    assert (config.ranks, config.scales, len(config.targets)) == ((4,), (3.0,), 7)
    windows = prepare(ours, compute_dtype=torch.float32, compiled=False, checkpointing=False)
    [document] = random_documents([33], vocab_size=VOCAB_SIZE)
    objective = TextTask(LossRecipe()).objective(ours, microbatch_of(windows, [document]))
    (objective.total / objective.weight).backward()  # type: ignore[no-untyped-call]
    ids = torch.tensor([document])
    their_loss = theirs(input_ids=ids, labels=ids).loss
    their_loss.backward()
    torch.testing.assert_close(objective.total / objective.weight, their_loss, rtol=1e-5, atol=0)

    with torch.no_grad():  # their gradients through our reader, as if they were an adapter
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    _, expected = read_adapter(tmp_path / "gradients", ours.config)
    parameters = dict(ours.named_parameters())
    assert {name for name, p in parameters.items() if p.grad is not None} == set(expected)
    for name, gradient in expected.items():
        grad = parameters[name].grad
        assert grad is not None
        assert relative_error(grad, gradient) < 1e-4, name


def test_peft_reads_what_we_write(tmp_path: Path) -> None:
    from peft import PeftModel

    theirs = peft_model()
    theirs.save_pretrained(tmp_path / "adapter")
    ours = to_ours(build("mistral_windowed"), tmp_path / "base")
    config = load_adapter(ours, tmp_path / "adapter")
    write_adapter(tmp_path / "ours", ours.config, config, adapter_tensors(ours))
    again = PeftModel.from_pretrained(build("mistral_windowed"), tmp_path / "ours")
    ids = torch.arange(20)[None]
    torch.testing.assert_close(again.eval()(ids).logits, theirs.eval()(ids).logits)


def test_without_lora_the_model_is_its_base_for_a_while(tmp_path: Path) -> None:
    base, ours = (to_ours(build("mistral_windowed"), tmp_path / name) for name in ("a", "b"))
    peft_model().save_pretrained(tmp_path / "adapter")
    load_adapter(ours, tmp_path / "adapter")
    microbatch = microbatch_of(ours.config.sliding_windows, random_documents([9], vocab_size=VOCAB_SIZE))
    with torch.no_grad():
        adapted = ours(microbatch.forward_input)
        with without_lora(ours):
            torch.testing.assert_close(ours(microbatch.forward_input), base(microbatch.forward_input))
        assert torch.equal(ours(microbatch.forward_input), adapted)
        assert not torch.equal(adapted, base(microbatch.forward_input))


def test_a_mixture_of_experts_keeps_its_experts_adapters_apart(tmp_path: Path) -> None:
    from tramontane.model.lora import attach_lora

    ours = to_ours(build("mixtral"), tmp_path / "base")
    shapes = attach_lora(ours, rank=2, alpha=4.0, targets=("wq", "w1", "w2"))
    tensors = {name: torch.randn_like(tensor) for name, tensor in adapter_tensors(ours).items()}
    config = AdapterConfig(shapes=shapes, base="somewhere")
    write_adapter(tmp_path / "adapter", ours.config, config, tensors)
    found, read = read_adapter(tmp_path / "adapter", ours.config)
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)
    assert found == config
