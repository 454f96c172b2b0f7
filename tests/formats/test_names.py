"""The name table: shapes, the rotary permutation, every known way of storing experts, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gguf import MODEL_ARCH, MODEL_TENSOR, MODEL_TENSORS, TENSOR_NAMES
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from tests.formats.tiny import MISTRAL, MIXTRAL, TIED, random_weights
from tramontane.config.model_config import ModelConfig, MoeConfig
from tramontane.errors import CheckpointError, ConfigError
from tramontane.formats import names
from tramontane.formats.names import Layout
from tramontane.formats.rotary_layout import half_to_interleaved, interleaved_to_half

LAYOUTS: tuple[Layout, ...] = ("consolidated", "hf", "gguf")


def collect(layout: Layout, stored: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Carry out a plan by hand on tensors in memory."""
    found = {}
    for read in names.plan(layout, stored, config):
        tensor = stored[read.file_name]
        assert tensor.shape == read.shape
        for part in read.parts:
            rows = tensor if part.rows is None else tensor.reshape(-1, tensor.shape[-1])[slice(*part.rows)]
            found[part.name] = part.arrange(rows)
            assert found[part.name].shape == part.shape
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_shapes_are_those_of_the_reference_model() -> None:
    """transformers builds the same configuration: same number of tensors and weights, same shapes through the table."""
    theirs = MistralForCausalLM(
        MistralConfig(
            hidden_size=64,
            intermediate_size=96,
            head_dim=8,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=40,
        )
    ).state_dict()
    table = names.file_names("hf", MISTRAL)
    ours = {table[name]: shape for name, shape in names.canonical_shapes(MISTRAL).items()}
    assert ours == {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    assert sum(tensor.numel() for tensor in theirs.values()) == MISTRAL.num_parameters()


@pytest.mark.parametrize("config", [MISTRAL, MIXTRAL, TIED])
def test_every_weight_has_a_shape(config: ModelConfig) -> None:
    num_weights = sum(torch.Size(shape).numel() for shape in names.canonical_shapes(config).values())
    assert num_weights == config.num_parameters()


def test_gguf_names_are_those_of_gguf() -> None:
    """Every name we write for GGUF is one llama.cpp lists for the llama architecture."""
    known = {TENSOR_NAMES[tensor] for tensor in MODEL_TENSORS[MODEL_ARCH.LLAMA]}
    for config in (MISTRAL, MIXTRAL):
        for read in names.written("gguf", config):
            stem = read.file_name.removesuffix(".weight").replace("blk.1.", "blk.0.").replace("blk.0.", "blk.{bid}.")
            assert stem in known, read.file_name
    gate, down, up = (TENSOR_NAMES[t] for t in (MODEL_TENSOR.FFN_GATE, MODEL_TENSOR.FFN_DOWN, MODEL_TENSOR.FFN_UP))
    table = names.file_names("gguf", MISTRAL)
    for ours, theirs in (("w1", gate), ("w2", down), ("w3", up)):
        assert table[f"layers.1.feed_forward.{ours}.weight"] == theirs.format(bid=1) + ".weight"


def test_permutation_by_hand() -> None:
    """One head of 6 rows and a second: pairs (0, 3), (1, 4), (2, 5) of `half` stand side by side in `interleaved`."""
    half = torch.tensor([[0], [1], [2], [10], [11], [12], [100], [101], [102], [110], [111], [112]])
    interleaved = [0, 10, 1, 11, 2, 12, 100, 110, 101, 111, 102, 112]
    assert half_to_interleaved(half, 2)[:, 0].tolist() == interleaved
    assert torch.equal(interleaved_to_half(half_to_interleaved(half, 2), 2), half)
    assert torch.equal(half_to_interleaved(interleaved_to_half(half, 2), 2), half)


def test_only_queries_and_keys_turn() -> None:
    assert names.rotary_heads("layers.0.attention.wq.weight", MISTRAL) == 4
    assert names.rotary_heads("layers.0.attention.wk.weight", MISTRAL) == 2
    turned = [name for name in names.canonical_shapes(MIXTRAL) if names.rotary_heads(name, MIXTRAL) is not None]
    assert len(turned) == 2 * MIXTRAL.n_layers


@pytest.mark.parametrize("config", [MISTRAL, MIXTRAL, TIED])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_to_one_names_round_trip(layout: Layout, config: ModelConfig) -> None:
    weights = random_weights(config)
    stored = {}
    for name, file_name in names.file_names(layout, config).items():
        heads = names.rotary_heads(name, config) if layout == "hf" else None
        stored[file_name] = weights[name] if heads is None else interleaved_to_half(weights[name], heads)
    assert names.detect_layout(stored) == layout
    assert_same(collect(layout, stored, config), weights)
    reads = names.plan(layout, stored, config)
    assert [read.parts[0].name for read in reads] == list(weights), "in order of computation"


def with_experts(layout: Layout, stacks: dict[str, Tensor], *, router: str) -> dict[str, Tensor]:
    """The tensors of MIXTRAL outside the experts under `layout`'s names, the router renamed, plus `stacks`."""
    weights = random_weights(MIXTRAL)
    stored = dict(stacks)
    for name, file_name in names.file_names(layout, MIXTRAL).items():
        if ".experts." in name:
            continue
        heads = names.rotary_heads(name, MIXTRAL) if layout == "hf" else None
        if name.endswith("feed_forward.gate.weight"):
            file_name = router.format(layer=name.split(".")[1])
        stored[file_name] = weights[name] if heads is None else interleaved_to_half(weights[name], heads)
    return stored


def experts_of(weights: dict[str, Tensor], layer: int, w: str) -> list[Tensor]:
    return [weights[f"layers.{layer}.feed_forward.experts.{e}.{w}.weight"] for e in range(3)]


def test_experts_of_the_first_mixtral_files() -> None:
    weights = random_weights(MIXTRAL)
    stacks = {}
    for layer in range(2):
        stacks[f"layers.{layer}.block_sparse_moe.w1"] = torch.cat(experts_of(weights, layer, "w1"))
        stacks[f"layers.{layer}.block_sparse_moe.w2"] = torch.cat([w2.T for w2 in experts_of(weights, layer, "w2")])
        stacks[f"layers.{layer}.block_sparse_moe.w3"] = torch.cat(experts_of(weights, layer, "w3"))
    stored = with_experts("consolidated", stacks, router="layers.{layer}.block_sparse_moe.gate.weight")
    assert_same(collect("consolidated", stored, MIXTRAL), weights)


def test_experts_fused_in_transformers_memory() -> None:
    weights = random_weights(MIXTRAL)
    stacks = {}
    for layer in range(2):
        pairs = zip(experts_of(weights, layer, "w1"), experts_of(weights, layer, "w3"), strict=True)
        fused = torch.stack([torch.cat(pair) for pair in pairs])
        stacks[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = fused
        stacks[f"model.layers.{layer}.mlp.experts.down_proj"] = torch.stack(experts_of(weights, layer, "w2"))
    stored = with_experts("hf", stacks, router="model.layers.{layer}.mlp.gate.weight")
    assert_same(collect("hf", stored, MIXTRAL), weights)


def test_experts_stacked_in_gguf() -> None:
    weights = random_weights(MIXTRAL)
    stacks = {
        f"blk.{layer}.{name}": torch.stack(experts_of(weights, layer, w))
        for layer in range(2)
        for w, name in names.GGUF_EXPERT_STACKS.items()
    }
    stored = with_experts("gguf", stacks, router="blk.{layer}.ffn_gate_inp.weight")
    assert stored.keys() == {read.file_name for read in names.written("gguf", MIXTRAL)}
    assert_same(collect("gguf", stored, MIXTRAL), weights)


@pytest.mark.parametrize(
    ("body", "head"), [("language_model.model.", "language_model."), ("model.language_model.", "")]
)
def test_text_model_inside_a_multimodal_one(body: str, head: str) -> None:
    plain = names.file_names("hf", MISTRAL).values()
    stored = [name.replace("model.", body, 1) if name.startswith("model.") else head + name for name in plain]
    vision = ["vision_tower.ln_pre.weight", "multi_modal_projector.linear_1.weight"]
    if not head:
        vision = ["model." + name for name in vision]
    assert names.detect_layout(stored + vision) == "hf"
    reads = names.plan("hf", stored + vision, MISTRAL)
    assert {read.file_name for read in reads} == set(stored)


@pytest.mark.parametrize(
    ("layout", "extra"),
    [
        ("consolidated", "rope.freqs"),
        ("consolidated", "layers.1.attention.inner_attention.rope.freqs"),
        ("consolidated", "vision_encoder.ln_pre.weight"),
        ("consolidated", "vision_language_adapter.w_in.weight"),
        ("hf", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("hf", "model.rotary_emb.inv_freq"),
        ("gguf", "blk.0.attn_rot_embd.weight"),
    ],
)
def test_known_extras_are_passed_over(layout: Layout, extra: str) -> None:
    stored = [*names.file_names(layout, MISTRAL).values(), extra]
    assert extra not in {read.file_name for read in names.plan(layout, stored, MISTRAL)}


@pytest.mark.parametrize(
    ("layout", "extra"),
    [
        ("consolidated", "layers.2.attention.wq.weight"),
        ("consolidated", "layers.0.attention.wq.bias"),
        ("consolidated", "layers.0.attention.wq.qscale_weight"),
        ("consolidated", "a vision_encoder.x"),
        ("consolidated", "vision_encoder."),
        ("hf", "model.layers.0.self_attn.q_norm.weight"),
        ("hf", "model.layers.0.self_attn.q_proj.bias"),
        ("hf", "audio_tower.conv1.weight"),
        ("gguf", "rope_freqs.weight"),  # changes what the model computes
        ("gguf", "blk.0.attn_q.bias"),
    ],
)
def test_left_over_tensors_are_named(layout: Layout, extra: str) -> None:
    stored = [*names.file_names(layout, MISTRAL).values(), extra]
    with pytest.raises(CheckpointError, match=r"1 tensors do not belong to this model: '.*'$") as caught:
        names.plan(layout, stored, MISTRAL)
    assert repr(extra) in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", [MISTRAL, MIXTRAL])
def test_every_missing_tensor_is_named(layout: Layout, config: ModelConfig) -> None:
    table = names.file_names(layout, config)
    for name, file_name in table.items():
        with pytest.raises(CheckpointError, match="1 tensors are missing") as caught:
            names.plan(layout, set(table.values()) - {file_name}, config)
        assert repr(name) in str(caught.value)


def test_many_missing_are_counted_and_the_message_is_one_line() -> None:
    stored = ["tok_embeddings.weight", "x\n" * 500]
    with pytest.raises(
        CheckpointError, match=r"^20 tensors are missing: 'layers\.0\..*, \.\.\. \(left over: "
    ) as caught:
        names.plan("consolidated", stored, MISTRAL)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_same_tensor_under_two_names_is_refused() -> None:
    stored = [*names.file_names("hf", MIXTRAL).values(), "model.layers.1.mlp.gate.weight"]
    with pytest.raises(CheckpointError, match=r"stored twice .*layers\.1\.feed_forward\.gate\.weight"):
        names.plan("hf", stored, MIXTRAL)


@pytest.mark.parametrize(
    ("layout", "output"), [("consolidated", "output.weight"), ("hf", "lm_head.weight"), ("gguf", "output.weight")]
)
def test_a_tied_model_may_store_its_output_too(layout: Layout, output: str) -> None:
    stored = [*names.file_names(layout, TIED).values(), output]
    reads = names.plan(layout, stored, TIED)
    assert reads[-1].file_name == output
    assert [part.must_equal for part in reads[-1].parts] == ["tok_embeddings.weight"]
    assert names.stores_output(stored)
    assert not names.stores_output(stored[:-1])


def test_unknown_names_have_no_layout() -> None:
    with pytest.raises(CheckpointError, match=r"no embedding table .* among 2 tensors: 'a', 'transformer\.wte"):
        names.detect_layout(["transformer.wte.weight", "a"])
    with pytest.raises(CheckpointError, match="among 0 tensors"):
        names.detect_layout([])


def test_a_configuration_cannot_ask_for_millions_of_tensors() -> None:
    config = replace(
        MIXTRAL,
        n_layers=4096,
        sliding_windows=(None,) * 4096,
        moe=MoeConfig(num_experts=4096, num_experts_per_tok=1),
    )
    with pytest.raises(ConfigError, match="n_layers=4096 with 4096 experts"):
        names.canonical_shapes(config)
