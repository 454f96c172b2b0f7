"""Llama's sliced checkpoints, put together as the reference converters do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.formats.tiny import MISTRAL, random_weights, read_tensors
from tramontane.errors import CheckpointError
from tramontane.formats.open_tensors import open_tensors

ROWS = ("wq", "wk", "wv", "w1", "w3", "output")
COLUMNS = ("wo", "w2", "tok_embeddings")


def slices(weights: dict[str, Tensor], num_shards: int) -> list[dict[str, Tensor]]:
    """As Llama was released: column-parallel layers by rows, row-parallel ones by columns, norms everywhere."""
    shards: list[dict[str, Tensor]] = [{} for _ in range(num_shards)]
    for name, tensor in weights.items():
        stem = name.split(".")[-2]
        if stem in ROWS:
            parts = tensor.chunk(num_shards, dim=0)
        elif stem in COLUMNS:
            parts = tensor.chunk(num_shards, dim=1)
        else:
            parts = (tensor,) * num_shards
        for shard, part in zip(shards, parts, strict=True):
            shard[name] = part.contiguous()
    return shards


def save(folder: Path, shards: list[dict[str, Tensor]]) -> None:
    for number, shard in enumerate(shards):
        torch.save(shard, folder / f"consolidated.{number:02d}.pth")


@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_slices_become_whole(num_shards: int, tmp_path: Path) -> None:
    weights = random_weights(MISTRAL, torch.bfloat16)
    save(tmp_path, slices(weights | {"rope.freqs": torch.ones(4)}, num_shards))
    with open_tensors(tmp_path) as source:
        assert source.info("layers.1.attention.wo.weight").shape == (64, 32)
        found = dict(read_tensors(source, MISTRAL))
        assert torch.equal(source.read("output.weight", (5, 9)), weights["output.weight"][5:9])
        for name in source.names():
            source.release(name)
        with pytest.raises(CheckpointError, match="has no tensor 'x'"):
            source.info("x")
        with pytest.raises(CheckpointError, match="not in packed blocks"):
            source.read_blocks("norm.weight")
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(found[name], tensor), name


def test_shards_must_fit(tmp_path: Path) -> None:
    weights = random_weights(MISTRAL)
    first, second = slices(weights, 2)
    wq, wo = "layers.0.attention.wq.weight", "layers.0.attention.wo.weight"
    faults: list[tuple[dict[str, Tensor], str]] = [
        ({name: tensor for name, tensor in second.items() if name != wq}, f"disagree on '{wq}'"),
        (second | {"x": torch.zeros(1)}, "disagree on 'x'; are they shards of one model"),
        (second | {wq: second[wq][:, :-1].contiguous()}, f"shards of '{wq}' do not fit together"),
        (second | {wo: second[wo][:-1].contiguous()}, f"shards of '{wo}' do not fit together"),
        (second | {wq: second[wq].to(torch.float16)}, f"shards store '{wq}' in different ways"),
        (second | {wq: second[wq].reshape(-1)}, f"shards store '{wq}' in different ways"),
    ]
    for fault, message in faults:
        save(tmp_path, [first, fault])
        with pytest.raises(CheckpointError, match=message), open_tensors(tmp_path) as source:
            dict(read_tensors(source, MISTRAL))


def test_unknown_names_are_not_guessed(tmp_path: Path) -> None:
    save(tmp_path, [{"layers.0.attention.wz.weight": torch.zeros(2, 2)}] * 2)
    with pytest.raises(CheckpointError, match=r"not known how 'layers\.0\.attention\.wz\.weight' was split"):
        open_tensors(tmp_path)
    save(tmp_path, [{"tok_embeddings.weight": torch.zeros(2)}] * 2)
    with pytest.raises(CheckpointError, match="not that of a matrix"):
        open_tensors(tmp_path).info("tok_embeddings.weight")
