"""Fixtures that run a test once per instruction set and with a known number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tramontane.ops import _cpu


@pytest.fixture(params=_cpu.instruction_sets())
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _cpu.instruction_set()
    _cpu.set_instruction_set(request.param)
    yield request.param
    _cpu.set_instruction_set(before)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests start from one thread; those about threads set their own number."""
    before = _cpu.num_threads()
    _cpu.set_num_threads(1)
    yield
    _cpu.set_num_threads(before)
