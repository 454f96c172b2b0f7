from __future__ import annotations

import pytest

from tests.engine.simulation import VOCAB_SIZE, Simulation
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.pages import PagePool, PageTable, first_visible_page, max_pages_for


@pytest.mark.parametrize("page_size", [1, 2, 3, 16])
@pytest.mark.parametrize("num_tokens", [0, 1, 2, 3, 15, 16, 17, 18, 33])
def test_max_pages_for_counts_the_worst_alignment(num_tokens: int, page_size: int) -> None:
    worst = max(
        len({position // page_size for position in range(start, start + num_tokens)}) for start in range(page_size)
    )
    assert max_pages_for(num_tokens, page_size) == worst


@pytest.mark.parametrize("window", [None, 1, 2, 5, 16])
def test_first_visible_page_is_that_of_the_oldest_key(window: int | None) -> None:
    for position in range(60):
        visible = [key for key in range(position + 1) if window is None or position - key < window]
        assert first_visible_page(position, window, 4) == visible[0] // 4


def test_a_table_slides_over_its_pages() -> None:
    table = PageTable(first_page=3)
    expected: list[int] = []
    for page in range(500):
        table.append(page)
        expected.append(page)
        if page % 3:
            assert table.pop_first() == expected.pop(0)
        assert table.page_ids.tolist() == expected
        assert (table.end_page, len(table)) == (table.first_page + len(expected), len(expected))
    assert table.first_page == 3 + 500 - len(expected)
    copy = table.copy()
    table.replace_last(7)
    assert (table.last, copy.last) == (7, 499)
    copy.append(1)
    assert copy.page_ids.tolist() == [*expected, 1]


def test_a_sliding_table_does_not_grow() -> None:
    table = PageTable()
    for page in range(100_000):
        table.append(page)
        if len(table) > 20:
            table.pop_first()
    assert len(table._buffer) <= 64


def test_pool_takes_warm_pages_first_then_untouched_ones_then_the_least_recently_held() -> None:
    forgotten: list[int] = []
    pool = PagePool(4, forgotten.append)
    pages = [pool.allocate() for _ in range(3)]
    assert pages == [0, 1, 2]
    pool.remember(2)
    pool.remember(0)
    for page in (1, 2, 0):
        pool.release(page)
    assert pool.num_available == 4
    assert [pool.allocate() for _ in range(4)] == [1, 3, 2, 0]
    assert (forgotten, pool.num_evictions, pool.num_untouched) == ([2, 0], 2, 0)
    with pytest.raises(RuntimeError, match="all 4 pages"):
        pool.allocate()


def test_a_cached_page_taken_up_again_is_not_given_away() -> None:
    pool = PagePool(1, lambda _page: None)
    page = pool.allocate()
    pool.remember(page)
    pool.release(page)
    pool.share(page)
    assert (pool.num_available, pool.num_held) == (0, 1)
    pool.share(page)
    pool.release(page)
    assert pool.num_held == 1


def test_memory_of_a_windowed_stream_is_flat() -> None:
    """100,000 generated tokens touch no more pages than the window and its neighbours need."""
    window, page_size = 64, 16
    config = EngineConfig(page_size=page_size, max_batch_tokens=32, max_sequences=1)
    simulation = Simulation(config, (window,), (1000,))
    request = simulation.add([1 % VOCAB_SIZE] * 40, 100_000, can_stop=False)
    pool = simulation.allocator.pools[0]
    scheduler = simulation.scheduler
    most_held = 0
    while not request.is_finished:
        scheduler.commit(scheduler.plan(), [[1]])
        most_held = max(most_held, pool.num_held)
    assert most_held == max_pages_for(window, page_size)
    touched = pool.num_pages - pool.num_untouched
    assert touched <= most_held + 40 // page_size + 1, "the prompt's own pages may stay cached, the answer's may not"
    assert len(simulation.allocator.cache.nodes) <= 100_040 // page_size
