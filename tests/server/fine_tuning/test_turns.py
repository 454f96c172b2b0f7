"""Whose job is trained next, and whose gives way."""

from __future__ import annotations

import random
from collections import Counter

from tramontane.server.fine_tuning.turns import SHORT_SLICE_S, SLICE_S, Turns, gives_way
from tramontane.server.store.tables import FineTuningJob


def jobs_of(*owners: str) -> list[FineTuningJob]:
    return [FineTuningJob(id=f"{owner}-{n}", owner=owner) for n, owner in enumerate(owners)]


def test_owners_take_turns_whatever_they_ask_for() -> None:
    turns = Turns()
    waiting = jobs_of(*["alice"] * 10, "bob", "bob", "carol")
    order = []
    while waiting:
        (chosen,) = turns.choose(waiting, [], 1)
        order.append(chosen)
        waiting = [job for job in waiting if job.id != chosen]
    assert order[:5] == ["alice-0", "bob-10", "carol-12", "alice-1", "bob-11"]
    assert order[5:] == [f"alice-{n}" for n in range(2, 10)]


def test_those_who_have_none_active_come_first() -> None:
    turns = Turns()
    waiting, active = jobs_of("alice", "alice", "bob"), jobs_of("alice")
    assert turns.choose(waiting, active, 2) == {"bob-2", "alice-0"}
    assert turns.choose(waiting, active, 3, per_owner=1) == {"bob-2"}
    assert turns.choose(waiting, active, 0) == turns.choose([], active, 3) == set()


def test_a_job_gives_way_when_its_time_is_over_and_another_owner_waits() -> None:
    active = jobs_of("alice", "alice", "bob")
    seconds = dict.fromkeys((job.id for job in active), SHORT_SLICE_S)
    waiting = jobs_of("alice", "carol")
    assert gives_way(jobs_of("alice", "bob"), active, seconds, ()) is None
    assert gives_way(waiting, active, {}, ()) is None
    assert gives_way(waiting, active, seconds, ("bob-2",)) is None  # it makes room already
    found = gives_way(waiting, active, seconds | {"alice-1": SHORT_SLICE_S + 1}, ())
    assert found is active[1]
    assert gives_way(waiting, active[2:], seconds, ()) is None
    assert gives_way(waiting, active[2:], {"bob-2": SLICE_S}, ()) is active[2]


def test_in_the_long_run_all_who_wait_are_trained_for_as_long() -> None:
    draw, turns = random.Random(0), Turns()
    waiting = jobs_of(*["alice"] * 50, *["bob"] * 3, "carol")
    active: list[FineTuningJob] = []
    seconds: dict[str, float] = {}
    trained: Counter[str] = Counter()
    for _ in range(6000):
        chosen = turns.choose(waiting, active, 2 - len(active))
        active += [job for job in waiting if job.id in chosen]
        waiting = [job for job in waiting if job.id not in chosen]
        step_s = draw.uniform(5, 30)
        for job in active:
            seconds[job.id] = seconds.get(job.id, 0.0) + step_s
            trained[job.owner] += round(step_s)
        going = gives_way(waiting, active, seconds, ())
        if going is not None:
            active.remove(going)
            waiting.append(going)
            del seconds[going.id]
    assert max(trained.values()) < 1.05 * min(trained.values()), trained
