from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.data.shard_sets import write_set
from tramontane.data.parts import INDEX, missing_parts, read_parts, write_parts
from tramontane.data.shards import verify_shards
from tramontane.errors import DataError


@pytest.fixture
def packed(tmp_path: Path) -> list[Path]:
    write_set(tmp_path / "in" / "pretrain" / "train", {"a": [30] * 40, "b": [7] * 9}, shard_len=200, with_mask=True)
    (tmp_path / "in" / "tokenizer").mkdir()
    (tmp_path / "in" / "tokenizer" / "tekken.json").write_text("{}")
    folders = [tmp_path / "in" / "pretrain", tmp_path / "in" / "tokenizer"]
    return write_parts(folders, tmp_path / "parts", max_part_bytes=1500)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_parts_are_small_and_give_back_what_went_in(tmp_path: Path, packed: list[Path]) -> None:
    assert len(packed) > 2
    for part in packed:
        assert sum(path.stat().st_size for path in part.glob("*.xz")) <= 1500
    written = read_parts(packed[::-1], tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "in")
    assert len(written) == len(files_of(tmp_path / "in"))
    verify_shards(tmp_path / "out" / "pretrain" / "train")


def test_parts_may_come_one_after_the_other(tmp_path: Path, packed: list[Path]) -> None:
    for part in packed:
        read_parts([part], tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "in")
    assert missing_parts(packed[1:]) == [0]
    assert missing_parts(packed) == []


def test_a_damaged_part_is_told_and_leaves_nothing_half_written(tmp_path: Path, packed: list[Path]) -> None:
    path = sorted(packed[0].glob("*.xz"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="missing or damaged; copy the part again"):
        read_parts(packed, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_a_part_cannot_write_elsewhere(tmp_path: Path, packed: list[Path]) -> None:
    index = json.loads((packed[0] / INDEX).read_text())
    index["files"][0]["path"] = "../evil"
    (packed[0] / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match="leaves the folder"):
        read_parts([packed[0]], tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_parts_of_two_packings_do_not_mix(tmp_path: Path, packed: list[Path]) -> None:
    other = write_parts([tmp_path / "in" / "tokenizer"], tmp_path / "other")
    with pytest.raises(DataError, match="different packings"):
        read_parts([packed[0], other[0]], tmp_path / "out")


def test_folders_without_an_index_and_oversized_files_are_refused(tmp_path: Path, packed: list[Path]) -> None:
    shutil.copytree(packed[0], tmp_path / "part-00", ignore=shutil.ignore_patterns(INDEX))
    with pytest.raises(DataError, match="is it a part"):
        read_parts([tmp_path / "part-00"], tmp_path / "out")
    with pytest.raises(DataError, match="smaller shard_len"):
        write_parts([tmp_path / "in" / "pretrain"], tmp_path / "small", max_part_bytes=50)
