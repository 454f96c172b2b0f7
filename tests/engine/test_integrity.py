"""Each fault that check_integrity is there to find, made on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.engine.simulation import Simulation
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.integrity import check_integrity
from tramontane.engine.request import SequenceStatus


def busy() -> Simulation:
    """Two running sequences, two waiting ones, cached pages, a window that has slid."""
    config = EngineConfig(page_size=4, max_batch_tokens=16, max_sequences=2)
    sim = Simulation(config, (None, 6), (40, 20))
    sim.add(list(range(1, 16)), 1)
    sim.run(10)
    for seed in range(4):
        sim.add([seed + 1] * 10, 20, can_stop=False)
    for _ in range(4):
        sim.step()
    return sim


def leak_page(sim: Simulation) -> None:
    sim.allocator.pools[0].allocate()


def free_twice(sim: Simulation) -> None:
    pool = sim.allocator.pools[0]
    pool.returned.append(next(iter(pool.cached)))


def give_to_two(sim: Simulation) -> None:
    first, second = sim.scheduler.running
    first.tables[0].replace_last(second.tables[0].last)


def lose_table_entry(sim: Simulation) -> None:
    table = sim.scheduler.running[0].tables[1]
    sim.allocator.pools[1].release(table.pop_first())


def keep_page_behind_window(sim: Simulation) -> None:
    sim.scheduler.running[0].tables[1].first_page -= 1


def forget_state(sim: Simulation) -> None:
    sim.scheduler.running[0].status = SequenceStatus.WAITING


def queue_twice(sim: Simulation) -> None:
    sim.scheduler.waiting.append(sim.scheduler.waiting[-1])


def run_too_many(sim: Simulation) -> None:
    sequence = sim.scheduler.waiting.pop()
    sim.allocator.start(sequence, [])
    sequence.status = SequenceStatus.RUNNING
    sim.scheduler.running.append(sequence)


def wait_with_pages(sim: Simulation) -> None:
    sim.allocator.start(sim.scheduler.waiting[0], [])


def misremember(sim: Simulation) -> None:
    pool = sim.allocator.pools[0]
    pool.is_remembered[next(iter(pool.cached))] = False


def misplace_node(sim: Simulation) -> None:
    next(iter(sim.allocator.cache.nodes.values())).num_children += 1


def orphan_node(sim: Simulation) -> None:
    cache = sim.allocator.cache
    node = next(node for node in cache.nodes.values() if node.num_children)
    del cache.nodes[node.key]


def swap_node_pages(sim: Simulation) -> None:
    first, second = [node for node in sim.allocator.cache.nodes.values() if node.num_pages][:2]
    first.pages, second.pages = second.pages, first.pages


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (leak_page, "is counted 1 times, held 0 times"),
        (free_twice, "places for 40 pages"),
        (give_to_two, "is counted 1 times, held 2 times"),
        (lose_table_entry, "holds the pages"),
        (keep_page_behind_window, "holds the pages"),
        (forget_state, "is in the running queue"),
        (queue_twice, "holds a sequence twice"),
        (run_too_many, "3 sequences run, more than 2"),
        (wait_with_pages, "waits, but holds pages"),
        (misremember, "remember different pages"),
        (misplace_node, "miscounted"),
        (orphan_node, "has lost its parent"),
        (swap_node_pages, "and its pages disagree"),
    ],
)
def test_damage_is_found(damage: Callable[[Simulation], None], message: str) -> None:
    sim = busy()
    check_integrity(sim.scheduler)
    damage(sim)
    with pytest.raises(RuntimeError, match=message):
        check_integrity(sim.scheduler)


def test_writing_a_shared_page_is_found() -> None:
    sim = busy()
    plan = sim.scheduler.plan()
    check_integrity(sim.scheduler)
    chunk = plan.chunks[0]
    other = plan.chunks[1].sequence
    page = chunk.sequence.tables[0].last
    other.tables[0].replace_last(page)
    sim.allocator.pools[0].ref_counts[page] = 2
    with pytest.raises(RuntimeError, match=f"about to write page {page} of group 0, which is shared"):
        check_integrity(sim.scheduler)
