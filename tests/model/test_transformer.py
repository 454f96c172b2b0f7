"""The model against definitions written out by hand; parity with other implementations is in tests/parity."""

from __future__ import annotations

import pytest
import torch

from tests.model.tiny import tiny_config, tiny_model
from tramontane.config import MoeConfig
from tramontane.model.moe import MoeFeedForward
from tramontane.model.packed_attention import packed_input
from tramontane.model.transformer import Transformer
from tramontane.ops.torch_ops import TorchOps


def random_ids(num_tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 101, (num_tokens,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("window", [None, 1, 5, 64])
def test_packed_documents_equal_each_alone(window: int | None) -> None:
    model = tiny_model(tiny_config(sliding_windows=window))
    lens = [7, 1, 33, 12]
    ids = random_ids(sum(lens))
    packed = model.logits(model(packed_input(model, ids, lens)))
    alone = [model.logits(model(packed_input(model, part, [len(part)]))) for part in torch.split(ids, lens)]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=0, atol=2e-5)


def test_packed_lengths_must_add_up() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="do not add up"):
        packed_input(model, random_ids(5), [2, 2])


def test_window_limits_what_a_token_sees() -> None:
    """With W = 4 and one layer, a token depends on itself and the three before it, and on nothing older."""
    model = tiny_model(tiny_config(n_layers=1, sliding_windows=4))
    ids = random_ids(12)
    base = model.logits(model(packed_input(model, ids, [12])))[10]
    for place in range(11):
        changed = ids.clone()
        changed[place] = (changed[place] + 1) % 101
        differs = not torch.equal(model.logits(model(packed_input(model, changed, [12])))[10], base)
        assert differs == (place >= 7), place


def test_experts_grouped_by_token_equal_the_definition_per_token() -> None:
    moe = MoeConfig(num_experts=5, num_experts_per_tok=2)
    layer = MoeFeedForward(16, 24, moe, TorchOps())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        x_TD = torch.randn(9, 16, generator=generator)
        out_TD = layer(x_TD)
        for row, x_D in enumerate(x_TD):
            scores, chosen = layer.gate(x_D[None])[0].topk(2)
            expected = sum(
                weight * layer.experts[int(expert)](x_D[None])[0]
                for weight, expert in zip(scores.softmax(-1), chosen, strict=True)
            )
            torch.testing.assert_close(out_TD[row], expected, rtol=1e-5, atol=1e-6)


def test_inactive_experts_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = MoeFeedForward(16, 24, MoeConfig(num_experts=8, num_experts_per_tok=2), TorchOps())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        rows_per_expert: dict[int, int] = {}
        for expert_id, expert in enumerate(layer.experts):

            def count(x: torch.Tensor, *_: object, _id: int = expert_id) -> torch.Tensor:
                rows_per_expert[_id] = x.shape[0]
                return x

            monkeypatch.setattr(expert, "forward", count)
        layer(torch.randn(1, 16))
    assert sorted(rows_per_expert.values()) == [1, 1]


def test_initialise_is_reproducible_and_scales_residual_projections() -> None:
    one, two = tiny_model(seed=5), tiny_model(seed=5)
    other = tiny_model(seed=6)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name])
    assert not torch.equal(one.tok_embeddings.weight, other.tok_embeddings.weight)
    deep = tiny_model(tiny_config(n_layers=8))
    ratio = (
        deep.get_parameter("layers.0.feed_forward.w1.weight").std()
        / deep.get_parameter("layers.0.feed_forward.w2.weight").std()
    )
    assert ratio == pytest.approx(4.0, rel=0.1)  # sqrt(2 * 8)


def test_parameters_match_the_configuration() -> None:
    for config in (
        tiny_config(),
        tiny_config(tied_embeddings=True),
        tiny_config(moe=MoeConfig(num_experts=4, num_experts_per_tok=2), family="mixtral"),
    ):
        with torch.device("meta"):
            model = Transformer(config, TorchOps())
        assert sum(p.numel() for p in model.parameters()) == config.num_parameters()
