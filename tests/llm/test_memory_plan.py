"""Keys and values take no more than is free, and what cannot fit is refused with numbers before weights are read."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch

from tests.model.tiny import tiny_config, tiny_model
from tests.tiny_checkpoint import write_tiny_checkpoint
from tramontane import LLM
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.errors import CapacityError
from tramontane.llm import memory_plan
from tramontane.llm.memory_plan import MemoryPlan, promise, step_bytes
from tramontane.loading import memory

GB = 10**9
CPU = torch.device("cpu")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The last entry is what is free, of which other tests' engines have no part."""
    sizes = [8 * GB]
    monkeypatch.setattr(memory_plan, "_engines", weakref.WeakSet())
    monkeypatch.setattr(memory, "available_bytes", lambda *_: sizes[-1])
    monkeypatch.setattr(memory_plan, "available_bytes", lambda *_: sizes[-1])
    return sizes


def test_a_cache_that_cannot_fit_is_refused_before_weights_are_read(
    free: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    folder = write_tiny_checkpoint(tmp_path / "tiny")
    monkeypatch.setattr("tramontane.loading.load_packed._packed_tensors", read)
    monkeypatch.setattr("tramontane.loading.load._fill", read)
    for weight_format in ("f32", "auto", "torch"):
        with pytest.raises(
            CapacityError,
            match=r"needs 1[1-9]\.\d GB .*, 1[01]\.\d GB of it beside the weights \(--kv-cache-gib\), but 8\.0 GB",
        ):
            LLM(str(folder), kv_cache_gib=10, weight_format=weight_format)


def test_a_cache_that_the_weights_leave_no_room_for_is_refused_with_both_numbers(free: list[int]) -> None:
    model = tiny_model(tiny_config())
    plan = MemoryPlan(model.config, CPU, 3 * GB)
    free.append(2 * GB)
    with pytest.raises(CapacityError, match=r"a KV cache of 3\.0 GB does not fit: weights and computing leave 2\.0 GB"):
        plan.kv_cache_bytes(model)


def test_without_a_size_the_cache_leaves_half_of_what_is_free(free: list[int]) -> None:
    model = tiny_model(tiny_config())
    assert MemoryPlan(model.config, CPU, None).kv_cache_bytes(model) == 2**30
    free.append(GB)
    left = GB - model.weights_bytes - step_bytes(model.config, EngineConfig())
    assert MemoryPlan(model.config, CPU, None).kv_cache_bytes(model) == left // 2
    free.append(1000)
    assert MemoryPlan(model.config, CPU, None).kv_cache_bytes(model) == 1


def test_weights_that_are_mapped_and_so_count_as_free_are_left_room_for(free: list[int]) -> None:
    model = tiny_model(tiny_config())
    free.append(model.weights_bytes + step_bytes(model.config, EngineConfig()) + 10_000)
    assert MemoryPlan(model.config, CPU, None).kv_cache_bytes(model) == 5000


def test_pages_that_another_engine_has_not_used_yet_are_left_to_it(free: list[int]) -> None:
    model = tiny_model(tiny_config())
    free.append(GB)
    alone = MemoryPlan(model.config, CPU, None).kv_cache_bytes(model)
    engine = Engine(model, EngineConfig(kv_cache_bytes=50 * 2**20))
    promise(engine)
    size = sum(group.num_pages * group.page_bytes for group in engine.stats().groups)
    beside = MemoryPlan(model.config, CPU, None).kv_cache_bytes(model)
    assert alone is not None
    assert beside is not None
    assert size > 0
    assert alone - beside == pytest.approx(size / 2, abs=1)
    del engine
    assert MemoryPlan(model.config, CPU, None).kv_cache_bytes(model) == alone


def test_where_nothing_is_known_of_the_memory_the_cache_is_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_plan, "available_bytes", lambda *_: None)
    model = tiny_model(tiny_config())
    assert MemoryPlan(model.config, CPU, None).kv_cache_bytes(model) is None
    assert MemoryPlan(model.config, CPU, GB).kv_cache_bytes(model) == GB
