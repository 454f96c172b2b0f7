"""The thread pool seen from Python: threads honoured, concurrent callers, forks, and no work while idle."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from tests.ops.weight_cases import weight_case
from tramontane.ops import _cpu
from tramontane.ops.packed_weight import linear


def _num_os_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_threads_are_started_once_and_stopped_when_fewer_are_asked_for() -> None:
    weight = weight_case("q8_0", 512, 512).packed
    x = torch.randn(8, 512)
    _cpu.set_num_threads(1)
    before = _num_os_threads()
    _cpu.set_num_threads(3)
    for _ in range(10):
        linear(x, weight)
    assert _num_os_threads() == before + 2
    _cpu.set_num_threads(1)
    assert _num_os_threads() == before
    with pytest.raises(ValueError, match="at least 1"):
        _cpu.set_num_threads(0)


def test_concurrent_callers_get_their_own_results() -> None:
    _cpu.set_num_threads(2)
    weight = weight_case("q4_0", 300, 256).packed
    inputs = [torch.randn(n, 256, generator=torch.Generator().manual_seed(n)) for n in (1, 3, 8, 40)]
    expected = [linear(x, weight) for x in inputs]
    wrong: list[int] = []

    def call(index: int) -> None:
        wrong.extend(index for _ in range(50) if not torch.equal(linear(inputs[index], weight), expected[index]))

    threads = [threading.Thread(target=call, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_idle_workers_use_no_processor_time() -> None:
    _cpu.set_num_threads(4)
    weight = weight_case("q8_0", 512, 512).packed
    linear(torch.randn(8, 512), weight)
    time.sleep(0.02)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.03
