"""Leases by count, and days that must not come early, with clocks that tests move."""

from __future__ import annotations

import random

import pytest

from tramontane.server.lease import LEASE_S, RENEW_S, Deadlines, LeaseWatch, Sight


class Clock:
    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def test_a_lease_ends_where_its_count_stands_still() -> None:
    clock = Clock(1000.0)
    watch = LeaseWatch(clock)
    still, moving = Sight("a", "one", 1), Sight("b", "one", 1)
    assert watch.expired([still, moving]) == []
    clock.at += LEASE_S / 2
    assert watch.expired([still, moving._replace(beat=2)]) == []
    clock.at += LEASE_S / 2
    assert watch.expired([still, moving._replace(beat=2)]) == [still]
    assert watch.expired([]) == []
    assert watch.expired([still]) == []  # it was gone in between
    clock.at += LEASE_S
    assert watch.expired([still._replace(holder="two")]) == []


@pytest.mark.parametrize(
    ("wall_jump_s", "up_s", "is_over"),
    [
        (0.0, 1800.0, False),
        (0.0, 3600.0, True),
        (3600.0, 10.0, False),  # forwards: what this process has counted says otherwise
        (10 * 365 * 86400.0, 3599.0, False),
        (10 * 365 * 86400.0, 3600.0, True),
        (-86400.0, 3600.0, False),  # backwards: late, and never early
    ],
)
def test_a_day_comes_when_both_clocks_say_so(wall_jump_s: float, up_s: float, is_over: bool) -> None:
    wall, clock = Clock(5000.0), Clock(7.0)
    deadlines = Deadlines(wall, clock)
    clock.at += up_s
    wall.at += up_s + wall_jump_s
    assert (deadlines.left_s(5000.0, 8600.0) <= 0) == is_over


def test_a_server_that_begins_with_a_wrong_clock_ends_nothing_before_it_is_set_right() -> None:
    wall, clock = Clock(10**9), Clock(0.0)
    deadlines = Deadlines(wall, clock)
    assert deadlines.left_s(5000.0, 5000.0 + 86400.0) == Deadlines.GRACE_S
    wall.at, clock.at = 5100.0, 100.0  # set right
    assert deadlines.left_s(5000.0, 5000.0 + 86400.0) == 86300.0
    assert deadlines.left_s(5000.0, 5050.0) <= 0  # up for longer than that had
    wall.at, clock.at = 10**9 + 601.0, 601.0
    assert deadlines.left_s(5000.0, 5000.0 + 86400.0) <= 0  # three days late, and nothing was wrong


class Worker:
    """A server that claims one row as long as it lives and moves; `table` is {row: (holder, count)}."""

    def __init__(self, name: str, table: dict[str, tuple[str | None, int]], clock: Clock) -> None:
        self.name, self.table, self.clock = name, table, clock
        self.watch = LeaseWatch(clock)
        self.renewed: float | None = None  # where it believes to hold the row

    def step(self) -> None:
        holder, count = self.table["row"]
        if self.renewed is not None:
            if holder != self.name:
                self.renewed = None
            elif self.clock() - self.renewed >= RENEW_S:
                self.table["row"], self.renewed = (self.name, count + 1), self.clock()
            return
        gone = [] if holder in (None, self.name) else self.watch.expired([Sight("row", str(holder), count)])
        if holder in (None, self.name) or gone:
            self.table["row"], self.renewed = (self.name, count + 1), self.clock()


@pytest.mark.parametrize("seed", range(100))
def test_workers_that_crash_and_stand_still_lose_no_row_and_share_none(seed: int) -> None:
    """Whoever moves at least every second keeps what it holds, and a row whose holder is gone has a new one soon."""
    draw = random.Random(seed)
    true_time = Clock(0.0)
    table: dict[str, tuple[str | None, int]] = {"row": (None, 0)}
    workers = [Worker(f"w{n}", table, true_time) for n in range(3)]
    asleep_until = dict.fromkeys((worker.name for worker in workers), 0.0)
    last_shown = 0.0
    num_changes, holder = 0, None
    for _ in range(2000):
        true_time.at += draw.uniform(0.05, 1.0)
        worker = draw.choice(workers)
        if draw.random() < 0.01:
            asleep_until[worker.name] = true_time() + draw.uniform(0, 5 * LEASE_S)
        if draw.random() < 0.005:  # killed, and another is begun in its place
            place = workers.index(worker)
            workers[place] = worker = Worker(f"w{draw.random()}", table, true_time)
            asleep_until[worker.name] = true_time()
        before = table["row"]
        for each in workers:
            if asleep_until[each.name] <= true_time():
                each.step()
        if table["row"] != before:
            if table["row"][0] != holder and holder is not None:
                num_changes += 1
                assert true_time() - last_shown >= LEASE_S, "it was taken from one that moves"
            holder, last_shown = table["row"][0], true_time()
        if any(asleep_until[each.name] <= true_time() - 2 * LEASE_S for each in workers):
            assert true_time() - last_shown <= 2 * LEASE_S + 2, "nobody works on it"
    assert num_changes > 0
