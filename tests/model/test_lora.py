from __future__ import annotations

import pytest
import torch

from tests.model.tiny import tiny_model
from tramontane.errors import ConfigError
from tramontane.model.linear import Linear
from tramontane.model.lora import Lora, attach_lora, merge_lora
from tramontane.model.packed_attention import packed_input


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.arange(20)
    hidden = model(packed_input(model, ids, [20]))  # type: ignore[arg-type]
    scores: torch.Tensor = model.logits(hidden)  # type: ignore[operator]
    return scores.detach()


def test_fresh_adapter_changes_nothing_and_only_adapters_train() -> None:
    model = tiny_model()
    before = logits(model)
    adapted = attach_lora(model, rank=4, alpha=8, targets=("wq", "w2"))
    assert len(adapted) == 2 * 3
    assert torch.equal(logits(model), before)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"{name}.lora.{part}" for name in adapted for part in "ab"}


def test_merge_equals_adapter() -> None:
    model = tiny_model()
    before = logits(model)
    attach_lora(model, rank=4, alpha=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Linear) and isinstance(module.lora, Lora):
                module.lora.b.normal_(0, 0.05, generator=generator)
    adapted = logits(model)
    assert (adapted - before).abs().max() > 0.1
    assert merge_lora(model) == 7 * 3
    torch.testing.assert_close(logits(model), adapted, rtol=1e-4, atol=1e-4)
    assert merge_lora(model) == 0


@pytest.mark.parametrize(
    ("rank", "targets", "message"),
    [(0, ("wq",), "rank=0"), (4, ("wz",), "wz"), (4, (), "are empty")],
)
def test_impossible_adapters_are_refused(rank: int, targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attach_lora(tiny_model(), rank=rank, alpha=1, targets=targets)
