"""What the scheduler promises of order, room and shares; `tests/simulations/scheduler.py` draws worlds for it."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest

from tests.engine.simulation import VOCAB_SIZE, Simulation
from tramontane.engine.engine_config import EngineConfig
from tramontane.errors import CapacityError, RequestError


def simulation(
    *,
    windows: tuple[int | None, ...] = (None,),
    num_pages: tuple[int, ...] = (1000,),
    page_size: int = 4,
    **sizes: Any,
) -> Simulation:
    config = {"page_size": page_size, "max_batch_tokens": 16, "max_sequences": 4} | sizes
    return Simulation(EngineConfig(**config), windows, num_pages)


def prompt(num_tokens: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(1, VOCAB_SIZE) for _ in range(num_tokens)]


def test_importable_without_torch() -> None:
    modules = (
        "speculation token_index scheduler shares turns pages page_allocator prefix_cache request sampling "
        "engine_config integrity"
    )
    imports = "; ".join(f"import tramontane.engine.{module}" for module in modules.split())
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['torch'] = None; {imports}"], check=True, timeout=60
    )


def test_lower_priority_numbers_go_first_and_ties_in_order_of_arrival() -> None:
    sim = simulation(max_sequences=1)
    for seed, priority in enumerate([1, 0, 2, 0, -1]):
        sim.add(prompt(3, seed), 0, priority=priority)
    served = [sim.step().chunks[0].sequence.request.request_id for _ in sim.requests]
    assert served == [4, 1, 3, 0, 2]


def test_nobody_starves_behind_an_endless_stream_of_urgent_requests() -> None:
    sim = simulation(max_sequences=1, aging_steps=5)
    patient = sim.add(prompt(3, 99), 0, priority=4)
    while not patient.is_finished:
        sim.add(prompt(3, sim.scheduler.num_steps), 0, priority=0)
        sim.step()
    # each step serves one request; those of the first 4 * 5 steps go first, later ones do not
    assert sim.scheduler.num_steps == 4 * 5 + 1


def test_decodes_go_on_while_a_long_prompt_is_computed() -> None:
    sim = simulation(max_batch_tokens=16)
    talker = sim.add(prompt(3), 30, can_stop=False).sequences[0]
    sim.step()
    sim.add(prompt(200, 1), 1)
    for _ in range(12):
        before = talker.num_generated_tokens
        plan = sim.step()
        assert talker.num_generated_tokens == before + 1
        assert plan.num_tokens == 16


def test_a_short_prompt_overtakes_long_ones_that_still_advance() -> None:
    sim = simulation(max_batch_tokens=20, max_sequences=8)
    long = [sim.add(prompt(300, seed), 1) for seed in range(4)]
    sim.step()
    short = sim.add(prompt(8, 9), 1)
    plan = sim.step()
    assert short.is_finished
    assert {chunk.sequence: chunk.end - chunk.start for chunk in plan.chunks}[long[0].sequences[0]] >= 10


def test_forks_share_the_prompt_and_copy_its_last_page_only() -> None:
    sim = simulation(page_size=4, max_sequences=4)
    request = sim.add(prompt(10), 5, n=3, can_stop=False)
    sim.step()
    assert len(request.sequences) == 3
    assert sim.allocator.pools[0].num_held == 3
    copies = sim.step().copies
    assert len(copies) == 2, "the last to write keeps the shared page"
    assert sim.allocator.pools[0].num_held == 5
    sim.run(20)


def test_more_answers_than_may_run_at_once_take_turns() -> None:
    sim = simulation(max_sequences=2)
    request = sim.add(prompt(10), 6, n=7, can_stop=False)
    sim.run(200)
    assert [sequence.index for sequence in request.sequences] == list(range(7))
    assert all(sequence.num_generated_tokens == 6 for sequence in request.sequences)


def test_a_sequence_alone_with_a_full_pool_waits_rather_than_preempt_itself() -> None:
    sim = simulation(num_pages=(6,), max_sequences=2)
    first = sim.add(prompt(12, 1), 12, can_stop=False)
    second = sim.add(prompt(3, 2), 12, can_stop=False)
    sim.run(100)
    assert first.sequences[0].finish_reason == second.sequences[0].finish_reason == "length"
    assert sim.scheduler.num_preemptions <= 1


def test_a_request_that_can_never_fit_is_refused_with_numbers_and_others_go_on() -> None:
    sim = simulation(num_pages=(10,))
    fits = sim.add(prompt(20), 20)
    with pytest.raises(RequestError, match=r"prompt of 30 tokens .* 41 tokens in all .* holds 40"):
        sim.add(prompt(30), 11)
    sim.run(100)
    assert fits.is_finished
    assert len(sim.requests) == 1


def test_windowed_groups_fit_any_length() -> None:
    sim = simulation(windows=(6,), num_pages=(3,), page_size=4)
    request = sim.add(prompt(50), 500, can_stop=False)
    while not request.is_finished:
        sim.step()
        assert sim.allocator.pools[0].num_held <= 3
    assert len(request.sequences[0].token_ids) == 550
    with pytest.raises(RequestError, match="can never fit"):
        simulation(windows=(6,), num_pages=(2,), page_size=4).add(prompt(9), 0)


def test_the_queue_is_bounded() -> None:
    sim = simulation(max_waiting=3)
    for seed in range(3):
        sim.add(prompt(3, seed), 1)
    with pytest.raises(CapacityError, match="max_waiting=3"):
        sim.add(prompt(3, 9), 1)
    sim.step()
    sim.add(prompt(3, 9), 1)
    sim.run(50)


@pytest.mark.parametrize("priority", [-1001, 1001, 2**63])
def test_priorities_are_bounded(priority: int) -> None:
    with pytest.raises(RequestError, match="priority"):
        simulation().add([1], 1, priority=priority)


def test_abort_returns_the_pages_at_once_wherever_the_request_is() -> None:
    sim = simulation(max_sequences=2, max_batch_tokens=4)
    decoding = sim.add(prompt(3, 1), 30, can_stop=False)
    sim.step()
    prefilling = sim.add(prompt(100, 2), 5, n=2)
    queued = sim.add(prompt(10, 3), 5)
    sim.step()
    sim.step()
    for request in (queued, prefilling, decoding):
        held = sim.allocator.pools[0].num_held
        sim.scheduler.end(request, "abort")
        assert request.is_finished
        assert [sequence.finish_reason for sequence in request.sequences] == ["abort"] * request.params.n
        assert request is queued or sim.allocator.pools[0].num_held < held
    assert sim.allocator.pools[0].num_held == 0
    sim.run(0)


def test_a_full_cache_serves_many_clients_one_after_the_other() -> None:
    """SECURITY: a pool of 1.1 requests and 64 clients; nobody is dropped and pages are not thrashed without end."""
    sim = simulation(num_pages=(22,), max_sequences=64, max_batch_tokens=64)  # a request of 80 tokens fills 20 pages
    rng = random.Random(5)
    for client in range(64):
        sim.add(prompt(rng.randint(1, 60), client), 20, can_stop=False)
    sim.run(64 * 30)
    assert sim.scheduler.num_preemptions < 64


def test_an_admission_counts_what_running_prompts_have_still_to_take() -> None:
    sim = simulation(num_pages=(30,), max_batch_tokens=8)
    sim.add(prompt(80, 1), 1)
    sim.step()
    second = sim.add(prompt(60, 2), 1).sequences[0]
    sim.step()
    assert not second.tables, "20 + 15 pages do not fit 30: better to wait than to be preempted halfway"
    sim.run(100)
    assert sim.scheduler.num_preemptions == 0


def test_an_admission_leaves_a_page_for_each_running_sequence() -> None:
    sim = simulation(num_pages=(8,))
    first = sim.add(prompt(13, 1), 8, can_stop=False).sequences[0]  # holds 4 pages, 5 in the end
    sim.step()
    second = sim.add(prompt(15, 2), 5, can_stop=False).sequences[0]  # wants the 4 pages left
    sim.step()
    assert not second.tables
    while not first.is_finished:
        sim.step()
    sim.run(10)
    assert sim.scheduler.num_preemptions == 0
