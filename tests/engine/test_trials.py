"""Decision 8 on the native kernels: bit equality in any company, for every format; the benchmark runs more of it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.engine.trials import MIXTURE, STORED, WINDOWS, Trials, native_model, random_adapter
from tramontane.config import MoeConfig
from tramontane.ops import _cpu

pytestmark = pytest.mark.usefixtures("one_thread_after")


@pytest.fixture
def one_thread_after() -> Iterator[None]:
    before = _cpu.num_threads()
    yield
    _cpu.set_num_threads(before)


@pytest.mark.parametrize(
    ("number", "stored", "moe"),
    [(n, stored, None) for n, stored in enumerate(STORED)] + [(1, "F32", MIXTURE), (2, "Q8_0", MIXTURE)],
)
def test_every_answer_has_the_bits_it_has_alone(number: int, stored: str, moe: MoeConfig | None) -> None:
    trials = Trials(native_model(stored, WINDOWS[number % len(WINDOWS)], moe), random.Random(number))
    for _ in range(2):
        trials.run(10)


@pytest.mark.parametrize(("stored", "moe"), [("F32", None), ("Q4_0", None), ("Q8_0", MIXTURE)])
def test_adapters_of_the_same_batch_do_not_hear_each_other(stored: str, moe: MoeConfig | None) -> None:
    model = native_model(stored, (None, 9), moe)
    adapters = [random_adapter(model, 0), random_adapter(model, 1, ["wq", "w2"], rank=17), random_adapter(model, 2)]
    trials = Trials(model, random.Random(3), adapters=[None, *adapters])
    for _ in range(3):
        trials.run(10)
    said = {tuple(trials.alone((5, 6, 7), 0, adapter)[0].token_ids) for adapter in range(4)}
    assert len(said) == 4


def test_the_trials_meet_what_they_are_about() -> None:
    trials = Trials(native_model("Q8_0", (None, 9)), random.Random(0))
    for _ in range(10):
        trials.run(10)
    assert trials.num_preemptions > 0
    assert trials.num_cached_tokens > 100
    assert trials.num_drafted_tokens > trials.num_accepted_tokens > 100


def test_sharing_between_owners_changes_no_bit() -> None:
    trials = Trials(native_model("Q8_0", (None, 9)), random.Random(1), owners=("", "alice", "bob"))
    for _ in range(6):
        trials.run(10)
    assert trials.num_preemptions > 0
