from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.shard_sets import is_learned, write_set
from tramontane.data.shards import MANIFEST, ShardSet, read_manifest, verify_shards
from tramontane.errors import DataError


@pytest.mark.parametrize("vocab_size", [60_000, 200_000])
def test_documents_and_masks_come_back_across_shards(tmp_path: Path, vocab_size: int) -> None:
    lens = {"a": [1, 30, 33, 7, 80, 2], "b": [5]}
    documents = write_set(tmp_path, lens, with_mask=True, vocab_size=vocab_size)
    shards = ShardSet([tmp_path])
    assert len(shards.sources["a"].info.shards) > 1
    for name, expected in documents.items():
        for number, token_ids in enumerate(expected):
            read, mask = shards.sources[name].read(number)
            assert read.tolist() == token_ids
            assert mask is not None
            assert mask.tolist() == is_learned(np.array(token_ids)).tolist()
            assert shards.sources[name].document_len(number) == len(token_ids)


def test_without_masks_everything_is_learned(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [4]})
    assert ShardSet([tmp_path]).sources["a"].read(0)[1] is None


def test_small_vocabularies_take_two_bytes_per_token(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [10]})
    assert (tmp_path / "a-00000.tokens").stat().st_size == 20


def test_checksums_find_a_flipped_bit(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [10]}, with_mask=True)
    verify_shards(tmp_path)
    path = tmp_path / "a-00000.mask"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(DataError, match="a-00000: checksum differs"):
        verify_shards(tmp_path)


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [10]})
    path = tmp_path / "a-00000.tokens"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="19 bytes where 20 belong"):
        ShardSet([tmp_path])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [10]})
    (tmp_path / "a-00000.tokens").unlink()
    with pytest.raises(DataError, match="missing"):
        ShardSet([tmp_path])


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "other", "version": 1}'])
def test_damaged_manifests_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, {"a": [3]})
    path = tmp_path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(DataError, match="version 1"):
        read_manifest(tmp_path)


def test_a_folder_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is it a finished set"):
        ShardSet([tmp_path])


def test_sets_of_two_tokenizers_do_not_mix(tmp_path: Path) -> None:
    write_set(tmp_path / "x", {"a": [3]})
    write_set(tmp_path / "y", {"b": [3]}, tokenizer_sha256="other")
    with pytest.raises(DataError, match="another tokenizer"):
        ShardSet([tmp_path / "x", tmp_path / "y"])


def test_two_sets_of_one_tokenizer_are_one_pool(tmp_path: Path) -> None:
    write_set(tmp_path / "x", {"a": [3]})
    write_set(tmp_path / "y", {"b": [4]})
    assert set(ShardSet([tmp_path / "x", tmp_path / "y"]).sources) == {"a", "b"}
    write_set(tmp_path / "z", {"a": [5]})
    with pytest.raises(DataError, match="in two of the sets"):
        ShardSet([tmp_path / "x", tmp_path / "z"])
