"""Which files of a folder are a checkpoint, and what makes several files one."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.formats.hostile import assert_one_line
from tramontane.errors import CheckpointError
from tramontane.formats.open_tensors import HF_INDEX, open_tensors

INDEX = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def tensors(value: float = 1.0) -> dict[str, Tensor]:
    return {"a": torch.full((2,), value)}


def mark_of(path: Path) -> float:
    with open_tensors(path) as source:
        return float(source.read("a")[0])


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_tensors(path)
    assert_one_line(caught.value)


def write_indexed(folder: Path, index: object = None) -> None:
    for name, shard in INDEX.items():
        save_file({name: torch.zeros(2)}, folder / shard)
    (folder / HF_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": INDEX} if index is None else index))


def test_pickled_weights_alone_are_named(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "pytorch_model.bin")
    refused(tmp_path, r"holds weights only as pickled \.bin files, which can run code .*; save them again as safetens")


def test_a_folder_of_runs_names_those_that_hold_weights(tmp_path: Path) -> None:
    for name in ("checkpoint-500", "checkpoint-1000", "logs"):
        (tmp_path / name).mkdir()
    save_file(tensors(), tmp_path / "checkpoint-500" / "adapter_model.safetensors")
    save_file(tensors(), tmp_path / "checkpoint-1000" / "model.safetensors")
    (tmp_path / "training_args.bin").write_bytes(b"")
    refused(tmp_path, r"holds no weights: .*; name a folder inside it: 'checkpoint-1000', 'checkpoint-500'")


def test_the_order_of_preference(tmp_path: Path) -> None:
    """Files added from the least to the most preferred: each takes over from the one before."""
    torch.save(tensors(1), tmp_path / "consolidated.00.pth")
    assert mark_of(tmp_path) == 1
    save_file(tensors(4), tmp_path / "model-00001-of-00001.safetensors")
    (tmp_path / HF_INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    assert mark_of(tmp_path) == 4
    save_file(tensors(5), tmp_path / "model.safetensors")
    assert mark_of(tmp_path) == 5
    assert mark_of(tmp_path / "consolidated.00.pth") == 1


NEWER: dict[str, Callable[[Any, Path], object]] = {
    "consolidated.safetensors": save_file,
    "consolidated-00001-of-00001.safetensors": save_file,
    "consolidated.00.pth": torch.save,
    "consolidated.00.pt": torch.save,
}


@pytest.mark.parametrize(("one", "other"), combinations(NEWER, 2))
def test_two_sets_of_consolidated_files_are_both_named(one: str, other: str, tmp_path: Path) -> None:
    NEWER[one](tensors(1), tmp_path / one)
    assert mark_of(tmp_path) == 1
    NEWER[other](tensors(2), tmp_path / other)
    with pytest.raises(CheckpointError, match=f"holds two sets of weights, {one} and {other}; remove the older"):
        open_tensors(tmp_path)


def test_an_index_whose_shards_are_gone_gives_way_to_a_whole_file_only(tmp_path: Path) -> None:
    (tmp_path / HF_INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"model-00001-of-00001.safetensors is missing, but .* lists it"):
        open_tensors(tmp_path)
    save_file(tensors(3), tmp_path / "model.safetensors")
    assert mark_of(tmp_path) == 3


def test_nothing_to_open(tmp_path: Path) -> None:
    refused(tmp_path, "holds no weights: neither model.safetensors")
    refused(tmp_path / "absent", "is not a checkpoint: neither a folder nor one of .safetensors")
    refused(tmp_path / "absent.gguf", "cannot be opened: No such file")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    refused(tmp_path / "pytorch_model.bin", "is not a checkpoint")
    (tmp_path / "a.gguf").write_bytes(b"x")
    (tmp_path / "b.gguf").write_bytes(b"x")
    refused(tmp_path, r"holds 2 \.gguf files \('a\.gguf', 'b\.gguf'\); name one")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    refused(tmp_path / "loop.safetensors", "cannot be opened: Too many levels of symbolic links")


def test_shards_of_an_index(tmp_path: Path) -> None:
    write_indexed(tmp_path)
    with open_tensors(tmp_path) as source:
        assert source.names() == ["a", "b"]
        assert source.info("b").shape == (2,)
        with pytest.raises(CheckpointError, match="has no tensor 'c'"):
            source.read("c")


def test_links_into_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    """A snapshot of huggingface_hub is a folder of links to blobs elsewhere."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file(tensors(), tmp_path / "blobs" / "abc")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blobs/abc")
    assert mark_of(tmp_path / "snapshot") == 1


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_indexed(tmp_path)
    (tmp_path / INDEX["b"]).unlink()
    refused(tmp_path, r"model-00002-of-00002\.safetensors is missing, but model\.safetensors\.index\.json lists it")


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (INDEX | {"c": INDEX["a"]}, "disagree on 1 tensors: 'c'"),
        ({"a": INDEX["a"]}, None),
        ({"b": INDEX["a"]}, "disagree on 2 tensors: 'a', 'b'"),
        ({"a": INDEX["b"], "b": INDEX["a"]}, "disagree on 2 tensors: 'a', 'b'"),
        (INDEX | {"c": "other.safetensors"}, "other.safetensors is missing"),
        ({}, None),
    ],
)
def test_index_and_shards_must_agree(weight_map: dict[str, str], message: str | None, tmp_path: Path) -> None:
    write_indexed(tmp_path, {"weight_map": weight_map})
    if message is None:
        with open_tensors(tmp_path) as source:
            assert source.names() == list(weight_map)
    else:
        refused(tmp_path, message)


@pytest.mark.parametrize(
    "shard",
    ["../x.safetensors", "/etc/passwd", "a/x.safetensors", "x.bin", "", "..", "x\n.safetensors", "x\0.safetensors",
     "..\\x.safetensors", "model.safetensors/../../x.safetensors"],
)  # fmt: skip
def test_an_index_names_only_files_beside_it(shard: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(tensors(), tmp_path / "x.safetensors")
    write_indexed(folder, {"weight_map": {"a": shard}})
    refused(folder, "which is not a .safetensors file beside it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON where"),
        ("[]", "not JSON where"),
        ("{", "its JSON is not valid"),
        ("{}", "has no weight_map"),
        ('{"weight_map": []}', "has no weight_map"),
        ('{"weight_map": {"a": 1}}', "has no weight_map"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "names 'a' twice"),
        ('{"weight_map":' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_indexes(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / HF_INDEX).write_text(text)
    refused(tmp_path, message)


def test_an_index_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / HF_INDEX).mkdir()
    refused(tmp_path, r"index\.json cannot be read: Is a directory")


def test_the_same_tensor_in_two_shards(tmp_path: Path) -> None:
    for shard in INDEX.values():
        save_file(tensors(), tmp_path / shard)
    refused(tmp_path, "'a' is stored in both model-00001-of-00002.safetensors and model-00002")


def test_shards_without_an_index_must_be_complete(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save_file({f"t{number}": torch.zeros(1)}, tmp_path / f"consolidated-0000{number}-of-00003.safetensors")
    with open_tensors(tmp_path) as source:
        assert source.names() == ["t1", "t2", "t3"]
    (tmp_path / "consolidated-00002-of-00003.safetensors").unlink()
    refused(tmp_path, r"must hold 3 shards, but 'consolidated-00002-of-00003\.safetensors' is missing")
    for name, message in {
        "model-1-of-x.safetensors": "not named like a shard",
        "model-00001-of-99999999999.safetensors": "not named like a shard",
        "model-9-of-2.safetensors": "must hold 2 shards",
    }.items():
        folder = tmp_path / name.removesuffix(".safetensors")
        folder.mkdir()
        save_file(tensors(), folder / name)
        refused(folder, message)


def test_pth_files_of_different_tensors_are_joined(tmp_path: Path) -> None:
    """The first Mixtral: each file holds some of the layers."""
    torch.save({"a": torch.zeros(2)}, tmp_path / "consolidated.00.pt")
    torch.save({"b": torch.ones(2)}, tmp_path / "consolidated.01.pt")
    with open_tensors(tmp_path) as source:
        assert source.names() == ["a", "b"]
        assert source.read("b").tolist() == [1, 1]
    (tmp_path / "consolidated.01.pt").rename(tmp_path / "consolidated.02.pt")
    refused(tmp_path, "has consolidated files '00', '02', not 00 to 01")


def test_a_bad_shard_closes_the_good_ones_and_is_named(tmp_path: Path) -> None:
    write_indexed(tmp_path)
    path = tmp_path / INDEX["b"]
    path.write_bytes(path.read_bytes()[:-1])
    refused(tmp_path, r"model-00002-of-00002\.safetensors: tensors end at byte")
