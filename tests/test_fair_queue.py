"""FairQueue: equal shares of cost for all who wait, whatever they ask for."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.fair_queue import FairQueue


def test_one_owner_is_served_first_come_first_served() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(5):
        queue.push("alice", number)
    assert [queue.pop() for _ in range(6)] == [0, 1, 2, 3, 4, None]


def test_who_asks_for_a_hundred_times_as_much_gets_no_more() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(100):
        queue.push("alice", "alice")
    queue.push("bob", "bob")
    assert "bob" in [queue.pop(), queue.pop()]


def test_shares_are_of_cost_not_of_items() -> None:
    random.seed(0)
    queue: FairQueue[tuple[str, float]] = FairQueue(quantum=10)
    for _ in range(2000):
        for owner, cost in (("large", random.uniform(50, 150)), ("small", random.uniform(1, 5))):
            queue.push(owner, (owner, cost), cost)
    served: Counter[str] = Counter()
    while served.total() < 8000:
        owner, cost = queue.pop() or ("", 0.0)
        served[owner] += round(cost)
    assert served["large"] == pytest.approx(served["small"], rel=0.1)


def test_who_is_not_ready_keeps_the_place_and_holds_nobody_up() -> None:
    queue: FairQueue[str] = FairQueue()
    for owner in ("alice", "bob", "alice", "bob"):
        queue.push(owner, owner)
    assert queue.pop(lambda owner: owner != "alice") == "bob"
    assert queue.pop(lambda owner: owner == "carol") is None
    assert queue.pop() == "alice"


def test_what_is_removed_is_not_served() -> None:
    queue: FairQueue[tuple[int]] = FairQueue()
    first, second = (1,), (2,)
    queue.push("alice", first)
    queue.push("alice", second)
    assert queue.remove("alice", first)
    assert not queue.remove("alice", first)
    assert (queue.num_waiting("alice"), len(queue), queue.pop(), len(queue)) == (1, 1, second, 0)
    assert list(queue.owners()) == []


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.01, 1000), st.booleans()), max_size=60),
    st.floats(0.1, 100),
)
def test_everything_comes_out_once_in_its_owners_order(steps: list[tuple[str, float, bool]], quantum: float) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(quantum)
    taken = []
    for number, (owner, cost, pops) in enumerate(steps):
        queue.push(owner, (owner, number), cost)
        if pops:
            taken.append(queue.pop())
    while (item := queue.pop()) is not None:
        taken.append(item)
    for owner in "abcd":
        pushed = [(owner, number) for number, step in enumerate(steps) if step[0] == owner]
        assert [item for item in taken if item and item[0] == owner] == pushed


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.5, 20), min_size=2), st.floats(0.5, 50))
def test_nobody_is_ever_further_ahead_than_one_turn_and_one_item(costs: dict[str, float], quantum: float) -> None:
    queue: FairQueue[str] = FairQueue(quantum)
    for owner, cost in costs.items():
        for _ in range(50):
            queue.push(owner, owner, cost)
    served = dict.fromkeys(costs, 0.0)
    while all(queue.num_waiting(owner) for owner in costs):
        owner = queue.pop() or ""
        served[owner] += costs[owner]
        assert max(served.values()) - min(served.values()) <= 2 * quantum + max(costs.values()) + 1e-6
