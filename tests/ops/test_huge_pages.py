"""Memory for weights: side by side, aligned, and given back with the last of them."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from tramontane.ops.huge_pages import ALIGNMENT, ARENA_BYTES, Arena, reserve


def test_what_is_taken_is_aligned_and_apart() -> None:
    arena = Arena()
    taken = [arena.take(size) for size in (1, 63, 64, 1000, 0, 7)]
    for place, memory in enumerate(taken):
        assert memory.data_ptr() % ALIGNMENT == 0
        memory.fill_(place)
    assert [memory.tolist() for memory in taken] == [[place] * len(memory) for place, memory in enumerate(taken)]


@pytest.mark.parametrize("size", [ARENA_BYTES // 2, ARENA_BYTES - 1, ARENA_BYTES, ARENA_BYTES + 1])
def test_what_does_not_fit_gets_a_stretch_of_its_own(size: int) -> None:
    arena = Arena()
    small = arena.take(100)
    large = arena.take(size)
    assert (len(small), len(large)) == (100, size)
    large[-1] = 5
    small[-1] = 6
    assert large[-1] == 5


def test_a_stretch_lives_as_long_as_what_was_taken_of_it() -> None:
    arena = Arena()
    first = arena.take(10)
    stretch = weakref.ref(arena._stretch)
    first.fill_(3)
    del arena
    gc.collect()
    assert first.tolist() == [3] * 10
    assert stretch() is None  # the object; its memory is held by `first` alone


def test_large_memory_is_not_kept_by_the_arena() -> None:
    arena = Arena()
    small = arena.take(100)
    arena.take(4 * ARENA_BYTES)
    assert len(arena._stretch) == ARENA_BYTES
    assert arena.take(100).data_ptr() - small.data_ptr() < ARENA_BYTES  # beside it still


def test_reserved_memory_is_of_the_shape() -> None:
    memory = reserve((3, 5, 2), torch.bfloat16)
    assert memory.shape == (3, 5, 2)
    assert memory.is_contiguous()
    assert float(memory.abs().sum()) == 0.0
