"""Several owners at one scheduler: each gets an even share of what is computed, and a newcomer does not wait."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.simulation import Simulation
from tests.engine.test_scheduler import prompt
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.request import Request
from tramontane.engine.shares import Shares, TokenCost
from tramontane.engine.step_plan import StepPlan
from tramontane.errors import CapacityError


def simulation(*, num_pages: int = 1000, **sizes: Any) -> Simulation:
    config = {"page_size": 4, "max_batch_tokens": 64, "max_sequences": 16, "max_shared_cost": 24} | sizes
    return Simulation(EngineConfig(**config), (None,), (num_pages,))


def flood(sim: Simulation, owner: str, count: int, num_prompt: int, max_tokens: int, **more: Any) -> list[Request]:
    return [
        sim.add(prompt(num_prompt, 1000 * sum(map(ord, owner)) + seed), max_tokens, owner=owner, can_stop=False, **more)
        for seed in range(count)
    ]


def served(plans: list[StepPlan]) -> Counter[str]:
    """Cost of what was computed, by owner."""
    cost: Counter[str] = Counter()
    for plan in plans:
        for chunk in plan.chunks:
            sequence = chunk.sequence
            each = TokenCost().of(chunk.start, chunk.end, sequence.num_prompt_tokens)
            cost[sequence.request.owner] += round(each)
    return cost


def jain(values: list[float]) -> float:
    """Jain, Chiu and Hawe, A Quantitative Measure of Fairness (1984): 1 where all are equal, 1/n where one has all."""
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


def steps_to_first_token(sim: Simulation, request: Request) -> int:
    started = sim.scheduler.num_steps
    while not any(sequence.num_generated_tokens for sequence in request.sequences):
        sim.step()
    return sim.scheduler.num_steps - started


@pytest.mark.parametrize(
    "greed",
    [
        {"count": 200, "num_prompt": 5, "max_tokens": 100},
        {"count": 1, "num_prompt": 5, "max_tokens": 100, "n": 63},
        {"count": 30, "num_prompt": 200, "max_tokens": 3},
        {"count": 300, "num_prompt": 9, "max_tokens": 0},
    ],
    ids=["many streams", "many answers", "long prompts", "embeddings"],
)
def test_a_newcomer_has_the_first_token_after_the_next_step_whatever_another_has_asked(greed: dict[str, Any]) -> None:
    sim = simulation()
    flood(sim, "alice", **greed)
    for _ in range(5):
        sim.step()
    for seed in range(3):
        request = sim.add(prompt(8, 900 + seed), 5, owner="bob")
        assert steps_to_first_token(sim, request) == 1
        while not request.is_finished:
            before = request.sequences[0].num_generated_tokens
            sim.step()
            assert request.sequences[0].num_generated_tokens == before + 1, "a token in each step"


def test_a_newcomer_gets_pages_that_another_holds_too_many_of() -> None:
    sim = simulation(num_pages=60, max_seq_len=None)
    flood(sim, "alice", 10, 40, 60)
    for _ in range(30):
        sim.step()
    assert sim.allocator.available()[0] < 10
    request = sim.add(prompt(20, 7), 20, owner="bob", can_stop=False)
    assert steps_to_first_token(sim, request) <= 3
    while not request.is_finished:
        sim.step()
    assert request.sequences[0].finish_reason == "length"
    sim.run(20_000)


def test_ten_owners_of_different_greed_are_served_alike() -> None:
    sim = simulation(max_sequences=64, max_batch_tokens=256, max_shared_cost=48, max_waiting=10_000, num_pages=5000)
    rng = random.Random(3)
    streams = [1, 2, 5, 10, 20, 30, 40, 60, 80, 100]
    sizes = [(rng.choice([4, 60, 200]), rng.choice([2, 30, 80])) for _ in streams]
    running: list[list[Request]] = [[] for _ in streams]
    plans: list[StepPlan] = []
    for step in range(6000):
        for owner, (count, (num_prompt, max_tokens)) in enumerate(zip(streams, sizes, strict=True)):
            running[owner] = [request for request in running[owner] if not request.is_finished]
            while len(running[owner]) < count:
                ids = [rng.randrange(1, 6) for _ in range(num_prompt)]
                running[owner].append(sim.add(ids, max_tokens, owner=str(owner), can_stop=False, salt=str(step)))
        plan = sim.scheduler.plan()
        plans.append(plan)
        sim.scheduler.commit(plan, [[1] for _ in plan.samples])
    cost = served(plans[200:])
    # those with a stream or two may want less than their share; all of that they get
    wanting = [cost[str(owner)] for owner, count in enumerate(streams) if count >= 5]
    assert jain([float(each) for each in wanting]) > 0.99
    assert max(cost.values()) < 1.1 * min(wanting)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32), num_owners=st.integers(2, 5), max_shared_cost=st.integers(2, 60))
def test_owners_who_always_want_more_get_the_same_within_a_quantum_and_a_step(
    seed: int, num_owners: int, max_shared_cost: int
) -> None:
    rng = random.Random(seed)
    sim = simulation(max_sequences=rng.randint(num_owners, 20), max_shared_cost=max_shared_cost, max_waiting=10**6)
    sizes = [(rng.randint(1, 60), rng.randint(1, 30)) for _ in range(num_owners)]
    plans = []
    for owner, (num_prompt, max_tokens) in enumerate(sizes):
        flood(sim, str(owner), 8, num_prompt, max_tokens)
    for step in range(250):
        for owner, (num_prompt, max_tokens) in enumerate(sizes):
            num_waiting = sum(s.request.owner == str(owner) for s in sim.scheduler.waiting)
            for _ in range(max_shared_cost + 1 - num_waiting):  # more than one step may take
                sim.add(prompt(num_prompt, step), max_tokens, owner=str(owner), can_stop=False, salt=str(step))
        plan = sim.scheduler.plan()
        plans.append(plan)
        sim.scheduler.commit(plan, [[1] for _ in plan.samples])
    cost = [served(plans[50:])[str(owner)] for owner in range(num_owners)]
    assert max(cost) - min(cost) <= Shares.QUANTUM, cost


def test_a_batch_stands_behind_what_others_wait_for_and_ends_nevertheless() -> None:
    sim = simulation(max_sequences=2, aging_steps=8, max_waiting=10**6)
    batch = sim.add(prompt(5, 1), 3, owner="alice", priority=4, can_stop=False)
    flood(sim, "bob", 4, 5, 3)
    for step in range(400):
        if batch.is_finished:
            break
        sim.add(prompt(5, 100 + step), 3, owner="bob", can_stop=False)
        sim.step()
    assert batch.is_finished
    assert sim.scheduler.num_steps > 16


def test_a_batch_takes_no_place_from_what_is_more_urgent() -> None:
    sim = simulation(max_sequences=4)
    flood(sim, "alice", 8, 5, 50)
    for _ in range(3):
        sim.step()
    sim.add(prompt(5, 9), 5, owner="bob", priority=4)
    sim.step()
    assert {s.request.owner for s in sim.scheduler.running} == {"alice"}
    sim.run(2000)


def test_one_owner_cannot_fill_the_queue() -> None:
    sim = simulation(max_waiting=30)
    with pytest.raises(CapacityError, match="your share of the queue"):
        flood(sim, "alice", 31, 3, 1)
    assert len(sim.scheduler.waiting) == 15
    with pytest.raises(CapacityError, match="your share"):
        flood(sim, "bob", 31, 3, 1)
    sim.add(prompt(3), 1, owner="carol")
    sim.run(200)


def test_the_share_of_the_queue_can_be_set_and_is_not_for_requests_without_owner() -> None:
    sim = simulation(max_waiting=30, max_waiting_per_owner=3)
    with pytest.raises(CapacityError, match="3 of your requests are waiting"):
        flood(sim, "alice", 4, 3, 1)
    flood(sim, "", 27, 3, 1)
    with pytest.raises(CapacityError, match="max_waiting=30"):
        flood(sim, "", 1, 3, 1)


def test_one_owner_alone_has_steps_as_large_as_ever_and_again_some_time_after_another_has_gone() -> None:
    sim = simulation(max_sequences=16)
    flood(sim, "alice", 16, 3, 10_000 // 16)
    sim.step()
    assert sim.step().num_tokens == 16
    sim.add(prompt(3, 5), 1, owner="bob")
    sim.step()
    assert sim.step().num_tokens <= 12
    alone = Shares()
    alone.join("alice", 0)
    alone.join("bob", 5)
    assert alone.are_kept(5)
    alone.leave("bob")
    assert alone.are_kept(4 + Shares.SHARED_STEPS)
    assert not alone.are_kept(5 + Shares.SHARED_STEPS)


def test_what_is_computed_again_after_a_preemption_is_charged_once() -> None:
    sim = simulation(prefix_cache=False, max_sequences=4)
    requests = flood(sim, "alice", 6, 20, 30)
    plans = [sim.step() for _ in range(5)]
    requests += flood(sim, "bob", 1, 20, 30)
    while sim.scheduler.has_work:
        plans.append(sim.step())
        assert sim.scheduler.num_steps < 2000
    assert sim.scheduler.num_preemptions
    for request in requests:
        [sequence] = request.sequences
        assert sequence.num_charged_tokens in (0, len(sequence.token_ids) - 1)
    assert sum(plan.num_tokens for plan in plans) > sum(r.sequences[0].num_charged_tokens for r in requests)
