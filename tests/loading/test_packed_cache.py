"""The cache of packed weights: the same model from it, and nothing from it that cannot be trusted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.loading.checkpoints import DENSE, EXPERTS, LAYOUTS, edit_json, random_weights, write, write_pth
from tramontane.errors import CapacityError, CheckpointError, ConfigError
from tramontane.formats.names import Layout
from tramontane.loading import load_model, open_checkpoint
from tramontane.loading.packed_cache import PackedCache
from tramontane.model.packed import packable
from tramontane.model.transformer import Transformer
from tramontane.ops.packed_weight import WEIGHT_FORMATS, PackedWeight, layout_digest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, empty, which even tiny models use."""
    monkeypatch.setenv("TRAMONTANE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tramontane.loading.load_packed.CACHED_FROM_BYTES", 0)
    return tmp_path / "home" / "packed"


@pytest.fixture
def num_packed(monkeypatch: pytest.MonkeyPatch) -> list[PackedWeight]:
    """Every weight packed since, rather than mapped."""
    packed: list[PackedWeight] = []
    real = PackedWeight.from_chunks.__func__  # type: ignore[attr-defined]

    def count(cls: type[PackedWeight], *arguments: object) -> PackedWeight:
        packed.append(real(cls, *arguments))
        return packed[-1]

    monkeypatch.setattr(PackedWeight, "from_chunks", classmethod(count))
    return packed


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.safetensors"))


def bits(model: Transformer) -> dict[str, bytes]:
    weights = {name: m.packed.storage.numpy().tobytes() for name, m in packable(model) if m.packed is not None}
    return weights | {name: norm.detach().numpy().tobytes() for name, norm in model.named_parameters()}


def load(path: Path, weight_format: str = "q8_0") -> Transformer:
    return load_model(open_checkpoint(path), weight_format=weight_format)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_second_start_maps_what_the_first_packed(
    layout: Layout, tmp_path: Path, cache: Path, num_packed: list[PackedWeight], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, EXPERTS, layout)
    monkeypatch.setenv("TRAMONTANE_PACKED_CACHE_GIB", "0")
    expected = bits(load(path))
    assert entries(cache) == []
    monkeypatch.delenv("TRAMONTANE_PACKED_CACHE_GIB")
    assert bits(load(path)) == expected
    assert len(entries(cache)) == 1
    assert cache.stat().st_mode & 0o077 == 0
    num_packed.clear()
    reports: list[tuple[int, int]] = []
    checkpoint = open_checkpoint(path)
    model = load_model(checkpoint, weight_format="q8_0", progress=lambda done, total: reports.append((done, total)))
    assert bits(model) == expected
    assert num_packed == []
    assert reports == [(checkpoint.size_bytes, checkpoint.size_bytes)]
    assert all(m.packed.storage.data_ptr() % 64 == 0 for _, m in packable(model) if m.packed is not None)


def test_content_formats_and_configuration_have_entries_of_their_own(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path, DENSE, "hf")
    load(path)
    load(path, "q4_0")
    assert len(entries(cache)) == 2
    edit_json(path / "config.json", rope_theta=500.0)
    load(path)
    assert len(entries(cache)) == 3
    shutil.copytree(path, tmp_path / "copy")
    load(tmp_path / "copy")  # the same content elsewhere
    assert len(entries(cache)) == 3
    weights = random_weights(DENSE)
    weights["layers.0.attention.wo.weight"][0, 0] += 1
    changed = write(tmp_path / "copy", DENSE, "consolidated", weights)
    assert bits(load(changed)) != bits(load(path))
    assert len(entries(cache)) == 4


def test_files_of_many_ranks_are_all_part_of_the_key(tmp_path: Path, cache: Path) -> None:
    config = replace(DENSE, n_kv_heads=4)
    for number, change in enumerate((0.0, 1.0)):
        weights = random_weights(config)
        weights["output.weight"][-1, -1] += change  # in the last rank's file
        load(write_pth(tmp_path / f"pth{number}", config, weights, num_ranks=2))
    assert len(entries(cache)) == 2


def damage(entry: Path) -> None:
    data = bytearray(entry.read_bytes())
    data[-100] ^= 1
    entry.write_bytes(data)


@pytest.mark.parametrize("fault", ["a bit", "cut short", "empty", "another file", "no record", "a false record"])
def test_a_damaged_entry_is_made_again(fault: str, tmp_path: Path, cache: Path, num_packed: list[PackedWeight]) -> None:
    path = write(tmp_path, DENSE, "hf")
    expected = bits(load(path))
    [entry] = entries(cache)
    record = entry.with_suffix(".json")
    if fault == "a bit":
        damage(entry)
    elif fault == "cut short":
        os.truncate(entry, entry.stat().st_size - 64)
    elif fault == "empty":
        entry.write_bytes(b"")
    elif fault == "another file":
        shutil.copyfile(path / "model.safetensors", entry)
    elif fault == "no record":
        record.unlink()
    else:
        record.write_text(json.dumps({"stamp": "x", "sha256": 7}))
    num_packed.clear()
    assert bits(load(path)) == expected
    assert num_packed != []
    num_packed.clear()
    assert bits(load(path)) == expected
    assert num_packed == []


def test_an_entry_of_the_wrong_tensors_is_refused_though_its_record_is_right(tmp_path: Path) -> None:
    cache = PackedCache(tmp_path / "cache", 10**6)
    cache.store("k", {"a": 100, "b": 64}, [("a", torch.zeros(100, dtype=torch.uint8)), ("b", torch.zeros(64).byte())])
    assert cache.find("k", {"a": 100, "b": 64}) is not None
    for sizes in ({"a": 100}, {"a": 200, "b": 64}, {"a": 100, "c": 64}):
        assert cache.find("k", sizes) is None
        assert not (tmp_path / "cache" / "k.safetensors").exists()
        cache.store("k", {"a": 100, "b": 64}, [("a", torch.zeros(100).byte()), ("b", torch.zeros(64).byte())])


def test_what_others_can_write_is_not_read(tmp_path: Path, cache: Path, num_packed: list[PackedWeight]) -> None:
    path = write(tmp_path, DENSE, "hf")
    load(path)
    cache.chmod(0o770)
    num_packed.clear()
    load(path)
    assert num_packed != []
    cache.chmod(0o700)
    num_packed.clear()
    load(path)
    assert num_packed == []
    [entry] = entries(cache)
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    num_packed.clear()
    load(path)
    assert num_packed != []


def test_an_entry_that_was_moved_is_proved_again(tmp_path: Path, cache: Path, num_packed: list[PackedWeight]) -> None:
    path = write(tmp_path, DENSE, "hf")
    load(path)
    [entry] = entries(cache)
    shutil.copyfile(entry, tmp_path / "aside")
    entry.unlink()
    shutil.move(tmp_path / "aside", entry)
    entry.chmod(0o600)
    num_packed.clear()
    load(path)
    assert num_packed == []


def test_entries_used_longest_ago_go_first(tmp_path: Path) -> None:
    cache = PackedCache(tmp_path / "cache", 3000)

    def store(key: str) -> None:
        cache.store(key, {"a": 1000}, [("a", torch.full((1000,), 1, dtype=torch.uint8))])

    for number, key in enumerate(("one", "two")):
        store(key)
        os.utime(tmp_path / "cache" / f"{key}.json", (number, number))
    assert cache.find("one", {"a": 1000}) is not None  # used just now
    store("three")
    assert [cache.find(key, {"a": 1000}) is not None for key in ("one", "two", "three")] == [True, False, True]
    with pytest.raises(CapacityError, match="more than the packed cache may take"):
        cache.store("four", {"a": 4000}, [])
    part = tmp_path / "cache" / ".x.safetensors.0123456789abcdef.part"
    part.write_bytes(b"x")
    os.utime(part, (1, 1))
    store("five")
    assert not part.exists()


def test_a_full_disk_or_a_fault_of_the_checkpoint_leaves_no_entry(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, DENSE, "hf")
    monkeypatch.setattr("tramontane.loading.packed_cache._SPARE_BYTES", 2**60)
    assert load(path).decoder is not None
    assert entries(cache) == []
    monkeypatch.setattr("tramontane.loading.packed_cache._SPARE_BYTES", 0)
    edit_json(path / "config.json", tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match="differ, but the configuration ties them"):
        load(path)
    assert sorted(path.suffix for path in cache.iterdir()) == ["", ".lock", ".lock"]


_LOAD = """
import sys
from tramontane.loading import load_model, open_checkpoint
import tramontane.loading.load_packed as module
module.CACHED_FROM_BYTES = 0
real, packed = module._pack, []
module._pack = lambda *arguments: packed.append(1) or real(*arguments)
load_model(open_checkpoint(sys.argv[1]), weight_format="q8_0")
print(len(packed))
"""


def test_of_processes_that_start_together_one_packs(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path, EXPERTS, "hf")
    command = [sys.executable, "-c", _LOAD, str(path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    num_packed = [int(process.communicate(timeout=120)[0]) for process in started]
    assert sorted(num_packed)[:2] == [0, 0]
    assert max(num_packed) > 0
    assert len(entries(cache)) == 1


def test_a_size_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAMONTANE_PACKED_CACHE_GIB", "much")
    with pytest.raises(ConfigError, match="TRAMONTANE_PACKED_CACHE_GIB='much' is not a size in GiB"):
        load(write(tmp_path, DENSE, "hf"))


@pytest.mark.parametrize("weight_format", WEIGHT_FORMATS)
def test_the_layout_s_digest_is_that_of_its_bytes(weight_format: str) -> None:
    first = layout_digest(weight_format)
    layout_digest.cache_clear()
    assert layout_digest(weight_format) == first
    assert len({layout_digest(name) for name in WEIGHT_FORMATS}) == len(WEIGHT_FORMATS)
