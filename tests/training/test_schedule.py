from __future__ import annotations

import math

import pytest

from tramontane.errors import ConfigError
from tramontane.training.schedule import Schedule


def test_cosine_warms_up_and_falls_to_its_end() -> None:
    schedule = Schedule(num_steps=110, kind="cosine", warmup_steps=10, final=0.1)
    assert [schedule.factor(step) for step in (0, 4, 9)] == [0.1, 0.5, 1.0]
    assert schedule.factor(59) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 50 / 101)) / 2)
    assert 0.1 < schedule.factor(109) < 0.101


@pytest.mark.parametrize(("decay", "halfway"), [("linear", 0.5), ("1-sqrt", 1 - math.sqrt(0.5))])
def test_wsd_stays_and_then_decays(decay: str, halfway: float) -> None:
    schedule = Schedule(num_steps=200, kind="wsd", warmup_steps=10, decay_fraction=0.195, decay=decay)  # type: ignore[arg-type]
    assert {schedule.factor(step) for step in range(9, 161)} == {1.0}
    assert schedule.factor(180) == pytest.approx(halfway)
    assert 0 < schedule.factor(199) < 0.03


def test_every_update_moves_and_the_factor_never_rises_after_the_warm_up() -> None:
    for kind in ("cosine", "wsd", "constant"):
        schedule = Schedule(num_steps=50, kind=kind, warmup_steps=5)
        factors = [schedule.factor(step) for step in range(50)]
        assert all(0 < factor <= 1 for factor in factors)
        assert factors[5:] == sorted(factors[5:], reverse=True)


def test_a_wsd_run_can_be_extended_from_before_its_decay() -> None:
    short = Schedule(num_steps=100, warmup_steps=10, decay_fraction=0.2)
    long = Schedule(num_steps=300, warmup_steps=10, decay_fraction=0.2)
    assert short.decay_start == 80
    assert [short.factor(step) for step in range(80)] == [long.factor(step) for step in range(80)]


@pytest.mark.parametrize("changes", [{"num_steps": 0}, {"warmup_steps": 11}, {"decay_fraction": 1.5}, {"final": -0.1}])
def test_impossible_values_are_named(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Schedule(**({"num_steps": 10, "warmup_steps": 2} | changes))  # type: ignore[arg-type]
