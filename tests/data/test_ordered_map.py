from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tramontane.data.ordered_map import ordered_map, worker_pool

SCRIPT = """
import os, sys, time
from tramontane.data.ordered_map import ordered_map, worker_pool
if __name__ == "__main__":
    with worker_pool(2) as pool:
        for pid in ordered_map(int, ["1"], pool, 2):
            print(*pool._processes, flush=True)
            time.sleep(60)
"""


def slow_when_even(number: int) -> int:
    time.sleep(0.02 * (number % 2 == 0))
    return number * number


def test_order_is_kept_and_little_is_drawn_ahead() -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for number in range(12):
            drawn += 1
            yield number

    with worker_pool(2) as pool:
        results = ordered_map(slow_when_even, items(), pool, 2)
        assert next(results) == 0
        assert drawn <= 6
        assert list(results) == [number * number for number in range(1, 12)]


def test_one_worker_is_this_process() -> None:
    with worker_pool(1) as pool:
        assert pool is None
        assert list(ordered_map(lambda number: (number, os.getpid()), [1, 2], pool)) == [
            (n, os.getpid()) for n in (1, 2)
        ]


def test_errors_of_workers_arrive() -> None:
    with worker_pool(2) as pool, pytest.raises(ValueError, match="invalid literal"):
        list(ordered_map(int, ["1", "x"], pool, 2))


def test_workers_end_when_their_parent_is_killed(tmp_path: os.PathLike[str]) -> None:
    script = os.path.join(tmp_path, "parent.py")
    with open(script, "w") as file:
        file.write(SCRIPT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert workers
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if is_running(pid)]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"  # a zombie has ended
    except FileNotFoundError:
        return False
