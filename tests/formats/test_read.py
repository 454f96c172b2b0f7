"""Reading under canonical names: proofs of shape, type and completeness, and of tied embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.formats.tiny import MISTRAL, MIXTRAL, TIED, random_weights, read_tensors
from tramontane.errors import CheckpointError
from tramontane.formats.open_tensors import open_tensors
from tramontane.formats.read import plan_reads


@pytest.fixture
def save(tmp_path: Path) -> Callable[[dict[str, Tensor]], Path]:
    def save(tensors: dict[str, Tensor]) -> Path:
        save_file(tensors, tmp_path / "consolidated.safetensors")
        return tmp_path

    return save


def test_every_wrong_shape_is_named(save: Callable[[dict[str, Tensor]], Path]) -> None:
    """Each tensor in turn transposed or cut: expected and found shape are told before anything is read."""
    weights = random_weights(MISTRAL)
    for name, tensor in weights.items():
        wrong = tensor[:-1].clone()
        with open_tensors(save(weights | {name: wrong})) as source, pytest.raises(CheckpointError) as caught:
            next(read_tensors(source, MISTRAL))
        assert f"consolidated.safetensors: '{name}' has shape {tuple(wrong.shape)}" in str(caught.value)
        assert f"but the configuration calls for {tuple(tensor.shape)}" in str(caught.value)


def test_swapped_down_and_up_projections_are_noticed(save: Callable[[dict[str, Tensor]], Path]) -> None:
    weights = random_weights(MISTRAL)
    w2, w3 = "layers.0.feed_forward.w2.weight", "layers.0.feed_forward.w3.weight"
    swapped = weights | {w2: weights[w3], w3: weights[w2]}
    with open_tensors(save(swapped)) as source, pytest.raises(CheckpointError, match="calls for"):
        plan_reads(source, MISTRAL)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.float8_e4m3fn, torch.bool])
def test_other_types_are_not_weights(dtype: torch.dtype, save: Callable[[dict[str, Tensor]], Path]) -> None:
    weights = random_weights(MISTRAL)
    weights["norm.weight"] = weights["norm.weight"].to(dtype)
    with open_tensors(save(weights)) as source, pytest.raises(CheckpointError, match="weights must be F32, F16, BF16"):
        plan_reads(source, MISTRAL)


def test_missing_and_left_over_name_the_file(save: Callable[[dict[str, Tensor]], Path]) -> None:
    weights = random_weights(MISTRAL)
    with open_tensors(save(weights | {"x": torch.zeros(1)})) as source:
        with pytest.raises(CheckpointError, match=r"^/.*consolidated\.safetensors: 1 tensors do not belong .*'x'"):
            plan_reads(source, MISTRAL)
        with pytest.raises(CheckpointError, match=r"^/.*consolidated\.safetensors: 20 tensors are missing"):
            plan_reads(source, MIXTRAL)
    with (
        open_tensors(save({"x": torch.zeros(1)})) as source,
        pytest.raises(CheckpointError, match=r"consolidated\.safetensors: no embedding table"),
    ):
        plan_reads(source, MISTRAL)


def test_a_stored_copy_of_tied_embeddings_must_be_equal(
    save: Callable[[dict[str, Tensor]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tramontane.formats.read._COMPARED_WEIGHTS", 7 * TIED.dim)  # 40 rows in steps of 7
    weights = random_weights(TIED)
    embeddings = weights["tok_embeddings.weight"]
    with open_tensors(save(weights | {"output.weight": embeddings.clone()})) as source:
        assert dict(read_tensors(source, TIED)).keys() == weights.keys()
    for row in (0, 6, 7, 39):
        changed = embeddings.clone()
        changed[row, -1] += 1
        with (
            open_tensors(save(weights | {"output.weight": changed})) as source,
            pytest.raises(CheckpointError, match=r"'output\.weight' and 'tok_embeddings\.weight' differ"),
        ):
            dict(read_tensors(source, TIED))
